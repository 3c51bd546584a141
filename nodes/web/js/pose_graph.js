// Where a node is in the graph, and what feeds it, through subgraphs and reroutes.

import { app } from "../../../scripts/app.js";

const rootOf = () => app.rootGraph ?? app.graph;

/** The node whose inside a graph is, as { node, graph }; null for the outermost graph. */
function hostOf(graph, within = rootOf(), seen = new Set()) {
  if (!within || seen.has(within)) return null;
  seen.add(within);
  for (const node of within.nodes ?? []) {
    if (!node.subgraph) continue;
    const found = node.subgraph === graph ? { node, graph: within } : hostOf(graph, node.subgraph, seen);
    if (found) return found;
  }
  return null;
}

/** What a node is called in a prompt: "7", or "3:7" inside of the subgraph that node 3 is. */
export function executionId(node) {
  const path = [];
  for (let at = { node, graph: node.graph }; at; at = at.graph === rootOf() ? null : hostOf(at.graph)) path.unshift(at.node.id);
  return path.join(":");
}

/** The node of an execution id; null or undefined where there is none. */
export function nodeOf(id) {
  let graph = rootOf(), node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part));  // graphs in API format name nodes by words
    graph = node?.subgraph;
  }
  return node;
}

/** What a node has shown in the last run; of Load Image, what it shows now. */
export function outputsOf(node) {
  const { graph, id } = node;
  const inside = graph && graph !== rootOf();
  return app.nodeOutputs?.[inside ? `${graph.id}:${id}` : id] ?? {};
}

const indexOf = (node, name) => node.inputs?.findIndex((input) => input.name === name) ?? -1;

/** Is something connected to an input? */
export const isLinked = (node, name) => node.graph != null && node.inputs?.[indexOf(node, name)]?.link != null;

/** The node that feeds an input, and from which output: { node, slot }; null where that is unknown. */
export function originOf(node, name) {
  return node.graph ? follow(node.graph, node.inputs?.[indexOf(node, name)]?.link, 100) : null;
}

function follow(graph, linkId, steps) {
  const link = linkId == null || !steps ? null : graph.getLink?.(linkId) ?? graph.links?.[linkId];
  if (!link) return null;
  const node = graph.getNodeById(link.origin_id);
  if (!node) {  // it comes into the subgraph from outside
    const host = hostOf(graph);
    return host && follow(host.graph, host.node.inputs?.[link.origin_slot]?.link, steps - 1);
  }
  if (node.subgraph) {
    const [inner] = node.subgraph.outputNode?.slots?.[link.origin_slot]?.linkIds ?? [];
    return follow(node.subgraph, inner, steps - 1);
  }
  if (node.type === "Reroute") return follow(graph, node.inputs?.[0]?.link, steps - 1);
  return { node, slot: link.origin_slot };
}
