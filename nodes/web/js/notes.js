// What a node said below its widgets goes when it runs again: the page keeps it until the node says something else.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { nodeOf } from "./pose_graph.js";

const OURS = "RePoseDM";
const NOTE = "$$node-text-preview";

app.registerExtension({
  name: "reposedm.notes",
  setup() {
    api.addEventListener("executing", ({ detail }) => {
      const node = detail && nodeOf(detail);
      if (!node?.comfyClass?.startsWith(OURS)) return;
      const index = node.widgets?.findIndex(({ name }) => name === NOTE) ?? -1;
      if (index < 0) return;
      node.widgets[index].onRemove?.();
      node.widgets.splice(index, 1);
      node.setDirtyCanvas?.(true);
    });
  },
});
