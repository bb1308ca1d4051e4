// The answers as a file. The link follows the filters.

import { h } from "../dom.js";
import { at } from "../place.js";
import { MOST_IN_URL, ofRun, query } from "./context.js";
import { field, hint, section, select } from "./parts.js";
import { Ticks } from "./ticks.js";
import { OUTCOMES } from "./words.js";

const FORMATS = [
  ["jsonl", "JSONL"],
  ["parquet", "Parquet"],
  ["csv", "CSV"],
];

export class Export {
  #format = select({}, FORMATS, "jsonl");
  #agreement = h("input", { type: "number", min: 0, max: 100, step: "any", value: 0, required: true });
  #votes = h("input", { type: "number", min: 1, max: 100, step: 1, value: 1, required: true });
  #outcome = select({}, [["", "Any"], ...Object.entries(OUTCOMES)]);
  #ties = select({}, [
    ["drop", "Left out"],
    ["keep", "Kept, without a winner"],
  ]);
  #since = h("input", { type: "datetime-local" });
  #until = h("input", { type: "datetime-local" });
  #people = new Ticks("Only answers of", hint("None ticked: of everybody."));
  #link = h("a", { class: "button main", download: "" }, "Download");
  #form;

  constructor() {
    this.#form = h(
      "form",
      { class: "stack", oninput: () => this.#follow(), onsubmit: (event) => event.preventDefault() },
      h("div", { class: "pair" }, field("Format", this.#format), field("Outcome", this.#outcome)),
      h(
        "div",
        { class: "pair" },
        field("Agreement at least, %", this.#agreement),
        field("Votes at least", this.#votes),
      ),
      h("div", { class: "pair" }, field("Answered from", this.#since), field("Answered until", this.#until)),
      field("Duels without a winner", this.#ties),
      this.#people.element,
      h("div", { class: "buttons" }, this.#link),
    );
    this.element = section("Export", this.#form);
    this.#follow();
  }

  /** Offer these people; who is ticked stays so. */
  offer(names) {
    this.#people.offer(names.map((name) => [name, name]));
    this.#people.element.hidden = !names.length;
    this.#follow();
  }

  #follow() {
    const utc = (input) => (input.value ? new Date(input.value).toISOString() : "");
    const people = this.#people.values;
    const tooMany = people.length > MOST_IN_URL;
    const remedy = "untick some, or all for everybody.";
    this.#people.say(tooMany ? `These are ${people.length} people, and a link holds ${MOST_IN_URL}: ${remedy}` : "");
    const filters = query({
      min_agreement: Number(this.#agreement.value) / 100 || "",
      min_votes: this.#votes.value === "1" ? "" : this.#votes.value,
      outcome: this.#outcome.value,
      ties: this.#ties.value === "drop" ? "" : this.#ties.value,
      since: utc(this.#since),
      until: utc(this.#until),
      annotator: people,
    });
    if (this.#form.checkValidity() && !tooMany) this.#link.href = at(ofRun(`/export.${this.#format.value}${filters}`));
    else this.#link.removeAttribute("href");
    this.#link.setAttribute("aria-disabled", String(!this.#link.href));
  }
}
