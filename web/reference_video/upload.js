// Clips from the artist's disk: by the button, dropped anywhere on the node, or pasted on it. What counts as a clip is
// the pack's own list, which comes with the node's definition.
import { app } from '../../../scripts/app.js';
import { api } from '../../../scripts/api.js';
import { say } from '../words.js';

const ASSET = 'application/x-comfy-asset-info'; // how the page's own lists of files tell what is dragged from them
const AT_ONCE = 4; // uploads of a sequence

/** A file as the widget calls it. */
const called = ({ filename, subfolder, type }) =>
  `${subfolder ? `${subfolder}/` : ''}${filename}${type && type !== 'input' ? ` [${type}]` : ''}`;

/** All files that an entry of a drop stands for; of a folder those directly in it. */
async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader(), files = [];
  for (;;) { // a hundred at a time
    const entries = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!entries.length) return files;
    for (const inner of entries.filter(({ isFile }) => isFile)) files.push(...await filesOf(inner));
  }
}

export class Upload {
  #node;

  /** choose: takes the name of what was uploaded; say: a sentence about it, and whether something is wrong; done: nothing else to say. */
  constructor(node, element, { choose, say: tell, done }) {
    this.#node = node;
    Object.assign(this, { choose, tell, done });
    const told = node.constructor.nodeData.input.required.file[1];
    this.videos = told.video_suffixes;
    this.pictures = told.picture_suffixes;

    this.input = Object.assign(document.createElement('input'), { type: 'file', multiple: true });
    this.input.accept = [...this.videos, ...this.pictures].join();
    this.input.addEventListener('change', () => {
      const files = [...this.input.files];
      this.input.value = '';
      this.take(files);
    });
    // of the name and value that saved graphs have from the host's own button
    node.addWidget('button', 'upload', 'image', () => this.input.click(), { serialize: false }).label = say('upload');

    node.onDragOver = (event) => [...event.dataTransfer?.types ?? []].some((type) => ['Files', 'text/uri-list', ASSET].includes(type));
    node.onDragDrop = (event) => this.#drop(event.dataTransfer);
    node.pasteFiles = (files) => {
      this.take([...files]);
      return true;
    };
    // On the canvas an element lies over the node, where the host does not see what is dragged.
    element.addEventListener('dragover', (event) => {
      if (!node.onDragOver(event)) return;
      event.preventDefault();
      app.dragOverNode = node;
      element.classList.add('echoreel-drop');
    });
    element.addEventListener('dragleave', () => {
      if (app.dragOverNode === node) app.dragOverNode = null;
      element.classList.remove('echoreel-drop');
    });
    element.addEventListener('drop', () => element.classList.remove('echoreel-drop'));
  }

  /** Uploads a clip, or several pictures as an image sequence, and chooses it. folder: the name of the sequence. */
  async take(files, folder) {
    const has = (suffixes) => ({ name }) => suffixes.some((suffix) => name.toLowerCase().endsWith(suffix));
    const pictures = files.filter(has(this.pictures));
    const clip = files.find(has(this.videos.filter((suffix) => !this.pictures.includes(suffix)))) ?? pictures[0];
    if (!clip) {
      if (files.length) this.tell(say('noClip', { name: files[0].name, kinds: this.videos.join(', ') }), true);
      return;
    }
    const sequence = pictures.length > 1 && clip === pictures[0];
    const name = sequence ? this.#unused(folder ?? (clip.name.replace(/[\d_.\- ]*\.\w+$/, '') || 'sequence')) : undefined;
    this.#node.isUploading = true;
    try {
      if (!sequence) {
        this.choose(called(await this.#send(clip)));
        return;
      }
      for (let at = 0; at < pictures.length; at += AT_ONCE) {
        await Promise.all(pictures.slice(at, at + AT_ONCE).map((picture) => this.#send(picture, name)));
      }
      this.choose(`${name}/`);
    } catch (error) {
      this.tell(say('notUploaded', { name: clip.name, why: error.message }), true);
    } finally {
      this.#node.isUploading = false;
    }
  }

  async #send(file, subfolder) {
    this.tell(say('uploading', { name: file.name }));
    const body = new FormData();
    body.append('image', file);
    if (subfolder) {
      body.append('subfolder', subfolder);
      body.append('overwrite', 'true');
    }
    const reply = await api.fetchApi('/upload/image', { method: 'POST', body });
    if (reply.status !== 200) throw new Error(`${reply.status} ${reply.statusText}`);
    const { name, subfolder: where, type } = await reply.json();
    return { filename: name, subfolder: where, type };
  }

  /** A name for a folder that is not there yet, as far as the page knows. */
  #unused(name) {
    const { values } = this.#node.widgets.find((widget) => widget.name === 'file').options;
    let unused = name;
    for (let number = 2; values.includes(`${unused}/`); number++) unused = `${name} ${number}`;
    return unused;
  }

  /** True where something was made of it. All of the transfer is read before the first wait: afterwards it is empty. */
  async #drop(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = [...transfer.files];
    const asset = transfer.getData(ASSET);
    const address = URL.parse(transfer.getData('text/uri-list'), location.href);
    const folder = entries.length === 1 && entries[0].isDirectory ? entries[0] : null;
    if (folder) await this.take(await filesOf(folder), folder.name);
    else if (files.length) await this.take(files);
    else if (asset) this.choose(called(JSON.parse(asset)));
    else if (address?.origin === location.origin && /\/view$/.test(address.pathname)) {
      this.choose(called(Object.fromEntries(address.searchParams)));
    } else return false;
    return true;
  }
}
