// A share of the duels, or the whole run, for named people.

import { h } from "../dom.js";
import { call } from "../service.js";
import { MOST_IN_URL, MOST_NAMED, ofRun, query } from "./context.js";
import { confirm } from "./dialog.js";
import { act } from "./outcome.js";
import { button, field, hint, section, select } from "./parts.js";
import { Ticks } from "./ticks.js";
import { namesIn } from "./words.js";

const MOST_DUELS = 10_000; // at once

export class Assigning {
  #others = h("textarea", { rows: 2, autocomplete: "off" });
  #people = new Ticks("To", field("Other names", this.#others, "A name on each line."));
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
        { class: "stack", oninput: () => this.#people.say(""), onsubmit: (event) => this.#send(event) },
        this.#people.element,
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
          button("Take back from them", () => this.#takeBackFrom()),
          button("Take all back", () => this.#takeAllBack()),
        ),
      ),
    );
  }

  #limit() {
    this.#amount.disabled = this.#each.disabled = this.#unit.value === "run"; // which has later duels too
    const inPercent = this.#unit.value === "share";
    Object.assign(this.#amount, inPercent ? { min: 0.1, max: 100, step: 0.1 } : { min: 1, max: MOST_DUELS, step: 1 });
  }

  /** Offer these people; who is ticked stays so. `assigned` are those whom the whole run is for. */
  show(names, assigned) {
    this.#people.offer(names.map((name) => [name, name]));
    this.#whole.hidden = !assigned.length;
    this.#whole.textContent = `The whole run, later duels too, is only for ${assigned.join(", ")}.`;
  }

  /** Who is ticked or written, if that is somebody and no more than so many; else it says what to change there. */
  #named(most) {
    const names = [...new Set([...this.#people.values, ...namesIn(this.#others.value)])];
    if (!names.length) this.#people.say("Tick somebody, or write a name.");
    else if (names.length <= most) return names;
    else this.#people.say(`These are ${names.length} people, and ${most} go at once: leave some out.`);
    return null;
  }

  async #send(event) {
    event.preventDefault();
    const annotators = this.#named(MOST_NAMED);
    if (!annotators) return;
    const amount = Number(this.#amount.value);
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

  async #takeBackFrom() {
    const names = this.#named(MOST_IN_URL);
    if (!names) return;
    await confirm({
      title: `Take duels back from ${names.join(", ")}?`,
      text: "The run and every duel of it that was handed to them are for the others they were handed to, or for everybody again. Answers that were given stay, and nobody loses the duel on their screen.",
      action: "Take back",
      work: async () => {
        await call("DELETE", ofRun(`/assignments${query({ annotator: names })}`));
        return `Nothing is handed out to ${names.join(", ")} any more.`;
      },
    });
    await this.#changed();
  }

  async #takeAllBack() {
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
