// Plays the frames taken, and nothing else, at their own rate: whatever the clip's format, there is a picture of them.
import { say } from '../words.js';
import { showFrame } from './sprite.js';

const PLAY = 'M4 2.5v11l9-5.5z', PAUSE = 'M4 2.5h3v11H4zm5 0h3v11H9z';

export class Player {
  #strip = null;
  #at = 0;
  #timer;

  /** changed: called with the number of the frame on show, from 0. */
  constructor({ changed }) {
    this.changed = changed;
    this.element = document.createElement('div');
    this.element.className = 'echoreel-player';
    this.picture = document.createElement('i');
    this.picture.className = 'echoreel-frame';
    this.button = document.createElement('button');
    this.button.innerHTML = '<svg viewBox="0 0 16 16"><path/></svg>';
    this.count = document.createElement('span');
    this.message = document.createElement('p');
    this.message.setAttribute('role', 'status');
    this.element.append(this.picture, this.button, this.count, this.message);
    for (const target of [this.picture, this.button]) target.addEventListener('click', () => this.toggle());
    this.button.addEventListener('keydown', (event) => event.stopPropagation()); // from the canvas
    this.pause();
  }

  /** A sentence in place of the frames, or below the one on show; '' takes it away. */
  say(sentence) {
    this.message.textContent = sentence;
  }

  /** strip: the answer of the route, or null. Goes on playing if it did. */
  show(strip) {
    const playing = this.playing;
    this.pause();
    this.#strip = strip;
    this.element.classList.toggle('echoreel-empty', !strip);
    if (!strip) return;
    this.#draw(Math.min(this.#at, strip.times.length - 1));
    if (playing) this.toggle();
  }

  get playing() {
    return this.#timer !== undefined;
  }

  toggle() {
    if (this.playing || !this.#strip) {
      this.pause();
      return;
    }
    const { fps, times } = this.#strip;
    this.#timer = setInterval(() => this.#draw((this.#at + 1) % times.length), 1000 / fps);
    this.#label(say('pause'), PAUSE);
  }

  pause() {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#label(say('play'), PLAY);
  }

  /** Stands still at a frame. */
  seek(index) {
    this.pause();
    this.#draw(index);
  }

  #draw(index) {
    const { times } = this.#strip;
    this.#at = index;
    showFrame(this.picture, index, this.#strip);
    this.count.textContent = `${index + 1} / ${times.length} · ${times[index].toFixed(2)} s`;
    this.changed(index);
  }

  #label(words, path) {
    this.button.title = words;
    this.button.setAttribute('aria-label', words);
    this.button.querySelector('path').setAttribute('d', path);
  }
}
