// node help_pictures.mjs TASK.json: small graphs around each node, photographed; help_pictures.py starts it.
import path from 'path';
import { Page, read } from './page.mjs';

const CLIP = { type: 'EchoReelLoadReferenceVideo', widgets: { file: 'somersault.mp4' } };
const CHECKPOINT = { type: 'EchoReelLoadCheckpoint', widgets: { checkpoint: 'checkpoint.pt' } };
const EMBEDDED = { type: 'EchoReelLoadCheckpoint', widgets: { checkpoint: 'pixel_actions.safetensors' } };
const ADAPTER = { type: 'EchoReelLoadAdapter', widgets: { adapter: 'wan2.1_1.3B_echoreel.safetensors' } };
const WAN = { type: 'UNETLoader', widgets: { unet_name: 'wan2.1_t2v_1.3B_bf16.safetensors' } };
const WAN_CLIP = { type: 'CLIPLoader', widgets: { clip_name: 'umt5_xxl_fp16.safetensors', type: 'wan' } };
const WAN_VAE = { type: 'VAELoader', widgets: { vae_name: 'wan_2.1_vae.safetensors' } };
const PRISM = { type: 'EchoReelActionPrismEncode', widgets: { caption: 'a big red cat somersaulting on a gray background' }, size: [320, 300] };
const APPLY = { type: 'EchoReelApply' };
const FIRST = { seed: 0, control_after_generate: 'fixed' };
const prompt = (text) => ({ type: 'CLIPTextEncode', widgets: { text }, size: [300, 120] });
const action = (name) => ({ type: 'EchoReelLoadAction', widgets: { file: `${name}_00001_.safetensors` } });

/** Nodes in columns from left to right, links as "node.output > node.input", and whether the graph is run. */
const SCENES = {
  EchoReelLoadCheckpoint: {
    columns: [{ load: CHECKPOINT }, { prompt: prompt('a small blue knight somersaulting on a teal background'), apply: APPLY }],
    links: ['load.CLIP > prompt.clip', 'load.MODEL > apply.model', 'load.ECHOREEL > apply.echoreel'],
  },
  EchoReelLoadAdapter: {
    columns: [{ model: WAN, load: ADAPTER, saved: action('jump') }, { apply: APPLY }],
    links: ['model.MODEL > apply.model', 'load.ECHOREEL > apply.echoreel', 'saved.action > apply.action'],
  },
  EchoReelLoadReferenceVideo: {
    columns: [{ clip: CLIP }, { prism: PRISM }],
    links: ['clip.frames > prism.frames', 'clip.info > prism.info'],
  },
  EchoReelActionPrismEncode: {
    columns: [{ load: CHECKPOINT, clip: CLIP }, { positive: prompt('a small blue knight somersaulting on a teal background'), negative: prompt('') }, { prism: PRISM }],
    links: ['load.ECHOREEL > prism.echoreel', 'load.VAE > prism.vae', 'load.CLIP > prism.clip', 'load.CLIP > positive.clip',
      'load.CLIP > negative.clip', 'clip.frames > prism.frames', 'clip.info > prism.info',
      'positive.CONDITIONING > prism.positive', 'negative.CONDITIONING > prism.negative'],
  },
  EchoReelPreviewAction: {
    columns: [{ load: EMBEDDED, clip: CLIP }, { positive: prompt('a small blue knight somersaulting on a teal background'), negative: prompt(''), prism: PRISM },
      { preview: { type: 'EchoReelPreviewAction', size: [470, 760] } }],
    links: ['load.ECHOREEL > prism.echoreel', 'load.VAE > prism.vae', 'load.CLIP > prism.clip', 'load.CLIP > positive.clip',
      'load.CLIP > negative.clip', 'clip.frames > prism.frames', 'positive.CONDITIONING > prism.positive',
      'negative.CONDITIONING > prism.negative', 'prism.action > preview.action', 'load.ECHOREEL > preview.echoreel',
      'clip.frames > preview.frames'],
    run: true,
  },
  EchoReelCompare: {
    columns: [{ clip: CLIP }, { plain: { type: 'VAEDecode', title: 'VAE Decode, without EchoReel', size: [270, 60] }, acting: { type: 'VAEDecode', title: 'VAE Decode, with EchoReel', size: [270, 60] } },
      { compare: { type: 'EchoReelCompare', size: [300, 260] } }, { video: { type: 'CreateVideo' } }],
    links: ['clip.frames > compare.clips.clip_0', 'plain.IMAGE > compare.clips.clip_1', 'acting.IMAGE > compare.clips.clip_2',
      'compare.images > video.images', 'clip.fps > video.fps'],
  },
  EchoReelCombineActions: {
    columns: [{ first: action('run'), second: action('jump') }, { combine: { type: 'EchoReelCombineActions' } }, { apply: APPLY }],
    links: ['first.action > combine.actions.action_0', 'second.action > combine.actions.action_1', 'combine.action > apply.action'],
  },
  EchoReelApply: {
    columns: [{ load: CHECKPOINT, saved: action('jump') }, { apply: APPLY }, { sampler: { type: 'KSampler' } }],
    links: ['load.MODEL > apply.model', 'load.ECHOREEL > apply.echoreel', 'saved.action > apply.action', 'apply.MODEL > sampler.model'],
  },
  EchoReelSaveAction: {
    columns: [{ prism: PRISM }, { save: { type: 'EchoReelSaveAction', widgets: { filename_prefix: 'somersault' } } }],
    links: ['prism.action > save.action'],
  },
  EchoReelLoadAction: {
    columns: [{ saved: action('jump') }, { apply: APPLY }],
    links: ['saved.action > apply.action'],
  },
  EchoReelBuildReferenceLibrary: {
    columns: [{ build: { type: 'EchoReelBuildReferenceLibrary', widgets: { source: 'input/actions' }, size: [330, 220] } },
      { find: { type: 'EchoReelFindReferenceVideo', widgets: { query: 'swings', ...FIRST }, size: [420, 460] } }],
    links: ['build.library > find.built'],
    run: true,
  },
  EchoReelFindReferenceVideo: {
    columns: [{ find: { type: 'EchoReelFindReferenceVideo', widgets: { query: 'somersault', library: 'actions.sqlite', ...FIRST }, size: [460, 520] } },
      { clip: { type: 'EchoReelLoadReferenceVideo' } }],
    links: ['find.video > clip.video'],
    run: true,
  },
  EchoReelTrain: {
    columns: [{ model: WAN, vae: WAN_VAE, clip: WAN_CLIP },
      { train: { type: 'EchoReelTrain', widgets: { data: 'actions', name: 'wan_actions' } } },
      { save: { type: 'EchoReelSaveAdapter', widgets: { filename_prefix: 'wan_actions' } } }],
    links: ['model.MODEL > train.model', 'vae.VAE > train.vae', 'clip.CLIP > train.clip', 'train.ECHOREEL > save.echoreel'],
  },
};

const task = read(process.argv[2]); // url, chromium, shots, only
const page = await Page.open({ ...task, renderer: 'classic' });

/** Makes the nodes, and wires them up. */
const build = (scene, number) => page.page.evaluate(({ columns, links, number }) => {
  app.graph.clear();
  const nodes = {};
  let id = 100 * number; // the page remembers values and previews by id
  for (const [name, { type, title, widgets = {}, size }] of columns.flatMap(Object.entries)) {
    const node = nodes[name] = LiteGraph.createNode(type);
    node.id = ++id;
    if (title) node.title = title;
    app.graph.add(node);
    for (const [widget, value] of Object.entries(widgets)) {
      const found = node.widgets.find((entry) => entry.name === widget);
      found.value = value;
      found.callback?.(value);
    }
    if (size) node.setSize(size);
  }
  for (const link of links) {
    const [from, output, to, input] = link.match(/(\w+)\.(\w+) > (\w+)\.(.+)/).slice(1);
    const slot = nodes[from].outputs.findIndex((entry) => entry.name === output);
    const target = nodes[to].inputs.findIndex((entry) => entry.name === input);
    if (slot < 0 || target < 0 || !nodes[from].connect(slot, nodes[to], target)) throw Error(`${link} does not connect`);
  }
  window.scene = columns.map((column) => Object.keys(column).map((name) => nodes[name]));
}, { ...scene, number });

/** Lays the columns out in the upper left, clear of the page's bars; returns the rectangle they fill. */
const layOut = () => page.page.evaluate(() => {
  const [left, top, gap, title] = [110, 200, 60, 30];
  let x = left, bottom = 0;
  for (const column of window.scene) {
    let y = top;
    for (const node of column) {
      node.pos = [x, y];
      y += node.size[1] + title + 35;
    }
    bottom = Math.max(bottom, y - title - 35);
    x += Math.max(...column.map((node) => node.size[0])) + gap;
  }
  app.canvas.deselectAll();
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [0, 0];
  app.canvas.setDirty(true, true);
  return { x: left - 20, y: top - title - 30, width: x - gap - left + 40, height: bottom - top + title + 50 };
});

try {
  for (const [number, [name, scene]] of Object.entries(SCENES).entries()) {
    if (task.only.length && !task.only.includes(name)) continue;
    await build(scene, number + 1);
    await page.settle();
    if (scene.run) await page.run(name);
    await page.settle();
    await layOut();
    await page.settle();
    const clip = await layOut(); // previews have given their nodes another height by now
    await page.page.mouse.move(1850, 1050);
    await page.settle();
    await page.page.screenshot({ path: path.join(task.shots, `${name}.png`), clip });
  }
} finally {
  await page.close();
}
if (page.problems.length) throw Error(page.problems.join('\n'));
