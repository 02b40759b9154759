// Combine Actions on the canvas: a weight for every action that is connected, and a cross-fade where one is made. All
// that is kept is in the node's own widgets; which of them can be seen follows from the links.
import { app } from '../../scripts/app.js';
import { follow } from './follow.js';

const NODE = 'EchoReelCombineActions';
const SEQUENCE = 'one after another';
const ALWAYS = 2; // the least that can be combined

class Weights {
  #node;
  #places = new Map(); // the action that each link led to
  #waiting = false;

  constructor(node) {
    this.#node = node;
    follow(this.#widget('how'), 'callback', () => this.refresh());
    follow(node, 'onConfigure', () => {
      this.#places = this.#links();
      const [width, height] = node.size; // as it was saved, perhaps before there were weights
      this.refresh();
      node.setSize([width, Math.max(height, node.computeSize()[1])]);
    });
    // the host closes the gap that a removed link leaves, and is done with that a frame later
    follow(node, 'onConnectionsChange', () => {
      if (this.#waiting) return;
      this.#waiting = true;
      requestAnimationFrame(() => requestAnimationFrame(() => {
        this.#waiting = false;
        this.#follow(this.#links());
        this.refresh();
      }));
    });
    this.refresh();
  }

  #widget = (name) => this.#node.widgets.find((widget) => widget.name === name);

  #weight = (index) => this.#widget(`weight_${index}`);

  #inputs = () => (this.#node.inputs ?? []).filter(({ name }) => name.startsWith('actions.'));

  /** {link: number of the action it leads to}. */
  #links = () => new Map(this.#inputs().map(({ link }, index) => [link, index]).filter(([link]) => link != null));

  /** Where actions have moved up, their weights move with them. */
  #follow(links) {
    const before = this.#places;
    this.#places = links;
    if (![...links].some(([link, index]) => (before.get(link) ?? index) !== index)) return;
    const values = Object.fromEntries([...before].map(([link, index]) => [link, this.#weight(index)?.value ?? 1]));
    const found = new Map([...links].map(([link, index]) => [index, values[link] ?? 1]));
    for (let index = 0; this.#weight(index); index++) this.#weight(index).value = found.get(index) ?? 1;
  }

  /** Shows the widgets that count now. */
  refresh() {
    const node = this.#node;
    const least = node.computeSize()[1];
    const sequence = this.#widget('how').value === SEQUENCE;
    const links = new Set(this.#links().values());
    this.#show(this.#widget('crossfade'), sequence);
    for (let index = 0; this.#weight(index); index++) {
      this.#show(this.#weight(index), index < ALWAYS || links.has(index));
      this.#weight(index).label = `${sequence ? 'length' : 'weight'} of ${this.#inputs()[index]?.label ?? `action_${index}`}`;
    }
    this.#redraw(this.#widget('how'));
    node.setSize([node.size[0], node.size[1] + node.computeSize()[1] - least]);
    app.canvas?.setDirty(true, true);
  }

  #show(widget, shown) {
    widget.hidden = !shown; // for the canvas
    widget.options.hidden = !shown; // for the newer renderer
  }

  /** The newer renderer misses a change of `hidden` but sees one of a label, and then reads all widgets again. */
  #redraw(widget) {
    const { label } = widget;
    widget.label = `${label} `;
    widget.label = label;
  }
}

app.registerExtension({
  name: 'EchoReel.CombineActions',
  nodeCreated(node) {
    if (node.comfyClass === NODE) new Weights(node);
  },
});
