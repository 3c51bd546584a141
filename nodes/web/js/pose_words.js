// The editor's words in the language of the page, from the pack's locales/; English where there are none.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

async function load() {
  try {
    const language = app.extensionManager.setting.get("Comfy.Locale");
    return (await api.getCustomNodesI18n())[language]?.RePoseDM?.editor ?? {};
  } catch {
    return {};  // a page that asks for no translations yet
  }
}

const words = await load();

/** An English word or sentence in the user's language. */
export const say = (english) => (Object.hasOwn(words, english) ? words[english] : english);
