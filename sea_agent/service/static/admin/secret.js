// A secret that is shown once, to be copied.

import { h } from "../dom.js";
import { button, field } from "./parts.js";

/** A place for one secret at a time. */
export class Secret {
  element = h("div", { class: "made stack", hidden: true });

  /** Show it with its name, what it is good for, and other forms of it. */
  show(name, help, value, ...more) {
    const input = h("input", { readonly: true, value });
    const copy = button(
      "Copy",
      async () => (copy.textContent = (await copied(input)) ? "Copied" : "Selected: copy it"),
    );
    const hide = button("Done", () => {
      this.element.replaceChildren();
      this.element.hidden = true;
    });
    this.element.replaceChildren(field(name, input, help), h("div", { class: "buttons" }, copy, hide), ...more);
    this.element.hidden = false;
    copy.focus();
  }
}

/** Copy what is in an input. Where there is no clipboard (without https) it is selected; false then. */
async function copied(input) {
  input.select();
  if (!navigator.clipboard) return false;
  await navigator.clipboard.writeText(input.value);
  return true;
}
