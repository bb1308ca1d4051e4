// Elements from data. Text only ever becomes text: there is no way from here to markup.

/** h("p", {class: "x", style: {left: "1px"}, onclick: f}, "text", child, …); null and false are left out. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "selected") element[key] = value;
    else if (key === "dataset" || key === "style") Object.assign(element[key], value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const swatch = (colour) => h("i", { class: "swatch", style: { background: colour } });

/** A control with its name. */
export const field = (name, control, kind = "") => h("label", { class: `control ${kind}` }, h("span", { class: "label" }, name), control);

/** A table that scrolls sideways where it does not fit, by keyboard too. */
export const wide = (name, table, kind = "wide") =>
  h("div", { class: kind, role: "region", "aria-label": name, tabindex: 0 }, table);

/** The first row of a table. */
export const headings = (names) => h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name))));

export const byId = (id) => document.getElementById(id);

/** Fill a select with [value, text] pairs or {group, options}, and choose one. */
export function options(select, entries, chosen) {
  const option = ([value, text]) => h("option", { value, selected: value === chosen }, text);
  const filled = entries.map((entry) =>
    Array.isArray(entry) ? option(entry) : h("optgroup", { label: entry.group }, entry.options.map(option)),
  );
  select.replaceChildren(...filled);
  select.value = chosen ?? "";
}
