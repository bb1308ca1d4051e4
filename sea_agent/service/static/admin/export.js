// The answers as a file. The link follows the filters.

import { h } from "../dom.js";
import { at } from "../place.js";
import { ofRun, query } from "./context.js";
import { field, group, hint, section, select, tick } from "./parts.js";
import { List } from "./list.js";
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
  #people = h("div", { class: "ticks" });
  #list = new List(
    this.#people,
    (name) => name,
    (name) => tick(name, h("input", { type: "checkbox", value: name })),
  );
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
      group("Only answers of", this.#people, hint("None ticked: of everybody.")),
      h("div", { class: "buttons" }, this.#link),
    );
    this.element = section("Export", this.#form);
    this.#follow();
  }

  /** Offer these people; who is ticked stays so. */
  offer(names) {
    this.#list.show(names);
    this.#people.parentElement.hidden = !names.length;
  }

  #follow() {
    const utc = (input) => (input.value ? new Date(input.value).toISOString() : "");
    const filters = query({
      min_agreement: Number(this.#agreement.value) / 100 || "",
      min_votes: this.#votes.value === "1" ? "" : this.#votes.value,
      outcome: this.#outcome.value,
      ties: this.#ties.value === "drop" ? "" : this.#ties.value,
      since: utc(this.#since),
      until: utc(this.#until),
      annotator: [...this.#people.querySelectorAll("input:checked")].map(({ value }) => value),
    });
    if (this.#form.checkValidity()) this.#link.href = at(ofRun(`/export.${this.#format.value}${filters}`));
    else this.#link.removeAttribute("href");
    this.#link.setAttribute("aria-disabled", String(!this.#link.href));
  }
}
