// What a node said below its widgets goes when it runs again: the page keeps it until the node says something else.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const OURS = "RePoseDM";
const NOTE = "$$node-text-preview";

/** The node that is called so in a prompt: "7", or "3:7" inside of the subgraph that node 3 is. */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph, node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part));  // graphs in API format name nodes by words
    graph = node?.subgraph;
  }
  return node;
}

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
