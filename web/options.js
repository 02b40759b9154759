// The choices of the pack's nodes in the language of the page. The widgets keep the English ones, as saved graphs do.
import { app } from '../../scripts/app.js';
import { option } from './words.js';

app.registerExtension({
  name: 'EchoReel.Options',
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith('EchoReel')) return;
    for (const widget of node.widgets?.filter(({ type }) => type === 'combo') ?? []) {
      if (!widget.options.values?.some?.((value) => option(value) !== value)) continue;
      widget.options.getOptionLabel = (value) => option(value ?? '');
    }
  },
});
