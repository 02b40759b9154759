// Pictures of the whole clip behind the line, each from the time on that it is shown at; none where there are none.
import { api } from '../../../scripts/api.js';
import { setPicture, showFrame } from './sprite.js';

const LEAST = 4, MOST = 32; // pictures

export class Overview {
  #file = null;
  #request;

  constructor() {
    this.element = document.createElement('div');
    this.element.className = 'echoreel-overview';
  }

  /** Shows a clip of so many seconds, or none; `again` if the file may be another one of the same name. */
  async show(file, length, again = false) {
    if (file === this.#file && !again) return;
    this.#file = file;
    this.#request?.abort();
    this.element.replaceChildren();
    if (!file) return;
    const { clientWidth, clientHeight } = this.element;
    const count = Math.min(Math.max(Math.round(clientWidth / clientHeight), LEAST), MOST) || LEAST;
    const { signal } = (this.#request = new AbortController());
    try {
      const reply = await api.fetchApi(`/echoreel/overview?${new URLSearchParams({ file, count })}`, { signal });
      const strip = await reply.json();
      if (strip.times?.length) this.#draw(strip, length);
    } catch {
      if (!signal.aborted) this.#file = null; // without them the line is as good; asked for again with the next change
    }
  }

  #draw(strip, length) {
    setPicture(this.element, strip);
    this.element.replaceChildren(...strip.times.map((time, index) => {
      const place = document.createElement('div'), picture = document.createElement('i');
      const from = index ? time / length : 0;
      place.style.left = `${100 * from}%`;
      place.style.width = `${100 * ((strip.times[index + 1] ?? length) / length - from)}%`;
      picture.className = 'echoreel-frame';
      showFrame(picture, index, strip);
      place.append(picture);
      return place;
    }));
  }
}
