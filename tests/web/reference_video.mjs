// node reference_video.mjs TASK.json: works on Load Reference Video as a user would, in one renderer of the page.
// Writes to the task's "report": {problems, states}, a state being what the nodes show and say at one moment.
import fs from 'fs';
import path from 'path';
import { Page, read } from './page.mjs';

const TYPE = 'EchoReelLoadReferenceVideo';
const ROUTE = '**/echoreel/filmstrip*';
const task = read(process.argv[2]); // url, renderer, chromium, clip, other, prores, phone, …, shots, saved, report
const page = await Page.open(task);
const { page: tab } = page;
const report = { problems: page.problems, states: {} };

const empty = { version: 0.4, last_node_id: 1, last_link_id: 0, links: [], groups: [], config: {}, extra: {}, nodes: [{
  id: 1, type: TYPE, pos: [100, 100], size: [420, 640], flags: {}, order: 0, mode: 0, inputs: [], outputs: [],
  properties: { 'Node name for S&R': TYPE }, widgets_values: ['', 0, 0, 16, 'every nth frame', 4, 8, 80, 48, 'stretch', 'image'],
}] };

/** What each node's widgets hold, those that are saved, and what is drawn below them, once it is drawn. */
async function state(name) {
  await page.settle();
  await tab.waitForFunction(() => !document.querySelector('.echoreel-old'));
  report.states[name] = await tab.evaluate((type) => app.graph.nodes.filter((node) => node.type === type).map((node) => {
    const element = node.widgets.find((widget) => widget.name === 'filmstrip').element;
    const handle = element.querySelector('[aria-label="Start of the span"]');
    return {
      widgets: Object.fromEntries(node.widgets.filter((widget) => widget.serialize !== false)
        .map((widget) => [widget.name, widget.value])),
      times: [...element.querySelectorAll('li')].map((item) => item.textContent),
      repeats: element.querySelectorAll('li.echoreel-repeats').length,
      picture: element.style.getPropertyValue('--picture').slice(5, -2),
      says: element.classList.contains('echoreel-says') ? element.querySelector('p').textContent : '',
      warns: element.classList.contains('echoreel-says') ? '' : element.querySelector('p').textContent,
      taken: element.querySelector('.echoreel-taken-text').textContent,
      span: element.querySelector('.echoreel-span-text').textContent,
      focusable: handle.tabIndex === 0,
      thumbnails: element.querySelectorAll('.echoreel-overview .echoreel-frame').length,
      ticks: (element.querySelector('.echoreel-ticks path')?.getAttribute('d').match(/M/g) ?? []).length,
      connected: element.isConnected,
    };
  }), TYPE);
  const drawn = await tab.locator('.echoreel-reference').count();
  page.check(drawn === report.states[name].length, `${name}: ${drawn} timelines for ${report.states[name].length} nodes`);
}

/** Where the timeline and the frames lie on their node, in units of the canvas. */
const place = () => tab.evaluate((type) => {
  const node = app.graph.nodes.find((node) => node.type === type);
  const element = node.widgets.find((widget) => widget.name === 'filmstrip').element;
  const box = element.getBoundingClientRect(), scale = app.canvas.ds.scale;
  const [x, y] = app.canvasPosToClientPos(node.pos);
  return [box.x - x, box.y - y, box.width, box.height].map((value) => Math.round(value / scale));
}, TYPE);

const handle = (label, index = 0) => tab.getByRole('slider', { name: label }).nth(index);

/** Drags a handle by a part of the whole line. */
async function drag(label, part, { index = 0, leave = false } = {}) {
  const box = await handle(label, index).boundingBox();
  const track = await tab.locator('.echoreel-track').nth(index).boundingBox();
  const x = box.x + box.width / 2, y = box.y + box.height / 2;
  await tab.mouse.move(x, y);
  await tab.mouse.down();
  for (let step = 1; step <= 5; step++) await tab.mouse.move(x + part * track.width * step / 5, y + 2 * step);
  if (!leave) await tab.mouse.up();
}

async function keys(label, ...pressed) {
  await handle(label).focus();
  for (const key of pressed) await tab.keyboard.press(key);
}

/** Sets a widget as typing into it does. */
const enter = (name, value) => tab.evaluate(({ type, name, value }) => {
  const node = app.graph.nodes.find((node) => node.type === type);
  const widget = node.widgets.find((widget) => widget.name === name);
  widget.value = value;
  widget.callback(value, app.canvas, node);
}, { type: TYPE, name, value });

/** A video from another node, and one that makes the graph run. */
const connect = (file) => tab.evaluate(({ type, file }) => {
  const node = app.graph.nodes.find((node) => node.type === type);
  const [other, preview] = ['LoadVideo', 'PreviewImage'].map((type) => LiteGraph.createNode(type));
  other.pos = [1100, 100];
  preview.pos = [1100, 500];
  app.graph.add(other);
  app.graph.add(preview);
  other.widgets[0].value = file;
  other.connect(0, node, node.inputs.findIndex((input) => input.name === 'video'));
  node.connect(0, preview, 0);
}, { type: TYPE, file });

/** Drags files from the disk over a part of the first node and drops them there, as the browser itself does. */
async function dropOn(selector, ...files) {
  const [x, y] = await tab.evaluate(({ type, selector }) => {
    const node = app.graph.nodes.find((node) => node.type === type);
    if (!selector) return app.canvasPosToClientPos([node.pos[0] + 200, node.pos[1] - 15]); // its title
    const element = node.widgets.find((widget) => widget.name === 'filmstrip').element.querySelector(selector);
    const box = element.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  }, { type: TYPE, selector });
  await page.drag(files, x, y);
}

/** Presses play; returns the numbers of the frames that the player then shows, and of the one marked in the rows. */
async function play() {
  await tab.locator('.echoreel-player button').first().click();
  const shown = await tab.evaluate(() => new Promise((done) => {
    const seen = [];
    const note = () => {
      const number = Number.parseInt(document.querySelector('.echoreel-player span').textContent, 10);
      const marked = [...document.querySelectorAll('.echoreel-frames li')].findIndex((item) => item.matches('.echoreel-current')) + 1;
      if (seen.at(-1)?.[0] !== number) seen.push([number, marked]);
      if (seen.length > 17) done(seen);
      else requestAnimationFrame(note);
    };
    note();
  }));
  await tab.locator('.echoreel-player button').first().click();
  return shown;
}

const fileIs = (name) => tab.waitForFunction((name) => app.graph.nodes[0].widgets[0].value === name, name);

/** Turns the wheel over the timeline; returns whether that zooms the canvas. */
async function wheel() {
  const scale = () => tab.evaluate(() => app.canvas.ds.scale);
  const before = await scale();
  await tab.locator('.echoreel-span-text').first().hover();
  await tab.mouse.wheel(0, 120);
  await page.settle();
  return await scale() < before;
}

const canvasKeys = async (key) => {
  await tab.evaluate(() => document.activeElement?.blur());
  await tab.locator('#graph-canvas').focus();
  await tab.keyboard.press(key);
  await page.settle();
};

const select = (all = false) => tab.evaluate((all) => {
  app.canvas.deselectAll();
  for (const node of all ? app.graph.nodes : [app.graph.nodes[0]]) app.canvas.selectNode(node, true);
}, all);

const remaining = () => tab.evaluate(() => document.querySelectorAll('[class*=echoreel-]').length);

try {
  await page.drop(empty, 'reference');
  await state('no clip');
  await dropOn('.echoreel-player', task.gif);
  await fileIs(path.basename(task.gif));
  await state('a GIF on the player');
  await dropOn('.echoreel-frames', ...task.pictures);
  await fileIs(`${task.sequence}/`);
  await state('pictures on the frames');
  await dropOn('', task.folder);
  await fileIs(`${path.basename(task.folder)}/`);
  await state('a folder on the title');
  await dropOn('.echoreel-track', task.text);
  await tab.locator('.echoreel-says').waitFor();
  await state('a text on the timeline');
  await dropOn('.echoreel-track', task.prores);
  await fileIs(path.basename(task.prores));
  await state('ProRes on the timeline');
  report.played = await play();
  await page.shot('reference video, ProRes');
  await dropOn('.echoreel-player', task.phone);
  await fileIs(path.basename(task.phone));
  await state('a phone clip on the player');
  await tab.locator('.echoreel-whole').click();
  report.whole = await (await tab.waitForFunction(() => {
    const video = document.querySelector('.echoreel-player video'), said = document.querySelector('.echoreel-player p');
    return video?.videoWidth > 0 ? `${video.videoWidth} x ${video.videoHeight}` : !video && said.textContent;
  })).jsonValue();
  await page.shot('reference video, of a phone');
  page.check(await tab.evaluate(() => app.graph.nodes.length) === 1, 'what is dropped on the node makes another one');
  await page.upload(TYPE, task.clip);
  await page.shot('reference video, uploaded');
  await state('uploaded');
  await tab.locator('.echoreel-whole').click();
  await tab.waitForFunction(() => document.querySelector('.echoreel-player video')?.videoWidth === 320);
  await tab.locator('.echoreel-whole').click();
  page.check(await tab.locator('.echoreel-player video').count() === 0, 'the whole clip does not go away again');
  const before = await place();

  await drag('Start of the span', 0.25);
  await state('start dragged');
  await drag('End of the span', -0.25);
  await state('end dragged');
  await page.shot('reference video, span dragged');
  await drag('Move the span', -0.125);
  await state('span dragged');
  await keys('Start of the span', 'ArrowRight', 'ArrowRight');
  await state('start by keys');
  await keys('Move the span', 'PageUp');
  await state('span by keys');
  await keys('End of the span', 'End');
  await state('end by keys');
  page.check(JSON.stringify(await place()) === JSON.stringify(before), `the frames have moved on the node from ${before} to ${await place()}`);

  await enter('start', -1);
  await state('from the end');
  await keys('End of the span', 'ArrowLeft');
  await state('end by key, from the end');
  await enter('frame_count', 200);
  await state('many frames');
  await page.shot('reference video, many frames');
  await enter('frame_count', 16);
  await enter('start', 99);
  await state('past the end');
  page.check(JSON.stringify(await place()) === JSON.stringify(before), 'a sentence in place of the frames moves them on the node');
  await page.shot('reference video, past the end');
  await enter('duration', 0);
  await keys('Start of the span', 'Home');
  await state('back at the beginning');

  await connect('');
  await state('video connected');
  await tab.evaluate(() => {
    for (const type of ['LoadVideo', 'PreviewImage']) app.graph.remove(app.graph.nodes.find((node) => node.type === type));
  });
  await state('video disconnected');

  await drag('End of the span', -0.5);
  await state('before undo');
  await canvasKeys('Control+z');
  await state('undone');
  await canvasKeys('Control+y');
  await state('redone');

  await select();
  await canvasKeys('Control+c');
  await canvasKeys('Control+v');
  await tab.waitForFunction(() => app.graph.nodes.length === 2);
  await state('pasted');
  await tab.evaluate(() => { app.graph.nodes[1].pos = [app.graph.nodes[0].pos[0] + 460, app.graph.nodes[0].pos[1]]; });
  await page.shot('reference video, pasted');

  await page.dropFile(task.other, 0);
  await tab.waitForFunction((name) => app.graph.nodes[0].widgets[0].value === name, path.basename(task.other));
  await state('another clip dropped');

  const name = `reference in ${task.renderer}`;
  await page.saveAs(name);
  await page.load();
  await page.drop(read(path.join(task.saved, `${name}.json`)), 'reference');
  await state('reopened');

  page.check(await wheel(), 'the wheel over the timeline does not zoom the canvas');

  // Taken away while a clip is read: the request ends, and none follows.
  let ended = 0, asked = 0;
  const isOurs = (request) => request.url().includes('/echoreel/filmstrip');
  tab.on('requestfailed', (request) => { ended += isOurs(request); });
  tab.on('request', (request) => { asked += isOurs(request); });
  await tab.route(ROUTE, () => {}); // no answer comes
  await drag('Start of the span', 0.1);
  await tab.waitForTimeout(1000);
  await drag('Start of the span', 0.1, { index: 1, leave: true });
  await select(true);
  await canvasKeys('Delete');
  await tab.mouse.up();
  await tab.waitForFunction(() => app.graph.nodes.length === 0);
  await tab.waitForTimeout(1000); // longer than a node waits before it asks
  page.check(asked > 0 && ended === asked, `of ${asked} requests ${ended} ended with their node`);
  await tab.unroute(ROUTE);
  page.check(await remaining() === 0, `${await remaining()} elements are left over`);
  await canvasKeys('Control+z');
  await state('removed and undone');
  await page.shot('reference video, removed and undone');

  await connect(path.basename(task.other));
  await page.run('a connected video');
  await state('video connected, ran');
  await page.shot('reference video, of a connected video');
  await enter('start', 0.5);
  page.check((await tab.locator('.echoreel-old p').textContent()).startsWith('Run the graph again'),
    'of other frames than those of the run it is not said that they are old');
} catch (error) {
  page.problems.push(`stopped: ${error.stack.slice(0, 800)}`);
  await tab.screenshot({ path: path.join(task.shots, `stopped ${task.renderer}.png`) });
} finally {
  await page.close();
}
fs.writeFileSync(task.report, JSON.stringify(report));
