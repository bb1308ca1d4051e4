// Buttons, fields and badges. Each control has a label, each field a place for what is wrong with it.

import { h } from "../dom.js";

let made = 0;

/** A button; `action` names it for the keyboard's focus, which stays on it when it is made anew. */
export const button = (text, onclick, { main = false, danger = false, quiet = false, action = text } = {}) => {
  const looks = [main && "main", danger && "danger", quiet && "quiet"].filter(Boolean).join(" ");
  return h("button", { type: "button", class: looks, onclick, "data-action": action }, text);
};

export const badge = (text, mood = "") => h("span", { class: "badge", "data-mood": mood }, text);

export const hint = (...text) => h("p", { class: "hint" }, ...text);

/** A control with its label, what helps to fill it in, and a place for what the service says about it. */
export function field(name, control, help = "") {
  const id = control.id || `control-${++made}`;
  control.id = id;
  const fault = h("p", { class: "fault", id: `${id}-fault`, hidden: true });
  control.setAttribute("aria-describedby", help ? `${id}-help ${fault.id}` : fault.id);
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, name),
    control,
    help && h("p", { class: "hint", id: `${id}-help` }, help),
    fault,
  );
}

/** A tick box with its label beside it. */
export const tick = (name, control) => h("label", { class: "tick" }, control, h("span", {}, name));

/** Fields that belong together. */
export const group = (name, ...fields) => h("fieldset", {}, h("legend", {}, name), ...fields);

/** A select of [value, text] pairs. */
export const select = (attributes, pairs, chosen = "") =>
  h(
    "select",
    attributes,
    pairs.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
  );

/** A part of the page with its title. */
export function section(title, ...content) {
  const id = `part-${++made}`;
  return h("section", { class: "card part stack", "aria-labelledby": id }, h("h2", { id }, title), ...content);
}
