/** Calls `after` with the same arguments whenever the method runs, in addition to what is there. */
export function follow(object, method, after) {
  const before = object[method];
  object[method] = function (...given) {
    const result = before?.apply(this, given);
    after(...given);
    return result;
  };
}
