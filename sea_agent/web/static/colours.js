// A colour for each method: the baseline is grey, the others take theirs in the order of the comparison.

const LIGHT = ["#0b7285", "#d9480f", "#6741d9", "#2b8a3e", "#c2255c", "#1864ab", "#a86500", "#862e9c", "#5c940d", "#364fc7"];
const DARK = ["#3bc9db", "#ff922b", "#b197fc", "#69db7c", "#faa2c1", "#74c0fc", "#fcc419", "#e599f7", "#c0eb75", "#91a7ff"];

const dark = matchMedia("(prefers-color-scheme: dark)");

export function onScheme(listener) {
  dark.addEventListener("change", listener);
}

/** A value of the style sheet, such as variable("--ink"). */
export function variable(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Colours by method, for these methods in their order. */
export function colours(methods, baseline) {
  const palette = dark.matches ? DARK : LIGHT;
  const found = new Map();
  for (const method of methods) {
    if (method === baseline) found.set(method, { colour: variable("--neutral"), dash: [6, 4] });
    else {
      const place = found.size - (found.has(baseline) ? 1 : 0);
      found.set(method, { colour: palette[place % palette.length], dash: place < palette.length ? [] : [3, 3] });
    }
  }
  return found;
}

export function palette() {
  return dark.matches ? DARK : LIGHT;
}
