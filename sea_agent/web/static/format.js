// Numbers as text.

const THIN = "\u2009";

export const NONE = "–";

export function rate(value, decimals = 3) {
  return value === null || value === undefined ? NONE : value.toFixed(decimals);
}

export function count(value) {
  if (value === null || value === undefined) return NONE;
  return Math.round(value).toLocaleString("en").replaceAll(",", THIN);
}

/** Three significant digits, with k and M for what is large. */
export function short(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  if (size >= 1e6) return `${trimmed(value / 1e6)}M`;
  if (size >= 1e4) return `${trimmed(value / 1e3)}k`;
  return trimmed(value);
}

function trimmed(value) {
  if (value === 0) return "0";
  if (Math.abs(value) >= 1000) return String(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

export function percent(share, decimals = 0) {
  return share === null || share === undefined ? NONE : `${(100 * share).toFixed(decimals)}${THIN}%`;
}

export function interval(low, high, show) {
  return low === null || low === undefined || high === null ? "" : `[${show(low)}, ${show(high)}]`;
}

/** "≥ 8.3×": a factor with the mark of its bound. */
export function factor(found) {
  if (!found) return NONE;
  const mark = { ">=": "≥", "<=": "≤", "?": "?" }[found.bound] ?? "";
  return `${mark}${mark ? THIN : ""}${found.mean.toFixed(found.mean < 10 ? 2 : 1)}×`;
}

export function ago(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))}${THIN}s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}${THIN}min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)}${THIN}h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
