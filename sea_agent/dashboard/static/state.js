// What the page shows, kept in the address after the #, so that an address can be shared.

const LISTS = ["runs", "hide", "show"];
const TEXTS = [
  "group", "method", "baseline", "x", "run", "against", "annotations", "panel",
  "text", "outcome", "source", "from", "to", "sort", "duel",
];
const DEFAULTS = { level: 0.8, log: false, page: 0, x: "queries", sort: "newest" };

export const state = {};
const listeners = [];

/** Call `listener(changed keys)` after each change. */
export function onChange(listener) {
  listeners.push(listener);
}

export function change(values) {
  const changed = Object.keys(values).filter((key) => String(state[key]) !== String(values[key]));
  settle(values);
  if (changed.length) for (const listener of listeners) listener(changed);
}

/** Take over values that are being shown already. */
export function settle(values) {
  Object.assign(state, values);
  history.replaceState(null, "", address());
}

/** The page's address, with some values changed. */
export function address(values = {}) {
  const all = { ...state, ...values };
  const given = new URLSearchParams();
  for (const key of LISTS) for (const item of all[key]) given.append(key, item);
  for (const key of TEXTS) if (all[key] && all[key] !== DEFAULTS[key]) given.set(key, all[key]);
  if (all.level !== DEFAULTS.level) given.set("level", all.level);
  if (all.log) given.set("log", "1");
  if (all.page) given.set("page", all.page + 1);
  return `#${given}`;
}

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const found = {};
  for (const key of LISTS) found[key] = given.getAll(key);
  for (const key of TEXTS) found[key] = given.get(key) ?? DEFAULTS[key] ?? "";
  const level = Number(given.get("level") ?? DEFAULTS.level);
  found.level = level >= 0 && level <= 1 ? level : DEFAULTS.level;
  found.log = given.get("log") === "1";
  found.page = Math.max(0, Math.floor(Number(given.get("page")) || 1) - 1);
  return found;
}

Object.assign(state, read());
window.addEventListener("hashchange", () => {
  const found = read();
  const changed = Object.keys(found).filter((key) => String(state[key]) !== String(found[key]));
  Object.assign(state, found);
  if (changed.length) for (const listener of listeners) listener(changed);
});
