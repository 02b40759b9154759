// The page of a running ComfyUI in a real browser: opening, running and saving workflows as a user does.
import { chromium } from 'playwright-core';
import fs from 'fs';
import os from 'os';
import path from 'path';

// What the host's own page logs. An error while a pack's script loads carries no address, so everything else counts.
const HOST_NOISE = /^(Failed to load resource|ComfyApp graph accessed before)|violates the (following|document's) Content Security Policy/;
const ERROR_BOXES = '[data-testid=error-overlay],[role=dialog],.p-dialog,.p-toast-message';
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];

export class Page {
  problems = [];

  /** url: of the server; renderer: 'classic' or 'nodes2'; shots: folder for screenshots. */
  static async open({ url, renderer, shots, chromium: executablePath }) {
    const settings = {
      'Comfy.TutorialCompleted': true, 'Comfy.VueNodes.Enabled': renderer === 'nodes2', 'Comfy.Minimap.Visible': false,
      'Comfy.RightSidePanel.IsOpen': false, 'Comfy.Workflow.Persist': false, 'Comfy.Locale': 'en',
      'Comfy.Validation.Workflows': true, 'Comfy.Workflow.WorkflowTabsPosition': 'Topbar',
    }; // kept on the server, so they have to be there before the page opens
    const headers = { 'content-type': 'application/json' };
    await fetch(`${url}/settings`, { method: 'POST', headers, body: JSON.stringify(settings) });
    const self = Object.assign(new Page(), { url, renderer, shots });
    self.browser = await chromium.launch({ executablePath, headless: true, args: FLAGS });
    const context = await self.browser.newContext({ viewport: { width: 1900, height: 1100 }, locale: 'en-US' });
    self.page = await context.newPage();
    self.devtools = await context.newCDPSession(self.page);
    self.page.setDefaultTimeout(120000);
    self.page.on('console', (m) => m.type() === 'error' && self.#log(m.text(), m.location().url));
    self.page.on('pageerror', (e) => self.#log(`${e.message} ${e.stack?.slice(0, 600)}`, ''));
    await self.page.route((to) => to.origin !== new URL(url).origin, (route) => route.abort()); // nothing leaves
    await self.load();
    return self;
  }

  async load() {
    await this.page.goto(this.url, { waitUntil: 'domcontentloaded' });
    await this.page.waitForFunction(() => window.app?.vueAppReady, null, { timeout: 120000 });
    await this.page.locator('#graph-canvas').waitFor();
    await this.page.locator('[data-testid=queue-button]').first().waitFor();
    await this.settle();
    await this.page.evaluate(() => {
      window.runs = [];
      for (const type of ['executed', 'execution_success', 'execution_error', 'execution_interrupted']) {
        app.api.addEventListener(type, ({ detail }) => runs.push({ type, output: detail?.output, message: detail?.exception_message }));
      }
    });
  }

  #log(text, from) {
    if (!HOST_NOISE.test(text) || from.includes('/extensions/comfyui-echoreel/')) {
      this.problems.push(`logged: ${text.slice(0, 600)} ${from}`);
    }
  }

  check(holds, what) {
    if (!holds) this.problems.push(what);
  }

  /** The page has drawn what it was told to: two frames, and a moment for what it does by timer. */
  settle = () => this.page.evaluate(() => new Promise((done) =>
    setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 800)));

  errors = () => this.page.evaluate((boxes) => [...document.querySelectorAll(boxes)]
    .filter((box) => box.getBoundingClientRect().width > 0)
    .map((box) => box.innerText.replace(/\s+/g, ' ').slice(0, 300)), ERROR_BOXES);

  /** Drags a file, or several, from outside the browser onto a place of the page. */
  async drag(files, x, y) {
    const data = { items: [], files: [files].flat(), dragOperationsMask: 1 };
    for (const type of ['dragEnter', 'dragOver', 'drop']) {
      await this.devtools.send('Input.dispatchDragEvent', { type, x, y, data });
    }
  }

  /** Drops a workflow on the canvas. */
  async drop(workflow, name) {
    const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'echoreel-')), `${name}.json`);
    fs.writeFileSync(file, JSON.stringify(workflow));
    await this.dropOnCanvas(file, workflow.nodes.length);
    fs.rmSync(path.dirname(file), { recursive: true });
    const unknown = await this.page.evaluate(() => app.graph.nodes.map((node) => node.type)
      .filter((type) => !LiteGraph.registered_node_types[type]));
    this.check(unknown.length === 0, `${name}: unknown nodes ${unknown}`);
    this.check((await this.errors()).length === 0, `${name} opens with ${JSON.stringify(await this.errors())}`);
  }

  /** Drops a file that holds a workflow of so many nodes on the canvas, away from the nodes that are there. */
  async dropOnCanvas(file, count) {
    await this.page.evaluate(() => app.graph.clear());
    await this.drag(file, 900, 550);
    await this.page.waitForFunction((count) => app.graph.nodes.length === count, count);
    await this.settle();
  }

  /** Presses Run and waits for the end. Returns what the output nodes showed. */
  async run(name) {
    await this.page.evaluate(() => { runs.length = 0; });
    await this.page.locator('button[data-testid=queue-button], [data-testid=queue-button] button').first().click();
    await this.page.waitForFunction((boxes) => runs.some((run) => run.type.startsWith('execution_')) ||
      document.querySelector(boxes), ERROR_BOXES, { timeout: 180000 });
    await this.settle();
    const runs = await this.page.evaluate(() => window.runs);
    const failures = runs.filter((run) => /error|interrupted/.test(run.type)).map((run) => run.message);
    this.check(runs.some((run) => run.type === 'execution_success'), `${name}: Run does not finish: ${failures}`);
    this.check((await this.errors()).length === 0, `${name}: after Run ${JSON.stringify(await this.errors())}`);
    const broken = await this.page.locator('[data-testid=error-loading-video],[data-testid=error-loading-image]').count();
    this.check(broken === 0, `${name}: ${broken} broken previews`);
    return runs.filter((run) => run.type === 'executed').map((run) => run.output);
  }

  /** Videos that play on the page: [width, height, seconds]. */
  videos = () => this.page.evaluate(async () => {
    const videos = [...document.querySelectorAll('video')];
    await Promise.all(videos.map((video) => video.readyState >= 1 || new Promise((done) => {
      video.addEventListener('loadedmetadata', done);
      video.addEventListener('error', done);
      setTimeout(done, 5000);
    })));
    return videos.map((video) => [video.videoWidth, video.videoHeight, video.duration]);
  });

  /** Uploads a file with the button of the n-th node of a type; returns what its file widget then says. */
  async upload(type, file, index = 0) {
    const chooser = this.page.waitForEvent('filechooser');
    await this.page.evaluate(({ type, index }) => {
      const node = app.graph.nodes.filter((node) => node.type === type)[index];
      node.widgets.find((widget) => widget.name === 'upload').callback();
    }, { type, index });
    await (await chooser).setFiles(file);
    const name = path.basename(file);
    await this.page.waitForFunction(({ type, index, name }) => app.graph.nodes.filter((node) => node.type === type)[index]
      .widgets.find((widget) => widget.name === 'file').value === name, { type, index, name });
    await this.settle();
  }

  /** Drops a file on the n-th node. */
  async dropFile(file, index) {
    const [x, y] = await this.page.evaluate((index) => {
      const { pos } = app.graph.nodes[index];
      return app.canvasPosToClientPos([pos[0] + 60, pos[1] + 10]);
    }, index);
    await this.drag(file, x, y);
  }

  serialized = () => this.page.evaluate(() => app.graph.serialize());

  prompt = () => this.page.evaluate(async () => (await app.graphToPrompt()).output);

  /** Fits the whole graph into the window and takes a picture. */
  async shot(name) {
    await this.page.evaluate(() => {
      const boxes = [...app.graph.groups.map((group) => [...group.pos, ...group.size]),
        ...app.graph.nodes.map((node) => [node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30])];
      const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
      const right = Math.max(...boxes.map((b) => b[0] + b[2])), bottom = Math.max(...boxes.map((b) => b[1] + b[3]));
      const scale = Math.min(1780 / (right - left), 960 / (bottom - top));
      app.canvas.ds.scale = scale;
      app.canvas.ds.offset = [-left + 80 / scale, -top + 80 / scale];
      app.canvas.setDirty(true, true);
    });
    await this.settle();
    await this.page.screenshot({ path: path.join(this.shots, `${name} ${this.renderer}.png`) });
  }

  /** Where nodes lie and how large the page drew them: {type, pos, size}, heights with the title. */
  boxes = () => this.page.evaluate(() => app.graph.nodes.map((node) => {
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const scale = app.canvas.ds.scale;
    const drawn = element?.getBoundingClientRect();
    const height = drawn ? drawn.height / scale : node.size[1] + 30;
    return { title: node.title, left: node.pos[0], top: node.pos[1] - 30, width: drawn ? drawn.width / scale : node.size[0], height };
  }));

  /** Links that run across the title of a node that they do not join: "a → b over c". */
  crossings = () => this.page.evaluate(() => {
    const steps = [...Array(49).keys()].map((index) => (index + 1) / 50);
    const bezier = (t, a, b, c, d) => (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t ** 2 * c + t ** 3 * d;
    return [...app.graph.links.values()].flatMap((link) => {
      const [from, to] = [app.graph.getNodeById(link.origin_id), app.graph.getNodeById(link.target_id)];
      const [start, end] = [from.getOutputPos(link.origin_slot), to.getInputPos(link.target_slot)];
      const reach = Math.hypot(start[0] - end[0], start[1] - end[1]) / 4; // how far the page draws the curve out
      const points = steps.map((t) => [bezier(t, start[0], start[0] + reach, end[0] - reach, end[0]),
        bezier(t, start[1], start[1], end[1], end[1])]);
      return app.graph.nodes.filter((node) => node !== from && node !== to && points.some(([x, y]) =>
        x > node.pos[0] && x < node.pos[0] + node.size[0] && y > node.pos[1] - 30 && y < node.pos[1]))
        .map((node) => `${from.title} → ${to.title} over ${node.title}`);
    });
  });

  /** Passes a node by, wherever it lies, and returns what would be queued. */
  bypassed = (type) => this.page.evaluate(async (type) => {
    const nodes = [app.graph, ...app.rootGraph.subgraphs.values()].flatMap((graph) => graph.nodes);
    nodes.find((node) => node.type === type).mode = 4;
    return (await app.graphToPrompt()).output;
  }, type);

  /** Unmutes what is muted and chooses the newest saved action. */
  async useSavedAction() {
    await this.page.evaluate(async () => {
      for (const node of app.graph.nodes) node.mode = node.mode === 2 ? 0 : 2;
      await app.refreshComboInNodes();
      const file = app.graph.nodes.find((node) => node.type === 'EchoReelLoadAction').widgets[0];
      file.value = file.options.values.at(-1);
    });
    await this.page.waitForFunction(() => !document.querySelector('.p-toast-message')); // says that it has refreshed
    await this.settle();
  }

  /** Sets widgets by name, in every node of a type and in the subgraphs that expose them: {type: {name: value}}. */
  setWidgets = (values) => this.page.evaluate((values) => {
    const everywhere = Object.assign({}, ...Object.values(values));
    for (const graph of [app.graph, ...app.rootGraph.subgraphs.values()]) {
      for (const node of graph.nodes) {
        const wanted = node.isSubgraphNode?.() ? everywhere : values[node.type] ?? {};
        for (const widget of node.widgets ?? []) if (widget.name in wanted) widget.value = wanted[widget.name];
      }
    }
  }, values);

  /** Moves the first node by its title, loads the page anew, and returns the graph before and after. */
  async reloaded() {
    await this.page.evaluate(() => app.extensionManager.setting.set('Comfy.Workflow.Persist', true));
    const [x, y] = await this.page.evaluate(() => {
      const { pos } = app.graph.nodes[0];
      return app.canvasPosToClientPos([pos[0] + 150, pos[1] - 15]);
    });
    await this.page.mouse.move(x, y);
    await this.page.mouse.down();
    await this.page.mouse.move(x - 20, y - 20, { steps: 4 });
    await this.page.mouse.up();
    await this.settle();
    const before = await this.serialized();
    await this.settle(); // it is kept a moment after the change
    await this.load();
    const after = await this.serialized();
    await this.page.evaluate(() => app.extensionManager.setting.set('Comfy.Workflow.Persist', false));
    return [before, after];
  }

  /** Gives the page another size and colours, fits the graph in as the page does, and takes a picture. */
  async look(name, width, height, palette) {
    await this.page.setViewportSize({ width, height });
    await this.page.evaluate(async (palette) => {
      await app.extensionManager.setting.set('Comfy.ColorPalette', palette);
      await app.extensionManager.command.execute('Comfy.Canvas.FitView');
    }, palette);
    await this.settle();
    await this.page.screenshot({ path: path.join(this.shots, `${name} ${this.renderer}.png`) });
  }

  /** Saves with Ctrl+S under a name; returns the graph as it was. */
  async saveAs(name) {
    const graph = await this.serialized();
    await this.page.locator('#graph-canvas').focus();
    await this.page.keyboard.press('Control+s');
    const answer = this.page.locator('[role=dialog] input');
    await answer.fill(name);
    await answer.press('Enter');
    await answer.waitFor({ state: 'detached' });
    await this.settle();
    return graph;
  }

  /** Opens a shipped workflow from the list of templates, with two clicks. */
  async openTemplate(pack, name) {
    await this.page.locator('button[aria-label=Templates]').click();
    await this.page.locator('[role=dialog]').getByText(pack, { exact: true }).last().click();
    await this.page.locator(`[data-testid="template-workflow-${name}"]`).click();
    await this.page.waitForFunction(() => !document.querySelector('[role=dialog]') &&
      app.graph.nodes.some((node) => node.type.startsWith('EchoReel')));
    await this.settle();
    this.check((await this.errors()).length === 0, `the template ${name} opens with ${JSON.stringify(await this.errors())}`);
  }

  /** Opens the help of a node in the graph; it has to have this heading and show its pictures. */
  async openHelp(type, heading) {
    await this.page.evaluate((type) => app.canvas.selectNode(app.graph.nodes.find((node) => node.type === type)), type);
    await this.page.locator('[data-testid=info-button]').first().dispatchEvent('click'); // bars may lie over it
    const help = this.page.locator('.node-help-content');
    await help.getByRole('heading', { name: heading, exact: true }).first().waitFor();
    await this.settle();
    const pictures = await help.locator('img').evaluateAll((images) => images.map((image) => [image.src, image.naturalWidth]));
    this.check(pictures.length > 0, `the help of ${type} shows no picture`);
    for (const [address, width] of pictures) this.check(width > 0, `the help of ${type}: ${address} is not shown`);
    await this.shot(`help of ${heading}`);
  }

  async close() {
    await this.browser.close();
  }
}

export const read = (file) => JSON.parse(fs.readFileSync(file, 'utf8'));
