// node combine_actions.mjs TASK.json: connects and disconnects actions as a user would, in one renderer of the page.
// Writes to the task's "report": {problems, states}, a state being what Combine Actions shows and sends at one moment.
import fs from 'fs';
import path from 'path';
import { Page, read } from './page.mjs';

const TYPE = 'EchoReelCombineActions';
const task = read(process.argv[2]); // url, renderer, chromium, saved, shots, report
const page = await Page.open(task);
const { page: tab } = page;
const report = { problems: page.problems, states: {} };

const node = (id, type, pos, outputs, values, inputs = []) => ({
  id, type, pos, size: [320, 60], flags: {}, order: id - 1, mode: 0, inputs, outputs, properties: {}, widgets_values: values,
});
const sources = [1, 2, 3, 4].map((id) => node(id, 'EchoReelLoadAction', [40, 160 * id - 120],
  [{ name: 'action', type: 'ECHOREEL_ACTION', links: [] }], ['']));
const fresh = { version: 0.4, last_node_id: 4, last_link_id: 0, links: [], groups: [], config: {}, extra: {}, nodes: sources };

/** What Combine Actions shows, in order, and what it would send. */
async function state(name) {
  await page.settle();
  report.states[name] = await tab.evaluate(async (type) => {
    const [node] = app.graph.nodes.filter((node) => node.type === type);
    const drawn = document.querySelector(`[data-node-id="${node.id}"]`);
    const { inputs } = (await app.graphToPrompt()).output[node.id];
    return {
      shown: node.widgets.filter((widget) => node.isWidgetVisible(widget)).map((widget) => widget.label ?? widget.name),
      // null where the canvas draws the widgets itself
      drawn: drawn && [...drawn.querySelectorAll('[data-testid=node-widget]')].map((row) => row.innerText.split('\n')[0].trim()),
      sent: inputs,
      sources: node.inputs.filter(({ name }) => name.startsWith('actions.'))
        .map(({ link }) => link == null ? null : Number(app.graph.getLink(link).origin_id)),
      spare: node.size[1] - node.computeSize()[1],
    };
  }, TYPE);
  await page.shot(`combine actions, ${name}`);
}

const connect = async (source, index) => {
  await tab.evaluate(({ type, source, index }) => {
    const [node] = app.graph.nodes.filter((node) => node.type === type);
    const slot = node.inputs.findIndex(({ name }) => name === `actions.action_${index}`);
    app.graph.getNodeById(source).connect(0, node, slot);
  }, { type: TYPE, source, index });
  await page.settle();
};

const set = (values) => tab.evaluate(({ type, values }) => {
  const [node] = app.graph.nodes.filter((node) => node.type === type);
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find((widget) => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
  }
}, { type: TYPE, values });

try {
  await page.drop(fresh, 'combine');
  await tab.evaluate((type) => {
    const node = LiteGraph.createNode(type);
    node.pos = [480, 100];
    app.graph.add(node);
  }, TYPE);
  await state('new');
  for (const index of [0, 1, 2, 3]) await connect(index + 1, index);
  await set({ weight_0: 0.1, weight_1: 0.2, weight_2: 0.3, weight_3: 0.4 });
  await state('four actions');
  await set({ how: 'one after another', crossfade: 0.35 });
  await state('one after another');

  await tab.evaluate((type) => {
    const [node] = app.graph.nodes.filter((node) => node.type === type);
    node.disconnectInput(node.inputs.findIndex(({ name }) => name === 'actions.action_1'));
  }, TYPE);
  await state('the second disconnected');
  await connect(2, 3);
  await state('connected again, last');
  await connect(1, 1);
  await state('another one in place of the second');

  await page.saveAs(`combine in ${task.renderer}`);
  await page.load();
  await page.drop(read(path.join(task.saved, `combine in ${task.renderer}.json`)), 'saved');
  await state('reopened');
  await tab.evaluate((type) => app.graph.remove(app.graph.nodes.find((node) => node.type === type)), TYPE);
  await page.settle();
} catch (error) {
  page.problems.push(`stopped: ${error.stack.slice(0, 800)}`);
} finally {
  await page.close();
}
fs.writeFileSync(task.report, JSON.stringify(report));
