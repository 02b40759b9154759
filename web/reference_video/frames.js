// The frames taken, in rows: as large as all of them fit, each with the time it is shown at.
import { say } from '../words.js';
import { showFrame } from './sprite.js';

const LABEL = 13; // pixels below a frame
const GAP = 3;
const LEAST = 28; // narrower, its time does not fit: then the rows scroll

/** Columns and width of `count` frames of an aspect (width over height) that fill a box best. */
export function fit(count, aspect, width, height) {
  let best = { columns: 1, cell: 0 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const wide = (width - GAP * (columns - 1)) / columns;
    const high = (height - GAP * (rows - 1)) / rows - LABEL;
    const cell = Math.min(wide, high * aspect);
    if (cell > best.cell) best = { columns, cell };
  }
  if (best.cell >= LEAST) return best;
  const columns = Math.max(Math.floor((width + GAP) / (LEAST + GAP)), 1);
  return { columns, cell: (width - GAP * (columns - 1)) / columns };
}

export class Frames {
  #strip = null;
  #drawn = '';

  /** chosen: called with the number of the frame that was clicked, from 0. */
  constructor({ chosen }) {
    this.chosen = chosen;
    this.element = document.createElement('div');
    this.element.className = 'echoreel-frames';
    this.element.dataset.captureWheel = 'true'; // once it has the focus, Nodes 2.0 lets it scroll
    this.list = document.createElement('ol');
    this.element.append(this.list);
    this.resized = new ResizeObserver(() => this.#arrange());
  }

  watch() {
    this.resized.observe(this.element);
  }

  stop() {
    this.resized.disconnect();
  }

  /** strip: the answer of the route. Frames that only repeat the one before them are dimmed. */
  show(strip) {
    const { times, aspect } = strip;
    this.#strip = { count: times.length, aspect };
    this.list.replaceChildren(...times.map((time, index) => {
      const item = document.createElement('li');
      const frame = document.createElement('i');
      const repeats = time === times[index - 1];
      frame.className = 'echoreel-frame';
      showFrame(frame, index, strip);
      item.append(frame, time.toFixed(2));
      item.classList.toggle('echoreel-repeats', repeats);
      item.title = say(repeats ? 'frameAgain' : 'frame', { number: index + 1, time: time.toFixed(3) });
      item.addEventListener('click', () => this.chosen(index));
      return item;
    }));
    this.#drawn = '';
    this.#arrange();
  }

  /** Marks the frame that the player shows. */
  mark(index) {
    this.list.querySelector('.echoreel-current')?.classList.remove('echoreel-current');
    this.list.children[index]?.classList.add('echoreel-current');
  }

  get scrolls() {
    return this.element.scrollHeight > this.element.clientHeight + 1;
  }

  #arrange() {
    const { clientWidth, clientHeight } = this.element;
    const size = `${clientWidth} ${clientHeight}`;
    if (!this.#strip || !clientWidth || size === this.#drawn) return;
    this.#drawn = size;
    const { columns, cell } = fit(this.#strip.count, this.#strip.aspect, clientWidth, clientHeight);
    this.list.style.gridTemplateColumns = `repeat(${columns}, ${Math.floor(cell * 10) / 10}px)`;
    this.element.tabIndex = this.scrolls ? 0 : -1;
  }
}
