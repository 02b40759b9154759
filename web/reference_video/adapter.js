// Which adapter reads the frames of a node: along the links to Action Prism Encode, and from there back to the node
// that loads it. A way is followed through reroutes, bypassed nodes, Place Reference and subgraphs.
import { app } from '../../../scripts/app.js';

const ENCODE = 'EchoReelActionPrismEncode';
const LOADERS = { EchoReelLoadAdapter: 'adapter', EchoReelLoadCheckpoint: 'checkpoint' }; // and the widget that names it
const PASSED_ON = ['Reroute', 'EchoReelPlaceReference']; // as many frames of the same size
const MUTED = 2, BYPASSED = 4;

const passes = (node) => PASSED_ON.includes(node.type) || node.mode === BYPASSED;
const carries = (type) => (slot) => slot.type === type || slot.type === '*';

/** Nodes that stand for a subgraph. */
const holders = (graph) => [app.rootGraph, ...app.rootGraph.subgraphs?.values() ?? []]
  .flatMap(({ nodes }) => nodes.filter((node) => node.subgraph === graph));

/** The subgraph nodes that a graph lies in, outermost first; where it is used twice, those of its first use. */
function pathTo(graph) {
  const [holder] = holders(graph);
  return holder ? [...pathTo(holder.graph), holder] : [];
}

/** The inputs that links end at: {node, name, within}. */
function* ends(graph, links, within, seen = new Set()) {
  for (const id of links ?? []) {
    const link = graph.getLink(id);
    if (!link || seen.has(link)) continue;
    seen.add(link);
    const node = graph.getNodeById(link.target_id);
    if (!node) { // it leaves a subgraph
      const holder = within.at(-1);
      if (holder) yield* ends(holder.graph, holder.outputs[link.target_slot]?.links, within.slice(0, -1), seen);
    } else if (node.mode === MUTED) {
      continue;
    } else if (node.subgraph && !passes(node)) {
      yield* ends(node.subgraph, node.subgraph.inputs[link.target_slot]?.linkIds, [...within, node], seen);
    } else if (passes(node)) {
      for (const output of node.outputs.filter(carries('IMAGE'))) yield* ends(graph, output.links, within, seen);
    } else {
      yield { node, name: node.inputs[link.target_slot]?.name, within };
    }
  }
}

/** The node that a link comes from: {node, within}; null where there is none. */
function origin(graph, id, within) {
  const link = id != null && graph.getLink(id);
  if (!link) return null;
  const node = graph.getNodeById(link.origin_id);
  if (!node) {
    const holder = within.at(-1);
    return holder ? origin(holder.graph, holder.inputs[link.origin_slot]?.link, within.slice(0, -1)) : null;
  }
  if (passes(node)) return origin(graph, node.inputs.find(carries('ECHOREEL'))?.link, within);
  if (!node.subgraph) return { node, within };
  return origin(node.subgraph, node.subgraph.outputs[link.origin_slot]?.linkIds[0], [...within, node]);
}

/** What a widget says; undefined where another node decides on it. */
function valueOf(node, name, within) {
  const input = node.inputs?.find((slot) => slot.widget?.name === name && slot.link != null);
  if (!input) return node.widgets?.find((widget) => widget.name === name)?.value;
  const link = node.graph.getLink(input.link), holder = within.at(-1);
  if (!holder || node.graph.getNodeById(link.origin_id)) return undefined;
  return valueOf(holder, holder.inputs[link.origin_slot]?.widget?.name, within.slice(0, -1)); // set from outside
}

/** {adapter: file} or {checkpoint: file} as the node that loads it calls it; null where no adapter takes the frames. */
export function adapterOf(node) {
  for (const end of ends(node.graph, node.outputs[0].links, pathTo(node.graph))) {
    if (end.node.type !== ENCODE || end.name !== 'frames') continue;
    const input = end.node.inputs.find(({ name }) => name === 'echoreel');
    const from = origin(end.node.graph, input?.link, end.within);
    const widget = from && LOADERS[from.node.type];
    const file = widget && valueOf(from.node, widget, from.within);
    if (file) return { [widget]: file };
  }
  return null;
}
