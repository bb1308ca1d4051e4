// What a key is for: its runs and until when it holds.

import { h } from "../dom.js";
import { field, hint } from "./parts.js";
import { Ticks } from "./ticks.js";

/** Runs to tick; none ticked is all. */
export class RunTicks {
  #runs = new Ticks("Only for", hint("None ticked: for every run."));
  element = this.#runs.element;

  /** Offer these runs; what is ticked stays so. */
  offer(runs) {
    this.#runs.offer(runs.map(({ id, name }) => [id, name || id]));
    this.element.hidden = !runs.length;
  }

  /** The field of the body, if there is one. */
  get value() {
    const runs = this.#runs.values;
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
