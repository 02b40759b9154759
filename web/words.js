// What the page says, in the language that ComfyUI is set to: locales/<language>/main.json of this pack, else English.
import { app } from '../../scripts/app.js';
import { api } from '../../scripts/api.js';
import { ENGLISH } from './english.js';

let translated = {};

/** To be called once, before anything is said. */
export async function learn() {
  const language = app.ui.settings.getSettingValue('Comfy.Locale');
  if (!language || language === 'en') return;
  const all = await (await api.fetchApi('/i18n')).json();
  translated = all[language]?.echoreel ?? {};
}

/** The sentence of this name with its {values} filled in. */
export function say(name, values = {}) {
  return (translated[name] ?? ENGLISH[name]).replace(/\{(\w+)\}/g, (_, key) => values[key]);
}
