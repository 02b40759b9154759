// The frames taken, in rows: as large as all of them fit, each with the time it is shown at.

const LABEL = 13; // pixels below a frame
const GAP = 3;
const LEAST = 34; // narrower, its time does not fit: then the rows scroll

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

  constructor() {
    this.element = document.createElement('div');
    this.element.className = 'echoreel-frames';
    this.element.dataset.captureWheel = 'true'; // once it has the focus, Nodes 2.0 lets it scroll
    this.list = document.createElement('ol');
    this.message = document.createElement('p');
    this.message.setAttribute('role', 'status');
    this.element.append(this.list, this.message);
    this.resized = new ResizeObserver(() => this.#arrange());
  }

  watch() {
    this.resized.observe(this.element);
  }

  stop() {
    this.resized.disconnect();
  }

  /** strip: the answer of the route. Frames that only repeat the last one are dimmed. */
  show({ times, repeated, columns, aspect, picture }) {
    this.#strip = { count: times.length, aspect };
    const rows = Math.ceil(times.length / columns);
    const place = (index, count) => (count > 1 ? `${100 * index / (count - 1)}%` : '0');
    this.list.style.setProperty('--picture', `url("${picture}")`);
    this.list.style.setProperty('--size', `${100 * columns}% ${100 * rows}%`);
    this.list.style.setProperty('--aspect', aspect);
    this.list.replaceChildren(...times.map((time, index) => {
      const item = document.createElement('li');
      const frame = document.createElement('i');
      const repeats = index >= times.length - repeated;
      frame.style.backgroundPosition = `${place(index % columns, columns)} ${place(Math.floor(index / columns), rows)}`;
      item.append(frame, time.toFixed(2));
      item.classList.toggle('echoreel-repeats', repeats);
      item.title = `Frame ${index + 1}: ${repeats ? 'the last one again, the span is too short' : `shown at ${time.toFixed(3)} s`}`;
      return item;
    }));
    this.#drawn = '';
    this.#arrange();
    this.say('');
  }

  /** A sentence in place of the frames; '' shows them. */
  say(sentence) {
    this.message.textContent = sentence;
    this.element.classList.toggle('echoreel-says', sentence !== '');
    this.element.classList.remove('echoreel-old');
  }

  /** The frames shown are no longer those that will be taken. */
  fade() {
    this.element.classList.add('echoreel-old');
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
