// The whole clip as a line: a span to drag or to move by keys, and a tick for each frame taken.
import { say } from '../words.js';
import { Overview } from './overview.js';
import { moved, spanOf, widgetsOf } from './span.js';

const PARTS = { whole: 'moveSpan', from: 'startSpan', to: 'endSpan' };
const FRAME_KEYS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
const SECOND_KEYS = { PageUp: 1, PageDown: -1 };

const clock = (seconds) => seconds.toFixed(2);

function make(name, attributes = {}) {
  const element = document.createElement('div');
  element.className = `echoreel-${name}`;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/**
 * begin, change and end are called around everything that is one step to undo; change with the values for the widgets
 * start and duration that have to change.
 */
export class Timeline {
  #span = { from: 0, to: 0 };
  #length = 0;
  #rate = 0;
  #hold = null; // what is being dragged, or moved by a key held down

  constructor({ begin, change, end }) {
    Object.assign(this, { begin, change, end });
    this.element = make('timeline');
    this.track = make('track');
    this.ticks = make('ticks');
    this.taken = make('taken');
    this.text = make('span-text');
    this.takenText = make('taken-text');
    this.handles = Object.entries(PARTS).map(([part, name]) => {
      const label = say(name);
      const handle = make(`span-${part}`, { role: 'slider', 'aria-label': label, title: `${label}. ${say('keys')}` });
      handle.addEventListener('pointerdown', (event) => this.#grab(event, part));
      handle.addEventListener('pointermove', (event) => this.#drag(event));
      for (const type of ['pointerup', 'pointercancel', 'lostpointercapture']) {
        handle.addEventListener(type, () => this.release());
      }
      handle.addEventListener('keydown', (event) => this.#key(event, part));
      for (const type of ['keyup', 'blur']) handle.addEventListener(type, () => this.#dragged || this.release());
      return { part, handle };
    });
    this.overview = new Overview();
    this.track.append(this.overview.element, this.taken, this.ticks, ...this.handles.map(({ handle }) => handle));
    this.element.append(this.track, this.takenText, this.text);
    this.show(null);
  }

  /** clip: {length, rate}, or null where it is not known; values: of the widgets. */
  show(clip, values) {
    this.#length = clip?.length ?? 0;
    this.#rate = clip?.rate || 25;
    if (clip) this.#span = spanOf(values, clip.length);
    else this.release();
    this.element.classList.toggle('echoreel-off', !clip);
    for (const { handle } of this.handles) handle.tabIndex = clip ? 0 : -1;
    this.#draw();
  }

  /** times: of the frames taken. */
  mark(times) {
    const places = [...new Set(times)];
    const [from, to] = [places[0], Math.max(Math.min(places.at(-1) + 1 / this.#rate, this.#span.to), places.at(-1))];
    const path = places.map((time) => `M${(1000 * time / this.#length).toFixed(2)} 0v1`).join('');
    this.ticks.innerHTML = this.#length ? '<svg viewBox="0 0 1000 1" preserveAspectRatio="none"><path/></svg>' : '';
    this.ticks.querySelector('path')?.setAttribute('d', path);
    this.taken.style.setProperty('--from', this.#length ? from / this.#length : 0);
    this.taken.style.setProperty('--to', this.#length ? to / this.#length : 0);
    this.takenText.textContent = say(places.length > 1 ? 'taken' : 'takenOne', { count: places.length, from: clock(from), to: clock(to) });
  }

  /** Whatever is held is let go. */
  release() {
    if (!this.#hold) return;
    this.#hold = null;
    this.end();
  }

  get #dragged() {
    return this.#hold?.x !== undefined;
  }

  #draw() {
    const { from, to } = this.#span;
    const length = this.#length;
    this.track.style.setProperty('--from', length ? from / length : 0);
    this.track.style.setProperty('--to', length ? to / length : 0);
    const words = say('span', { from: clock(from), to: clock(to), length: clock(length) });
    this.text.textContent = length ? words : '';
    if (!length) this.takenText.textContent = '';
    for (const { part, handle } of this.handles) {
      handle.setAttribute('aria-valuemin', 0);
      handle.setAttribute('aria-valuemax', length);
      handle.setAttribute('aria-valuenow', part === 'to' ? to : from);
      handle.setAttribute('aria-valuetext', words);
    }
  }

  #move(span, part, seconds) {
    const least = Math.min(1 / this.#rate, this.#length);
    this.#span = moved(span, part, seconds, this.#length, least);
    this.change(widgetsOf(this.#span, part, this.#length));
    this.#draw();
  }

  #take(hold) {
    if (!this.#hold) this.begin();
    this.#hold = hold;
  }

  #grab(event, part) {
    if (event.button !== 0 || !this.#length) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    this.#take({ part, span: this.#span, x: event.clientX, seconds: 0 });
  }

  #drag(event) {
    if (!this.#dragged) return;
    const hold = this.#hold;
    const perPixel = this.#length / this.track.getBoundingClientRect().width; // as the canvas is zoomed
    hold.seconds += (event.clientX - hold.x) * perPixel * (event.shiftKey ? 0.1 : 1);
    hold.x = event.clientX;
    this.#move(hold.span, hold.part, hold.seconds);
  }

  #key(event, part) {
    if (!this.#length || this.#dragged || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = part === 'to' ? this.#span.to : this.#span.from;
    let seconds;
    if (event.key in FRAME_KEYS) { // to a whole frame, so that the widgets' rounding does not add up
      seconds = (Math.round(at * this.#rate) + FRAME_KEYS[event.key]) / this.#rate - at;
    } else if (event.key in SECOND_KEYS) {
      seconds = SECOND_KEYS[event.key];
    } else if (event.key === 'Home' || event.key === 'End') {
      seconds = event.key === 'Home' ? -this.#length : this.#length;
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation(); // from the canvas
    this.#take({ part });
    this.#move(this.#span, part, seconds);
  }
}
