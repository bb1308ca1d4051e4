// One exchange on the page: what was said, and its answer, or two of which one is to be picked.

import { byId, h } from "../dom.js";
import { show, showDuel } from "../text.js";

const SIDES = ["first", "second"];
const NAMES = { first: "First is better", second: "Second is better", tie: "Tie", both_bad: "Both bad" };
const PICKED = {
  first: "You picked the first answer.",
  second: "You picked the second answer.",
  tie: "You called it a tie. The conversation goes on with the first answer.",
  both_bad: "You called both bad. The conversation goes on with the first answer.",
};
const WRITING = "Both are still being written.";
const OPEN = "Pick one, or just go on: the conversation continues with the first unless you pick the second.";
const PASSED = "The conversation went on with the first answer. Your pick still counts.";

/** A button of an exchange. */
export const button = (text, action, { looks = "", key = null, ...data } = {}) =>
  h("button", { type: "button", class: looks, dataset: { action, ...data } }, text, key && h("kbd", {}, key));

/** Parts of a text that go on to the side are reached by keyboard too. */
function letScroll(place) {
  for (const part of place.querySelectorAll("pre, .wide, .formula")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}

const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => letScroll(target)));

export class Turn {
  element;

  #body = h("div", { class: "answered" });
  #thumbs = h(
    "div",
    { class: "thumbs", role: "group", "aria-label": "What do you think of this answer?", hidden: true },
    button("Good answer", "rate", { looks: "quiet", up: true }),
    button("Bad answer", "rate", { looks: "quiet", up: false }),
  );
  #note = h("div", { class: "turn-note" });
  #made = ""; // how the answer is laid out
  #shown = null; // the texts in it
  #places = [];
  #noted = null;

  constructor({ key, said }) {
    const words = h("div", { class: "text", dir: "auto" }, said);
    const mine = h("div", { class: "said card" }, h("h2", { class: "unseen" }, "You"), words);
    this.element = h("article", { class: "turn", dataset: { key } }, mine, this.#body, this.#thumbs, this.#note);
  }

  /** Bring it in line with the exchange; `writing` is what there is of its answer so far. */
  update(exchange, { writing, goesOn, reopened, trouble }) {
    const reply = exchange.reply ?? writing;
    const texts = reply?.texts ?? [];
    const two = texts.length > 1 && (!exchange.pick || reopened) && !exchange.leaves;
    this.#lay(two ? "two" : texts.length ? "one" : "none");
    this.element.setAttribute("aria-busy", String(Boolean(writing)));
    this.#fill(two ? texts : [texts[exchange.used]]);
    if (two) this.#offer(exchange, goesOn);
    this.#rate(exchange);
    this.#tell(two ? { ...exchange, pick: null } : exchange, trouble);
  }

  /** What a screen reader is to read when the answer is there. */
  get spoken() {
    const names = this.#places.length > 1 ? ["First: ", "Second: "] : [""];
    return this.#places.map((place, k) => `${names[k]}${place.innerText}`).join("\n");
  }

  /** Let the keyboard act on the duel, and a screen reader begin there. */
  focusDuel() {
    this.#body.querySelector(".duel")?.focus({ preventScroll: true });
  }

  #lay(made) {
    if (made === this.#made) return;
    [this.#made, this.#shown] = [made, null];
    this.#places = (made === "two" ? SIDES : made === "one" ? ["one"] : []).map(() => h("div", { class: "text", dir: "auto" }));
    for (const place of this.#places) sizes.observe(place);
    this.#body.replaceChildren(...{ none: () => [], one: () => [this.#single()], two: () => [this.#duel()] }[made]());
  }

  #single() {
    return h("div", { class: "card reply" }, h("h2", { class: "unseen" }, "Answer"), this.#places[0]);
  }

  #duel() {
    const id = `duel-${this.element.dataset.key}`;
    const side = (outcome, k) =>
      h(
        "article",
        { class: "card response" },
        h("h3", {}, k ? "Second" : "First"),
        this.#places[k],
        button(NAMES[outcome], "pick", { looks: "verdict", key: k + 1, outcome }),
      );
    return h(
      "section",
      { class: "duel", role: "group", tabindex: -1, "aria-labelledby": id },
      h("h2", { class: "question", id }, "Which answer is better?"),
      h("div", { class: "responses" }, SIDES.map(side)),
      h(
        "div",
        { class: "others" },
        button(NAMES.tie, "pick", { key: 3, outcome: "tie" }),
        button(NAMES.both_bad, "pick", { key: 4, outcome: "both_bad" }),
        button("Don’t ask me", "quiet", { looks: "quiet" }),
        button("Keep it", "keep", { looks: "quiet", key: "Esc" }),
      ),
      h("p", { class: "hint" }),
    );
  }

  /** Say what can be done about a duel: nothing before both answers are there. */
  #offer({ reply, pick }, goesOn) {
    for (const each of this.#body.querySelectorAll("[data-action=pick]")) {
      each.setAttribute("aria-disabled", String(!reply));
      each.dataset.earlier = each.dataset.outcome === pick;
    }
    this.#body.querySelector("[data-action=quiet]").hidden = Boolean(pick);
    this.#body.querySelector("[data-action=keep]").hidden = !pick;
    const hint = this.#body.querySelector(".hint");
    const text = !reply ? WRITING : pick ? `Your pick was: ${NAMES[pick]}. Pick again, or keep it.` : goesOn ? OPEN : PASSED;
    if (hint.textContent !== text) hint.textContent = text;
  }

  /** Let an answer be rated that is there, whole and alone: of two, the pick says more. */
  #rate({ reply, stopped, up }) {
    this.#thumbs.hidden = !reply || Boolean(reply.duel) || Boolean(stopped);
    for (const each of this.#thumbs.children) each.setAttribute("aria-pressed", String(each.dataset.up === String(up)));
  }

  #fill(texts) {
    const shown = JSON.stringify(texts);
    if (shown === this.#shown || !this.#places.length) return;
    this.#shown = shown;
    if (texts.length === 1) show(this.#places[0], texts[0] || "(nothing)", { rendered: true });
    else {
      const [first, second] = this.#places;
      const places = { prompt: document.createElement("div"), first, second };
      showDuel(places, { prompt: "", first: texts[0], second: texts[1] }, { rendered: true, marking: false });
    }
    this.#places.forEach(letScroll);
  }

  /** What stands below an answer: what was picked, what waits, what went wrong. */
  #tell(exchange, trouble) {
    const { pick, leaves, stopped, fault, reply, body } = exchange;
    const parts = [];
    if (pick) parts.push(h("p", { class: "hint" }, PICKED[pick]), button("Change", "change", { looks: "quiet" }));
    else if (leaves) parts.push(h("p", { class: "hint" }, "You were asked which of two answers is better, and left it."));
    if (stopped) parts.push(h("p", { class: "hint" }, "Stopped."));
    if (fault) {
      parts.push(h("p", { class: "fault" }, fault), button("Try again", "again"), button("Edit", "edit", { looks: "quiet" }));
    }
    if (body && trouble) parts.push(h("p", { class: "hint" }, trouble));
    else if (body && !reply && this.#made === "none") parts.push(h("p", { class: "hint thinking" }, "…"));
    const noted = parts.map(({ outerHTML }) => outerHTML).join("");
    if (noted === this.#noted) return;
    this.#noted = noted;
    const had = this.#note.contains(document.activeElement);
    this.#note.replaceChildren(...parts);
    if (had) byId("message").focus({ preventScroll: true });
  }
}
