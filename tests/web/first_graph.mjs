// node first_graph.mjs TASK.json: nodes found by what people type, connected, and a graph whose clip is gone, in one
// renderer. Writes to the task's "report": {problems, found, states, missing}: found is, for each query, the types listed
// by the search; states are what the first Load Reference Video holds and says of the adapter its frames go to.
import fs from 'fs';
import { Page, read } from './page.mjs';

const task = read(process.argv[2]); // url, renderer, chromium, queries, checkpoint, template, lost, clip, shots, report
const page = await Page.open(task);
const { page: tab } = page;
const report = { problems: page.problems, found: {}, states: {} };

async function state(name) {
  await page.settle();
  await tab.waitForFunction(() => !document.querySelector('.echoreel-fit[aria-busy=true]'));
  report.states[name] = await tab.evaluate(() => {
    const node = app.graph.nodes.find((node) => node.type === 'EchoReelLoadReferenceVideo');
    const value = (name) => node.widgets.find((widget) => widget.name === name).value;
    const line = node.widgets.find((widget) => widget.name === 'filmstrip').element.querySelector('.echoreel-fit');
    return {
      values: ['frame_count', 'width', 'height'].map(value),
      says: line.matches('.echoreel-off') ? '' : line.querySelector('span').textContent,
      button: !line.matches('.echoreel-off') && !line.querySelector('button').hidden,
    };
  });
}

/** Calls `change` with nodes found by a part of their type, as the page holds them. */
const on = (change, given) => tab.evaluate(({ change, given }) => {
  const node = (type) => app.graph.nodes.find((node) => node.type.endsWith(type));
  const set = (type, name, value) => {
    const widget = node(type).widgets.find((widget) => widget.name === name);
    widget.value = value;
    widget.callback?.(value, app.canvas, node(type));
  };
  new Function('node', 'set', 'given', change)(node, set, given);
  app.extensionManager.workflow.activeWorkflow.changeTracker.checkState(); // as the page does after a click
}, { change, given });

/** Types a query into the node search; returns whether each node that is listed is one of the pack's. */
async function search(query) {
  await tab.getByRole('combobox').first().fill(query);
  await tab.waitForTimeout(400); // it waits for the typing to end
  return (await tab.locator('[data-testid=result-item]').allInnerTexts()).map((text) => text.includes('EchoReel'));
}

try {
  await tab.evaluate(() => app.graph.clear());
  await tab.mouse.dblclick(900, 600);
  for (const query of task.queries) report.found[query] = await search(query);
  await search('reference video');
  await tab.keyboard.press('Enter');
  await tab.getByRole('combobox', { name: 'Add a node...' }).waitFor({ state: 'detached' });
  await tab.mouse.click(900, 300); // the node hangs on the pointer until then
  await tab.waitForFunction(() => app.graph.nodes.length === 1);

  await tab.evaluate(() => {
    app.graph.nodes[0].pos = [500, 100];
    [['LoadCheckpoint', 50], ['PlaceReference', 950], ['ActionPrismEncode', 1400]].forEach(([type, x]) => {
      const node = LiteGraph.createNode(`EchoReel${type}`);
      node.pos = [x, 100];
      app.graph.add(node);
    });
    app.graph.add(LiteGraph.createNode('Reroute'));
    app.graph.nodes.at(-1).pos = [850, 20];
  });
  await state('fresh');
  await on('node("LoadReferenceVideo").connect(0, node("Reroute"), 0); node("Reroute").connect(0, node("PlaceReference"), 0); node("PlaceReference").connect(0, node("ActionPrismEncode"), "frames")');
  await state('no adapter');
  await on('node("LoadCheckpoint").connect(3, node("ActionPrismEncode"), "echoreel")');
  await state('connected');
  await on('set("LoadReferenceVideo", "file", "zigzag [echoreel]")');
  await page.shot('adapter frames, fits');
  await on('set("LoadCheckpoint", "checkpoint", given)', task.checkpoint);
  await state('another adapter');
  await on('set("LoadReferenceVideo", "frame_count", 24)');
  await state('chosen');
  await page.shot('adapter frames, differs');
  await on('set("LoadCheckpoint", "checkpoint", "Pixel Actions (comes with EchoReel)")');
  await state('chosen, another adapter');
  await tab.locator('.echoreel-fit button').click();
  await state('taken');

  await page.drop(read(task.template), 'template');
  await state('template');
  await page.shot('adapter frames, template');
  await tab.evaluate(() => { app.graph.nodes.find((node) => node.subgraph).mode = 2; });
  await on('set("LoadReferenceVideo", "frame_count", 7)');
  await state('muted');

  // a graph from somebody else, without the clip: what the node says, and that another clip puts everything right
  await page.dropOnCanvas(task.lost, 2);
  const wrong = tab.locator('.echoreel-wrong p');
  report.missing = await wrong.textContent();
  await page.shot('a missing clip');
  await page.dropFile(task.clip, 0);
  await wrong.waitFor({ state: 'detached' });
  await page.run('with another clip in place of the missing one');
} catch (error) {
  page.problems.push(`stopped: ${error.stack.slice(0, 800)}`);
} finally {
  await page.close();
}
fs.writeFileSync(task.report, JSON.stringify(report));
