// Whether the frames are those that the connected adapter was made for: a line that says so, or what they would be.
import { api } from '../../../scripts/api.js';
import { say } from '../words.js';
import { adapterOf } from './adapter.js';

const WIDGETS = { frames: 'frame_count', width: 'width', height: 'height' }; // by what the route calls them
const FRESH = { frame_count: 16, width: 256, height: 256 }; // the node's defaults

export class Fit {
  #node;
  #asked = '';
  #takes = null; // values for the widgets
  #own = FRESH; // what nobody has chosen; null in a graph that was saved

  /** values: what the widgets say now; set: changes them, as one step to undo. */
  constructor(node, { values, set }) {
    this.#node = node;
    Object.assign(this, { values, set });
    this.element = document.createElement('div');
    this.element.className = 'echoreel-fit';
    this.text = document.createElement('span');
    this.button = document.createElement('button');
    this.button.textContent = say('takeThese');
    this.button.title = say('otherFrames');
    this.button.addEventListener('click', () => this.set(this.#takes));
    this.element.append(this.text, this.button);
    this.look = this.look.bind(this);
  }

  /** Saved values are the artist's own. */
  saved() {
    this.#own = null;
  }

  watch() {
    api.addEventListener('graphChanged', this.look);
    this.look();
  }

  stop() {
    api.removeEventListener('graphChanged', this.look);
  }

  /** Takes up what is connected now. */
  async look() {
    if (!this.#node.graph) return;
    const asked = new URLSearchParams(adapterOf(this.#node) ?? {}).toString();
    if (asked !== this.#asked) {
      this.#asked = asked;
      this.#takes = null;
      this.element.ariaBusy = 'true';
      const told = asked ? await this.#ask(asked) : {};
      if (asked !== this.#asked) return; // another one by now
      this.element.ariaBusy = 'false';
      const known = Object.entries(WIDGETS).filter(([name]) => told[name]);
      this.#takes = known.length ? Object.fromEntries(known.map(([name, widget]) => [widget, told[name]])) : null;
      this.#follow();
    }
    this.#show();
  }

  async #ask(asked) {
    try {
      const reply = await api.fetchApi(`/echoreel/takes?${asked}`);
      return reply.ok ? await reply.json() : {};
    } catch {
      return {};
    }
  }

  /** Values that nobody has chosen become the adapter's. */
  #follow() {
    const values = this.values();
    if (!this.#takes || !this.#own || !this.#free()) return;
    if (Object.entries(this.#own).some(([name, value]) => values[name] !== value)) return;
    this.#own = { ...this.#own, ...this.#takes };
    this.set(this.#takes);
  }

  /** Whether the node's own widgets decide. */
  #free() {
    return !this.#node.inputs.some(({ widget, link }) => link != null && Object.keys(FRESH).includes(widget?.name));
  }

  #show() {
    const values = this.values();
    const fits = this.#takes && Object.entries(this.#takes).every(([name, value]) => values[name] === value);
    const { frame_count: count, width, height } = this.#takes ?? {};
    const shown = this.#takes && this.#free() && !(fits && !width);
    this.element.classList.toggle('echoreel-off', !shown);
    if (!shown) return;
    this.text.textContent = say(fits ? 'fits' : width ? 'takes' : 'takesCount', { count, width, height });
    this.button.hidden = fits;
    this.element.classList.toggle('echoreel-differs', !fits);
  }
}
