// What a key is for: its runs and until when it holds.

import { h } from "../dom.js";
import { List } from "./list.js";
import { field, group, hint, tick } from "./parts.js";

/** Runs to tick; none ticked is all. */
export class RunTicks {
  #runs = h("div", { class: "ticks" });
  #list = new List(
    this.#runs,
    ({ id }) => id,
    ({ id, name }) => tick(name || id, h("input", { type: "checkbox", value: id })),
  );
  element = group("Only for", this.#runs, hint("None ticked: for every run."));

  /** Offer these runs; what is ticked stays so. */
  offer(runs) {
    this.#list.show(runs.map(({ id, name }) => ({ id, name })));
    this.element.hidden = !runs.length;
  }

  /** The field of the body, if there is one. */
  get value() {
    const runs = [...this.#runs.querySelectorAll("input:checked")].map(({ value }) => value);
    return runs.length ? { runs } : {};
  }
}

/** A last moment, or none. */
export class Until {
  #input = h("input", { name: "expires_at", type: "datetime-local" });
  element = field("Until", this.#input, "Empty: until it is ended.");

  /** The field of the body, if there is one. */
  get value() {
    return this.#input.value ? { expires_at: new Date(this.#input.value).toISOString() } : {};
  }
}
