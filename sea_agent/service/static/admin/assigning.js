// A share of the duels, or the whole run, for named people.

import { h } from "../dom.js";
import { call } from "../service.js";
import { ofRun } from "./context.js";
import { confirm } from "./dialog.js";
import { List } from "./list.js";
import { act } from "./outcome.js";
import { button, field, group, hint, section, select, tick } from "./parts.js";
import { namesIn } from "./words.js";

export class Assigning {
  #people = h("div", { class: "ticks" });
  #list = new List(
    this.#people,
    (name) => name,
    (name) => tick(name, h("input", { type: "checkbox", value: name })),
  );
  #others = h("textarea", { rows: 2, autocomplete: "off" });
  #amount = h("input", { type: "number", required: true, value: 100, inputmode: "decimal" });
  #unit = select({ onchange: () => this.#limit() }, [
    ["share", "per cent"],
    ["count", "duels"],
    ["run", "the whole run"],
  ]);
  #whole = hint();
  #each = h("input", { type: "number", min: 1, max: 100, step: 1, inputmode: "numeric" });
  #submit = h("button", { class: "main" }, "Hand out");
  #fault = h("p", { class: "fault", role: "alert", hidden: true });
  #changed;

  constructor(changed) {
    this.#changed = changed;
    this.#limit();
    this.element = section(
      "Hand out duels",
      hint("A duel that is handed out is only for the people it is handed to; the others are for everybody."),
      this.#whole,
      h(
        "form",
        { class: "stack", onsubmit: (event) => this.#send(event) },
        group("To", this.#people, field("Other names", this.#others, "A name on each line.")),
        h(
          "div",
          { class: "pair" },
          field("How much", this.#amount, "Of the duels that wait and are for everybody."),
          field("Unit", this.#unit),
        ),
        field("People for each duel", this.#each, "Empty: as many as it needs votes."),
        this.#fault,
        h(
          "div",
          { class: "buttons" },
          this.#submit,
          button("Take all back", () => this.#takeBack()),
        ),
      ),
    );
  }

  #limit() {
    this.#amount.disabled = this.#each.disabled = this.#unit.value === "run"; // which has later duels too
    const limits = this.#unit.value === "share" ? { min: 0.1, max: 100, step: 0.1 } : { min: 1, max: 100000, step: 1 };
    Object.assign(this.#amount, limits);
  }

  /** Offer these people; who is ticked stays so. `assigned` are those whom the whole run is for. */
  show(names, assigned) {
    this.#list.show(names);
    this.#whole.hidden = !assigned.length;
    this.#whole.textContent = `The whole run, later duels too, is only for ${assigned.join(", ")}.`;
  }

  async #send(event) {
    event.preventDefault();
    const ticked = [...this.#people.querySelectorAll("input:checked")].map(({ value }) => value);
    const amount = Number(this.#amount.value);
    const annotators = [...new Set([...ticked, ...namesIn(this.#others.value)])];
    const body = {
      annotators,
      ...(this.#unit.value === "share" ? { share: amount / 100 } : { count: amount }),
      ...(this.#each.value && { each: Number(this.#each.value) }),
    };
    const done = await act(this.#submit, this.#fault, async () => {
      if (this.#unit.value === "run") {
        await call("PUT", ofRun("/assignments"), { annotators });
        return `The run is only for ${annotators.join(", ")} now.`;
      }
      const { assigned } = await call("POST", ofRun("/assignments"), body);
      const parts = Object.entries(assigned).map(([name, count]) => `${name} ${count}`);
      return `Handed out: ${parts.join(", ") || "nothing, since no duel waits that is for everybody"}.`;
    });
    if (done) await this.#changed();
  }

  async #takeBack() {
    await confirm({
      title: "Take all duels back?",
      text: "The run and every duel of it are for everybody again. Answers that were given stay.",
      action: "Take all back",
      work: async () => {
        await call("DELETE", ofRun("/assignments"));
        return "Every duel is for everybody again.";
      },
    });
    await this.#changed();
  }
}
