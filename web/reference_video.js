// Load Reference Video on the canvas: a player of the frames taken, a timeline to set the span on, and the frames. All
// that is kept is in the node's own widgets.
import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';
import { follow } from './follow.js';
import { say } from './words.js';
import { Fit } from './reference_video/fit.js';
import { Frames } from './reference_video/frames.js';
import { Player } from './reference_video/player.js';
import { setPicture } from './reference_video/sprite.js';
import { Timeline } from './reference_video/timeline.js';
import { Upload } from './reference_video/upload.js';

const NODE = 'EchoReelLoadReferenceVideo';
const ASKED = ['file', 'start', 'duration', 'frame_count', 'sampling', 'every_nth', 'target_fps', 'width', 'height', 'crop'];
const HEIGHT = 340; // as in style.css
const MARGIN = 10; // around widgets on the canvas
const PAUSE = 200; // ms without a change before the frames are asked for
let count = 0; // of nodes made

/** Where the host serves a file called so by its widget; null for an image sequence. */
function addressOf(file) {
  const [, path, type] = /^(.*?)(?: \[(input|output|temp)\])?$/s.exec(file);
  if (path.endsWith('/') || path.startsWith('/')) return null;
  const cut = path.lastIndexOf('/');
  const named = { filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(cut, 0)), type: type ?? 'input' };
  return api.apiURL(`/view?${new URLSearchParams(named)}`);
}

class ReferenceVideo {
  #node;
  #asked = ''; // values shown or on their way
  #clip = null; // {file, length, rate}
  #ran = null; // the strip of what the last run took, and what the widgets said
  #timer;
  #request;

  constructor(node) {
    this.#node = node;
    this.timeline = new Timeline({
      // one step to undo, however far it is dragged
      begin: () => app.canvas.emitBeforeChange(),
      change: (values) => Object.entries(values).forEach(([name, value]) => this.#set(name, value)),
      end: () => app.canvas.emitAfterChange(),
    });
    this.frames = new Frames({ chosen: (index) => this.player.seek(index) });
    this.player = new Player({ changed: (index) => this.frames.mark(index) });
    this.fit = new Fit(node, {
      values: () => this.#values(),
      set: (values) => {
        app.canvas.emitBeforeChange();
        Object.entries(values).forEach(([name, value]) => this.#set(name, value));
        app.canvas.emitAfterChange();
      },
    });
    this.element = document.createElement('div');
    this.element.className = 'echoreel-reference';
    this.element.append(this.player.element, this.timeline.element, this.fit.element, this.frames.element);
    this.upload = new Upload(node, this.element, {
      choose: (name) => this.#choose(name),
      say: (sentence, wrong) => this.#say(sentence, wrong),
      done: () => this.refresh(true),
    });
    this.element.addEventListener('wheel', (event) => this.#wheel(event));
    // the middle button moves the canvas, as it does over the host's own text boxes
    this.element.addEventListener('pointerdown', (event) => event.button === 1 && app.canvas.processMouseDown(event));
    this.element.addEventListener('pointermove', (event) => event.buttons & 4 && app.canvas.processMouseMove(event));
    this.element.addEventListener('pointerup', (event) => event.button === 1 && app.canvas.processMouseUp(event));

    // A type of its own: where undo puts a new node in the place of an old one, Nodes 2.0 goes on showing the old node's
    // element for a widget of the same name and type.
    const widget = node.addDOMWidget('filmstrip', `echoreel_filmstrip_${++count}`, this.element, {
      serialize: false, hideOnZoom: false, margin: MARGIN, getMinHeight: () => HEIGHT + 2 * MARGIN,
    });
    widget.serialize = false; // neither in the prompt, above, nor in the workflow
    node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);

    for (const { name } of node.widgets.filter(({ name }) => ASKED.includes(name))) {
      // a file of the same name may be another one
      follow(this.#widget(name), 'callback', () => this.refresh(name === 'file'));
    }
    follow(node, 'onConfigure', () => this.fit.saved());
    for (const event of ['onConfigure', 'onAdded', 'onConnectionsChange']) follow(node, event, () => this.refresh());
    follow(node, 'onExecuted', (output) => this.#executed(output));
    follow(node, 'onRemoved', () => this.stop());
  }

  /** Shows what the widgets say now; `again` even if it is the same. */
  refresh(again = false) {
    if (!this.#node.graph) return;
    this.frames.watch();
    this.fit.watch();
    const values = this.#values();
    if (this.#elsewhere()) {
      this.#showRun(values);
      return;
    }
    const asked = new URLSearchParams(values).toString();
    if (this.#clip?.file !== values.file) {
      this.#clip = null;
      this.timeline.overview.show(null);
    }
    this.timeline.show(this.#clip, values);
    if (asked === this.#asked && !again) return;

    this.#cancel();
    this.#asked = asked;
    if (!values.file) {
      this.#asked = '';
      this.#say(say('choose'));
    } else {
      this.#fade();
      this.#timer = setTimeout(() => this.#ask(asked, values, again), PAUSE);
    }
  }

  /** Nothing is left running; `refresh` takes it up again. */
  stop() {
    this.#cancel();
    this.#asked = '';
    this.timeline.release();
    this.timeline.overview.show(null);
    this.player.pause();
    this.player.of(null);
    this.frames.stop();
    this.fit.stop();
  }

  #values() {
    return Object.fromEntries(ASKED.map((name) => [name, this.#widget(name)?.value]));
  }

  #cancel() {
    clearTimeout(this.#timer);
    this.#request?.abort();
  }

  async #ask(asked, values, again) {
    const { signal } = (this.#request = new AbortController());
    try {
      const reply = await api.fetchApi(`/echoreel/filmstrip?${asked}`, { signal });
      const strip = await reply.json();
      if (signal.aborted) return;
      if (strip.error) {
        this.#say(strip.error, true);
        return;
      }
      this.#clip = { file: values.file, length: strip.length, rate: strip.rate };
      this.player.of(addressOf(values.file));
      this.#show(strip, values);
      this.timeline.overview.show(values.file, strip.length, again);
    } catch {
      if (signal.aborted) return;
      this.#asked = ''; // so that the next change tries again
      this.#say(say('noAnswer'), true);
    }
  }

  /** What a run has taken: the only way to know it where another node decides on it. */
  #executed(output) {
    const told = output?.echoreel_filmstrip?.[0];
    if (!told || !this.#elsewhere()) return;
    this.#ran = JSON.parse(told);
    this.#ran.picture = api.apiURL(this.#ran.picture);
    this.refresh();
  }

  /** Where another node decides on the frames: those of the last run, if there was one. */
  #showRun(values) {
    this.#cancel();
    this.#asked = '';
    this.#clip = null;
    this.timeline.overview.show(null);
    this.player.of(null);
    if (!this.#ran) {
      this.timeline.show(null);
      this.#say(say('elsewhere', { input: this.#elsewhere() }));
      return;
    }
    const linked = this.#node.inputs.filter(({ link }) => link != null).map(({ name }) => name);
    const own = ASKED.filter((name) => !linked.includes(name) && !(name === 'file' && linked.includes('video')));
    this.#show(this.#ran, { ...values, ...Object.fromEntries(linked.map((name) => [name, this.#ran.widgets[name]])) });
    if (own.some((name) => String(values[name]) !== String(this.#ran.widgets[name]))) {
      this.#fade();
      this.player.say(say('changed'));
    }
  }

  #show(strip, values) {
    this.element.classList.remove('echoreel-old', 'echoreel-says', 'echoreel-wrong');
    setPicture(this.element, strip);
    this.timeline.show({ length: strip.length, rate: strip.rate }, values);
    this.timeline.mark(strip.times);
    this.frames.show(strip);
    this.player.show(strip);
    const held = new Set(strip.times).size;
    const twice = held < strip.times.length ? say('twice', { count: held }) : '';
    this.player.say(strip.repeated ? say('repeats', { count: strip.repeated }) : twice);
  }

  /** A sentence in place of the frames; `wrong` if something is. */
  #say(sentence, wrong = false) {
    this.element.classList.toggle('echoreel-wrong', wrong);
    this.player.pause();
    this.player.say(sentence);
    this.element.classList.add('echoreel-says');
    this.element.classList.remove('echoreel-old');
  }

  /** The frames shown are no longer those that will be taken. */
  #fade() {
    if (this.element.matches('.echoreel-says') || !this.player.shows) this.player.say(say('reading'));
    this.element.classList.add('echoreel-old');
  }

  #widget(name) {
    return this.#node.widgets.find((widget) => widget.name === name);
  }

  /** The input that another node decides on, as it is called on the node; else undefined. */
  #elsewhere() {
    const input = this.#node.inputs?.find(({ name, link }) => link != null && (name === 'video' || ASKED.includes(name)));
    return input && (input.localized_name ?? input.name);
  }

  #choose(name) {
    const { values } = this.#widget('file').options;
    if (!values.includes(name)) values.push(name);
    this.#ran = null;
    if (this.#widget('file').value === name) this.refresh(true);
    else this.#set('file', name);
  }

  #set(name, value) {
    const widget = this.#widget(name);
    const before = widget.value;
    if (value === before) return;
    widget.value = value;
    widget.callback?.(value, app.canvas, this.#node);
    this.#node.onWidgetChanged?.(name, value, before, widget);
    app.canvas.setDirty(true);
  }

  /** Over rows that scroll the wheel moves them, else the canvas. */
  #wheel(event) {
    if (this.frames.scrolls && !event.ctrlKey && this.frames.element.contains(event.target)) {
      event.stopPropagation();
      return;
    }
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  }
}

app.registerExtension({
  name: 'EchoReel.LoadReferenceVideo',
  init() {
    const href = new URL('./reference_video/style.css', import.meta.url).href;
    document.head.append(Object.assign(document.createElement('link'), { rel: 'stylesheet', href }));
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    // The host's own upload takes two kinds of video, and its player those that the browser can play.
    if (nodeData.name === NODE) delete nodeData.input.required.upload;
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) new ReferenceVideo(node);
  },
});
