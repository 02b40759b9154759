// A picture that holds many frames, row by row: where one of them lies in it, as CSS says it.

/** strip: {times, columns, aspect, picture}. Children of `element` of the class echoreel-frame show its frames. */
export function setPicture(element, { times, columns, aspect, picture }) {
  element.style.setProperty('--picture', `url("${picture}")`);
  element.style.setProperty('--size', `${100 * columns}% ${100 * Math.ceil(times.length / columns)}%`);
  element.style.setProperty('--aspect', aspect);
}

export function showFrame(element, index, { times, columns }) {
  const place = (at, count) => (count > 1 ? `${100 * at / (count - 1)}%` : '0');
  const rows = Math.ceil(times.length / columns);
  element.style.backgroundPosition = `${place(index % columns, columns)} ${place(Math.floor(index / columns), rows)}`;
}
