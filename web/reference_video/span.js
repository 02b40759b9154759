// The span of a clip that the widgets start and duration stand for, and back. All in seconds.

const to3 = (seconds) => Math.round(seconds * 1000) / 1000; // the widgets' precision
const clamp = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));

/** A negative start counts back from the end; a duration of 0 reaches to it. */
export function spanOf({ start, duration }, length) {
  const from = clamp(start < 0 ? length + start : start, 0, length);
  return { from, to: duration > 0 ? Math.min(from + duration, length) : length };
}

/** `span` with its part 'from', 'to' or 'whole' moved, never shorter than `least`. */
export function moved({ from, to }, part, seconds, length, least) {
  if (part === 'from') return { from: clamp(from + seconds, 0, to - least), to };
  if (part === 'to') return { from, to: clamp(to + seconds, Math.min(from + least, length), length) };
  const shift = clamp(seconds, -from, length - to);
  return { from: from + shift, to: to + shift };
}

/** What moving `part` to `span` sets the widgets to: a start counted from the end stays so if only the end moves. */
export function widgetsOf({ from, to }, part, length) {
  const duration = length - to < 0.0005 ? 0 : to3(to - from);
  return part === 'to' ? { duration } : { start: to3(from), duration };
}
