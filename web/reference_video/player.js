// Plays the frames taken, and nothing else, at their own rate: whatever the clip's format, there is a picture of them.
// Another button shows the whole clip, to look for the action in it, if the browser can.
import { say } from '../words.js';
import { showFrame } from './sprite.js';

const PLAY = 'M4 2.5v11l9-5.5z', PAUSE = 'M4 2.5h3v11H4zm5 0h3v11H9z';
const WHOLE = 'M2 3h12v10H2zm1.5 1.5v7h9v-7z';
const PICTURES = /\.(gif|webp|a?png)$/i;

export class Player {
  #strip = null;
  #at = 0;
  #timer;
  #address; // of the whole clip
  #whole = null; // the element that shows it

  /** changed: called with the number of the frame on show, from 0. */
  constructor({ changed }) {
    this.changed = changed;
    this.element = document.createElement('div');
    this.element.className = 'echoreel-player';
    this.picture = document.createElement('i');
    this.picture.className = 'echoreel-frame';
    [this.button, this.wholeButton] = [0, 1].map(() => {
      const button = document.createElement('button');
      button.innerHTML = '<svg viewBox="0 0 16 16"><path fill-rule="evenodd"/></svg>';
      button.addEventListener('keydown', (event) => event.stopPropagation()); // from the canvas
      return button;
    });
    this.wholeButton.className = 'echoreel-whole';
    this.wholeButton.addEventListener('click', () => this.#watch());
    this.#label(this.wholeButton, say('whole'), WHOLE);
    this.count = document.createElement('span');
    this.message = document.createElement('p');
    this.message.setAttribute('role', 'status');
    this.element.append(this.picture, this.button, this.wholeButton, this.count, this.message);
    for (const target of [this.picture, this.button]) target.addEventListener('click', () => this.toggle());
    this.of(null);
    this.show(null);
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

  get shows() {
    return this.#strip !== null;
  }

  get playing() {
    return this.#timer !== undefined;
  }

  toggle() {
    this.#close();
    if (this.playing || !this.#strip) {
      this.pause();
      return;
    }
    const { fps, times } = this.#strip;
    this.#timer = setInterval(() => this.#draw((this.#at + 1) % times.length), 1000 / fps);
    this.#label(this.button, say('pause'), PAUSE);
  }

  pause() {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#label(this.button, say('play'), PLAY);
  }

  /** Stands still at a frame. */
  seek(index) {
    this.pause();
    this.#close();
    this.#draw(index);
  }

  #draw(index) {
    const { times } = this.#strip;
    this.#at = index;
    showFrame(this.picture, index, this.#strip);
    this.count.textContent = `${index + 1} / ${times.length} · ${times[index].toFixed(2)} s`;
    this.changed(index);
  }

  #label(button, words, path) {
    button.title = words;
    button.setAttribute('aria-label', words);
    button.querySelector('path').setAttribute('d', path);
  }

  /** The address of the whole clip, or null where it has none. */
  of(address) {
    if (address === this.#address) return;
    this.#address = address;
    this.#close();
    this.wholeButton.hidden = !address;
  }

  #watch() {
    if (this.#whole) {
      this.#close();
      return;
    }
    this.pause();
    const picture = PICTURES.test(new URL(this.#address, location.href).searchParams.get('filename'));
    const whole = (this.#whole = document.createElement(picture ? 'img' : 'video'));
    if (!picture) Object.assign(whole, { controls: true, loop: true, muted: true, autoplay: true });
    const unplayable = () => {
      if (this.#whole !== whole) return;
      this.#close();
      this.say(say('unplayable'));
    };
    whole.addEventListener('error', unplayable);
    // of a phone's HEVC, a browser that lacks the codec plays the sound alone
    whole.addEventListener('loadedmetadata', () => whole.videoWidth || unplayable());
    whole.src = this.#address;
    this.element.insertBefore(whole, this.button);
  }

  #close() {
    this.#whole?.remove();
    this.#whole = null;
  }
}
