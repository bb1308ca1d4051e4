// The worked examples of a run: any number of them, each with its answer and why.

import { h } from "../dom.js";
import { button, field, group, select } from "./parts.js";
import { OUTCOMES } from "./words.js";

const MOST = 20;
const [LONGEST, LONGEST_REASON] = [100_000, 2000]; // characters
const EMPTY = { prompt: "", first: "", second: "", outcome: "first", why: "" };

export class Examples {
  #list = h("div", { class: "stack" });
  #more = button("Add an example", () => this.#add(EMPTY, true));

  constructor(examples) {
    this.element = group("Examples for annotators", this.#list, this.#more);
    for (const example of examples) this.#add(example, false);
  }

  /** What the fields hold. */
  get values() {
    return [...this.#list.children].map((one) =>
      Object.fromEntries(
        [...one.querySelectorAll("[data-part]")].map((control) => [control.dataset.part, control.value]),
      ),
    );
  }

  #add(example, byHand) {
    const area = (part, rows, maxlength = LONGEST) =>
      h("textarea", { "data-part": part, rows, maxlength, required: true, value: example[part] });
    const prompt = area("prompt", 2);
    const one = group(
      "Example",
      field("Prompt", prompt),
      field("First response", area("first", 3)),
      field("Second response", area("second", 3)),
      field("Right answer", select({ "data-part": "outcome" }, Object.entries(OUTCOMES), example.outcome)),
      field("Why", area("why", 2, LONGEST_REASON)),
      button("Remove this example", () => {
        one.remove();
        this.#count();
        this.#more.focus();
      }),
    );
    this.#list.append(one);
    this.#count();
    if (byHand) prompt.focus();
  }

  #count() {
    this.#more.hidden = this.#list.children.length >= MOST;
  }
}
