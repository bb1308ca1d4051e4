// Boxes to tick, with a place for what is wrong with what is ticked.

import { h } from "../dom.js";
import { List } from "./list.js";
import { group, tick } from "./parts.js";

export class Ticks {
  #boxes = h("div", { class: "ticks" });
  #list = new List(
    this.#boxes,
    ([value]) => value,
    ([value, text]) => tick(text, h("input", { type: "checkbox", value })),
  );
  #fault = h("p", { class: "fault", role: "alert", hidden: true });

  /** `more` stands below the boxes: a hint, or another field. */
  constructor(name, ...more) {
    this.element = group(name, this.#boxes, ...more, this.#fault);
  }

  /** Offer these [value, text] pairs; what is ticked stays so. */
  offer(pairs) {
    this.#list.show(pairs);
  }

  /** What is ticked. */
  get values() {
    return [...this.#boxes.querySelectorAll("input:checked")].map(({ value }) => value);
  }

  /** Say what is wrong; nothing is where `text` is empty. */
  say(text) {
    if (this.#fault.textContent !== text) this.#fault.textContent = text; // or it would be read out again
    this.#fault.hidden = !text;
  }
}
