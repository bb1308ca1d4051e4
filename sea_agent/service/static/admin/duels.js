// The duels of a run, a page at a time, as the filters ask for.

import { h } from "../dom.js";
import { call } from "../service.js";
import { ofRun, query } from "./context.js";
import { DuelDialog } from "./duel.js";
import { List } from "./list.js";
import { badge, button, field, section, select } from "./parts.js";
import { DUEL_STATES, ago, moment, plural } from "./words.js";

const PAGE = 20;
const TYPING_MS = 300;

export class Duels {
  #state = select({ onchange: () => this.#filter() }, [["", "Any"], ...Object.entries(DUEL_STATES)]);
  #annotator = h("input", {
    type: "search",
    list: "annotators",
    maxlength: 200,
    autocomplete: "off",
    oninput: () => this.#typed(),
  });
  #gold = select({ onchange: () => this.#filter() }, [
    ["", "All"],
    ["false", "Without gold"],
    ["true", "Only gold"],
  ]);
  #text = h("input", { type: "search", maxlength: 200, oninput: () => this.#typed() });
  #order = select({ onchange: () => this.#filter() }, [
    ["newest", "Newest first"],
    ["oldest", "Oldest first"],
  ]);
  #names = h("datalist", { id: "annotators" });
  #offered = new List(
    this.#names,
    (name) => name,
    (name) => h("option", { value: name }),
  );
  #items = h("ul", { class: "duels", "aria-label": "Duels" });
  #list = new List(
    this.#items,
    ({ id }) => id,
    (duel) => this.#item(duel),
  );
  #count = h("p", { class: "counts", role: "status" });
  #back = button("Previous", () => this.#turn(-1));
  #on = button("Next", () => this.#turn(1));
  #cursors = [null]; // of each page up to the one that is shown
  #next = null;
  #open = null;
  #changed;
  #timer;

  constructor(changed) {
    this.#changed = changed;
    this.element = section(
      "Duels",
      h(
        "div",
        { class: "filters" },
        field("State", this.#state),
        field("Annotator", this.#annotator),
        field("Gold", this.#gold),
        field("Order", this.#order),
        h("div", { class: "whole" }, field("Text", this.#text)),
        this.#names,
      ),
      this.#count,
      this.#items,
      h("nav", { class: "buttons", "aria-label": "Pages of duels" }, this.#back, this.#on),
    );
  }

  /** Offer these names in the filter. */
  offer(names) {
    this.#offered.show(names);
  }

  /** List the duels in a state, whatever the filters were, and go there. */
  async only(state) {
    this.#state.value = state;
    for (const control of [this.#annotator, this.#gold, this.#text]) control.value = "";
    await this.#filter();
    this.element.scrollIntoView();
    this.#state.focus({ preventScroll: true });
  }

  /** Show what the service has now; an open dialog follows too. */
  async load() {
    const asked = {
      state: this.#state.value,
      annotator: this.#annotator.value.trim(),
      gold: this.#gold.value,
      text: this.#text.value,
      order: this.#order.value,
      after: this.#cursors.at(-1),
      limit: PAGE,
    };
    const [{ queries, next_after, total }] = await Promise.all([
      call("GET", ofRun(`/queries${query(asked)}`)),
      this.#open?.load(),
    ]);
    this.#next = next_after;
    this.#list.show(queries.map((duel) => ({ ...duel, age: ago(duel.created_at) })));
    const page = this.#cursors.length > 1 || next_after ? `, page ${this.#cursors.length}` : "";
    const count = `${plural(total, "duel")}${page}`;
    if (this.#count.textContent !== count) this.#count.textContent = count;
    this.#back.setAttribute("aria-disabled", String(this.#cursors.length === 1));
    this.#on.setAttribute("aria-disabled", String(!next_after));
  }

  #item(duel) {
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", class: "quiet duel-name", "data-action": "open", onclick: () => this.#show(duel.id) },
        duel.erased_at ? "Texts erased" : duel.prompt || "(no prompt)",
      ),
      h(
        "p",
        { class: "about" },
        badge(DUEL_STATES[duel.state] ?? duel.state, duel.state),
        duel.gold && badge("Gold"),
        h("span", {}, `${duel.votes} of ${plural(duel.votes_needed, "vote")}`),
        h("time", { datetime: duel.created_at, title: moment(duel.created_at) }, `posted ${duel.age}`),
        duel.priority !== 0 && h("span", {}, `priority ${duel.priority}`),
        duel.leases
          .filter(({ state }) => state === "live")
          .map(({ annotator }) => h("span", {}, `${annotator} has it`)),
        duel.leases
          .filter(({ state }) => state === "skipped")
          .map(({ annotator }) => h("span", {}, `skipped by ${annotator}`)),
        duel.assigned.length > 0 && h("span", {}, `for ${duel.assigned.join(", ")}`),
        h("code", {}, duel.client_key),
      ),
    );
  }

  async #show(id) {
    this.#open = new DuelDialog(id, this.#changed);
    await this.#open.closed;
    this.#open = null;
  }

  #typed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#filter(), TYPING_MS);
  }

  #filter() {
    clearTimeout(this.#timer);
    this.#cursors = [null];
    return this.#changed();
  }

  #turn(by) {
    if (by > 0 && this.#next) this.#cursors.push(this.#next);
    if (by < 0 && this.#cursors.length > 1) this.#cursors.pop();
    return this.#changed();
  }
}
