// What is around the canvas of a Pose Editor: toolbar, panels, filmstrip, messages, the large window.

import { ACTIONS, actionOf, keysText } from "./pose_actions.js";
import { make } from "./pose_elements.js";
import { copyPeople, cutPeople, loadFile, pastePeople } from "./pose_files.js";
import { Filmstrip } from "./pose_filmstrip.js";
import { fillPanel } from "./pose_panels.js";
import { say } from "./pose_words.js";

const CLIPBOARD = { copy: copyPeople, cut: cutPeople, paste: pastePeople };

function addStyle() {
  if (document.getElementById("reposedm-editor-style")) return;
  document.head.append(make("link", { id: "reposedm-editor-style", rel: "stylesheet",
    href: new URL("../pose_editor.css", import.meta.url).href }));
}

export class Controls {
  /** @param widget the PoseWidget that they are for */
  constructor(widget) {
    Object.assign(this, { widget, panel: null, dialog: null, buttons: new Map() });
    addStyle();
    // Its empty title keeps the page's tooltip off the picture; the Help button has it.
    this.canvas = make("canvas", { tabIndex: 0, title: "", testid: "canvas" });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `Pose editor. ${widget.help} Press ? for keys.`);
    // The page takes Ctrl+Z from everything but text fields: with this it leaves it to the focused editor.
    this.canvas.type = "textarea";
    this.panelBox = make("div", { className: "panel", hidden: true, testid: "panel" });
    this.film = new Filmstrip(widget);
    this.note = make("div", { className: "note", hidden: true, testid: "note" });
    this.note.setAttribute("role", "alert");
    this.status = make("output", { testid: "status" });
    this.body = make("div", { className: "body" },
      make("div", { className: "stage" }, this.canvas, this.panelBox), this.film.element, this.bar(1), this.bar(2),
      this.note, this.status);
    this.element = make("div", { className: "reposedm-editor" }, this.body);
    this.element.dataset.testid = "pose-editor";
    this.element.poseEditor = widget;  // for scripts of the page, and the tests
    this.element.dataset.captureWheel = "true";  // Nodes 2.0 keeps the wheel from others, also when they have the focus
    this.listen();
  }

  bar(place) {
    return make("div", { className: "bar" }, ...ACTIONS.filter((action) => action.place === place)
      .map((action) => this.button(action)));
  }

  button(action) {
    const keys = action.keys.length ? ` (${keysText(action.keys)})` : "";
    const title = action.help[0].toUpperCase() + action.help.slice(1) + keys;
    const button = make("button", { type: "button", textContent: action.label, title, testid: action.id });
    button.addEventListener("click", (event) => {
      this.perform(action);
      // So that the next key is the editor's; who came by the keyboard stays on the button.
      if (event.detail && !this.panel) this.focus();
    });
    this.buttons.set(action, button);
    return button;
  }

  perform(action) {
    if (action.enabled && !action.enabled(this.widget)) return;
    this.tell("");
    if (action.panel) this.open(this.panel === action.id ? null : action.id);
    else action.run(this.widget);
  }

  focus() {
    this.canvas.focus({ preventScroll: true });
  }

  listen() {
    this.body.addEventListener("keydown", (event) => {
      if (event.target === this.canvas) return;
      // Keys of a button are not for the graph: Delete would take the node away.
      event.stopPropagation();
      const action = actionOf(event);
      if (action?.id === "escape") event.preventDefault(), this.perform(action), this.focus();
    });
    this.body.addEventListener("dragover", (event) => event.preventDefault());
    this.body.addEventListener("drop", (event) => {
      const file = event.dataTransfer.files[0];
      if (!/\.(jsonl?|txt)$/i.test(file?.name ?? "")) return;  // the page knows what to do with it
      event.preventDefault();
      event.stopPropagation();
      loadFile(this.widget, file);
    });
    this.clipboard = (event) => {
      const focused = document.activeElement;
      if (!focused || !this.body.contains(focused)) return;
      event.preventDefault();
      event.stopImmediatePropagation();  // the page would copy or paste the node
      CLIPBOARD[event.type](this.widget, event);
    };
    // With two fingers, or Ctrl and the wheel, the page zooms the graph: it listens around the node, and hears it first.
    const touches = (event) => this.body.contains(event.target) && event.stopPropagation();
    const wheels = (event) => {
      if (event.target === this.canvas && (event.ctrlKey || event.metaKey)) this.widget.gestures.wheel(event);
    };
    this.outer = [...Object.keys(CLIPBOARD).map((kind) => [kind, this.clipboard]), ["wheel", wheels],
      ...["touchstart", "touchmove", "touchend"].map((kind) => [kind, touches])];
    for (const [kind, listener] of this.outer) {
      document.addEventListener(kind, listener, { capture: true, passive: false });
    }
  }

  /** Shows a panel over the canvas, or none. */
  open(panel) {
    if (panel === this.panel) return;
    this.panel = panel;
    this.panelBox.hidden = !panel;
    this.panelBox.replaceChildren();
    if (panel) fillPanel(this, panel);
    this.update();
  }

  /** What is shown and selected, in a line. */
  say(status) {
    this.status.textContent = this.status.title = status;
  }

  refresh(status) {
    this.say(status);
    this.film.refresh();
    this.update();
  }

  /** Which buttons can be pressed, and which are. */
  update() {
    for (const [action, button] of this.buttons) {
      if (action.enabled) button.disabled = !action.enabled(this.widget);
      const pressed = action.panel ? this.panel === action.id : action.pressed?.(this.widget);
      if (pressed !== undefined) button.setAttribute("aria-pressed", String(pressed));
      if (action.id === "detect") button.textContent = pressed ? say("Cancel") : action.label;
    }
  }

  tell(text, kind) {
    this.note.textContent = say(text);
    this.note.hidden = !text;
    this.note.classList.toggle("good", kind === "good");
  }

  // --- the large window

  get large() {
    return Boolean(this.dialog);
  }

  /** The body moves into a window of its own, and back. */
  toggleLarge() {
    if (this.dialog) return this.dialog.close();
    const dialog = make("dialog", { className: "reposedm-editor large", testid: "dialog" }, this.body);
    this.dialog = dialog;
    this.element.append(make("p", { textContent: say("The pose is being edited in the large window.") }));
    for (const kind of ["keydown", "keyup", "pointerdown", "wheel"]) {
      dialog.addEventListener(kind, (event) => event.stopPropagation());  // not for the graph behind
    }
    dialog.addEventListener("cancel", (event) => event.preventDefault());  // Escape is an action of its own
    dialog.addEventListener("close", () => {
      this.dialog = null;
      this.element.replaceChildren(this.body);
      dialog.remove();
      this.widget.refresh();
    });
    document.body.append(dialog);
    dialog.showModal();
    this.focus();
    this.widget.refresh();
  }

  remove() {
    this.dialog?.close();
    for (const [kind, listener] of this.outer) document.removeEventListener(kind, listener, { capture: true });
  }
}
