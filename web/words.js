// What the page says, in the language that ComfyUI is set to: locales/<language>/main.json of this pack, else English.
import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';
import { ENGLISH } from './english.js';

let translated = {};

app.registerExtension({
  name: 'EchoReel.Words',
  async init() { // the page makes no node before this is done
    const language = app.ui.settings.getSettingValue('Comfy.Locale');
    if (!language || language === 'en') return;
    const all = await (await api.fetchApi('/i18n')).json();
    translated = all[language]?.echoreel ?? {};
  },
});

/** The sentence of this name with its {values} filled in. */
export function say(name, values = {}) {
  return (translated[name] ?? ENGLISH[name]).replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

/** A choice of a widget as it is shown: with the English one, by which tooltips and help pages call it. */
export function option(value) {
  const own = translated.options?.[value];
  return own ? `${own} (${value})` : value;
}
