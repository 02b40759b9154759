// Load Reference Video on the canvas: a timeline to set the span on, and the frames that will be taken. All that is
// kept is in the node's own widgets; the player and the upload are the host's.
import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';
import { follow } from './follow.js';
import { Frames } from './reference_video/frames.js';
import { Timeline } from './reference_video/timeline.js';

const NODE = 'EchoReelLoadReferenceVideo';
const ASKED = ['file', 'start', 'duration', 'frame_count', 'sampling', 'every_nth', 'target_fps', 'width', 'height', 'crop'];
const HEIGHT = 176; // as in style.css
const MARGIN = 10; // around widgets on the canvas
const PAUSE = 200; // ms without a change before the frames are asked for
let count = 0; // of nodes made

class ReferenceVideo {
  #node;
  #asked = ''; // values shown or on their way
  #clip = null; // {file, length, rate}
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
    this.frames = new Frames();
    this.element = document.createElement('div');
    this.element.className = 'echoreel-reference';
    this.element.append(this.timeline.element, this.frames.element);
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
    for (const event of ['onConfigure', 'onAdded', 'onConnectionsChange']) follow(node, event, () => this.refresh());
    follow(node, 'onRemoved', () => this.stop());
  }

  /** Shows what the widgets say now; `again` even if it is the same. */
  refresh(again = false) {
    if (!this.#node.graph) return;
    this.frames.watch();
    const values = Object.fromEntries(ASKED.map((name) => [name, this.#widget(name)?.value]));
    const asked = this.#elsewhere() ? '' : new URLSearchParams(values).toString();
    if (this.#clip?.file !== values.file || !asked) this.#clip = null;
    this.timeline.show(this.#clip, values);
    if (asked && asked === this.#asked && !again) return;

    this.#cancel();
    this.#asked = asked;
    if (!asked) {
      this.frames.say(`${this.#elsewhere()} comes from another node: the frames are chosen when the graph runs.`);
    } else if (!values.file) {
      this.#asked = '';
      this.frames.say('Choose a video, or drop one here, to see the frames that will be taken.');
    } else {
      this.frames.fade();
      this.#timer = setTimeout(() => this.#ask(asked, values), PAUSE);
    }
  }

  /** Nothing is left running; `refresh` takes it up again. */
  stop() {
    this.#cancel();
    this.#asked = '';
    this.timeline.release();
    this.frames.stop();
  }

  #cancel() {
    clearTimeout(this.#timer);
    this.#request?.abort();
  }

  async #ask(asked, values) {
    const { signal } = (this.#request = new AbortController());
    try {
      const reply = await api.fetchApi(`/echoreel/filmstrip?${asked}`, { signal });
      const strip = await reply.json();
      if (signal.aborted) return;
      if (strip.error) {
        this.frames.say(strip.error);
        return;
      }
      this.#clip = { file: values.file, length: strip.length, rate: strip.rate };
      this.timeline.show(this.#clip, values);
      this.timeline.mark(strip.times);
      this.frames.show(strip);
    } catch {
      if (signal.aborted) return;
      this.#asked = ''; // so that the next change tries again
      this.frames.say('The frames cannot be shown: ComfyUI does not answer.');
    }
  }

  #widget(name) {
    return this.#node.widgets.find((widget) => widget.name === name);
  }

  /** The input that another node decides on, as it is called on the node; else undefined. */
  #elsewhere() {
    const input = this.#node.inputs?.find(({ name, link }) => link != null && (name === 'video' || ASKED.includes(name)));
    return input && `“${input.localized_name ?? input.name}”`;
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
  nodeCreated(node) {
    if (node.comfyClass === NODE) new ReferenceVideo(node);
  },
});
