// One duel in a dialog: its texts, who answered or has it, and what can be done about it.

import { h, headings, wide } from "../dom.js";
import { call } from "../service.js";
import { showDuel } from "../text.js";
import { MOST_NAMED, WRITTEN_ANEW, isAdmin, ofDuel } from "./context.js";
import { confirm, open } from "./dialog.js";
import { List } from "./list.js";
import { act } from "./outcome.js";
import { badge, button, field, hint } from "./parts.js";
import { DUEL_STATES, LEARNT, OUTCOMES, moment, namesIn, number } from "./words.js";

let rendered = true; // or as they were written: as the reader chose last

export class DuelDialog {
  #id;
  #changed;
  #content = h("div", { class: "stack" });
  #texts = new List(
    this.#content,
    ({ part }) => part,
    (item) => this.#part(item),
  );
  #fault = h("p", { class: "fault", role: "alert", hidden: true });
  #buttons = h("div", { class: "buttons", role: "group", "aria-label": "This duel" });
  #actions = new List(
    this.#buttons,
    ([, text]) => text,
    ([key, text]) => this.#action(key, text),
  );
  #priority = h("input", { name: "priority", type: "number", step: 1, min: -1e6, max: 1e6, required: true });
  #votes = h("input", { name: "votes_needed", type: "number", step: 1, min: 1, max: 100, required: true });
  #assigned = h("textarea", { name: "assigned", rows: 2, autocomplete: "off", oninput: () => this.#limit() });
  #save = h("button", { class: "main" }, "Save");
  #form;
  #duel;
  #filled = false;
  #before; // what the form was filled with: only what was changed since is sent

  /** `changed` is called when something was done. */
  constructor(id, changed) {
    this.#id = id;
    this.#changed = changed;
    this.#form = h(
      "form",
      { class: "stack", hidden: true, onsubmit: (event) => this.#send(event) }, // until it is filled
      h(
        "div",
        { class: "pair" },
        field("Priority", this.#priority, "Higher is given first."),
        field("Votes needed", this.#votes),
      ),
      field("Only for", this.#assigned, "A name on each line. Empty: for everybody."),
      h("div", { class: "buttons" }, this.#save),
    );
    const dialog = open("Duel", h("div", { class: "stack" }, this.#content, this.#buttons, this.#fault, this.#form), {
      wide: true,
    });
    this.closed = new Promise((resolve) => dialog.addEventListener("close", resolve));
    act(this.#save, this.#fault, () => this.load());
  }

  /** Show how the duel is now. The form keeps what is in it once it has been filled. */
  async load() {
    const duel = await call("GET", ofDuel(this.#id));
    this.#duel = duel;
    this.#show();
    const isOpen = duel.state === "open";
    const isLeased = duel.leases.some(({ state }) => state === "live");
    this.#actions.show(
      [
        isOpen && ["cancel", "Cancel the duel"],
        ["cancelled", "expired"].includes(duel.state) && ["reopen", "Reopen"],
        isLeased && ["take-back", "Take back"],
        isAdmin && !duel.erased_at && ["erase", "Erase texts"],
      ].filter(Boolean),
    );
    this.#form.hidden = Boolean(duel.erased_at);
    if (this.#filled) return;
    this.#filled = true;
    this.#priority.value = duel.priority;
    this.#votes.value = duel.votes_needed;
    this.#assigned.value = duel.assigned.join("\n");
    this.#before = this.#values();
  }

  #show() {
    const { prompt, first, second, erased_at, votes, leases, ...duel } = this.#duel;
    this.#texts.show([
      { part: "state", duel },
      { part: "texts", texts: { prompt, first, second }, erased: Boolean(erased_at), rendered },
      { part: "votes", votes },
      { part: "leases", leases },
    ]);
  }

  #part({ part, duel, texts, erased, votes, leases }) {
    if (part === "state") return about(duel);
    if (part === "texts") return erased ? h("p", { class: "hint" }, "Its texts are erased.") : this.#view(texts);
    if (part === "votes")
      return votes.length ? votesTable(votes) : h("p", { class: "hint" }, "Nobody has answered it yet.");
    return h(
      "ul",
      { class: "plain" },
      leases
        .filter(({ state }) => state !== "labelled")
        .map(({ annotator, state, expires_at }) => h("li", {}, leaseInWords(annotator, state, expires_at))),
    );
  }

  #view(texts) {
    const places = Object.fromEntries(
      Object.keys(texts).map((name) => [name, h("div", { class: "text", dir: "auto", tabindex: 0 })]),
    );
    const note = showDuel(places, texts, { rendered, marking: false });
    const turn = () => {
      rendered = !rendered;
      getSelection().removeAllRanges(); // what is being read would stay
      this.#show();
    };
    const turned = button("Rendered", turn, { quiet: true });
    turned.classList.add("switch");
    turned.setAttribute("aria-pressed", String(rendered));
    const side = (name) => h("article", {}, h("h3", {}, name), places[name.toLowerCase()]);
    return h(
      "div",
      { class: "stack" },
      h("div", { class: "buttons" }, turned),
      note && hint(note),
      side("Prompt"),
      h("div", { class: "sides" }, side("First"), side("Second")),
    );
  }

  #action(key, text) {
    const works = {
      cancel: ["Cancelled: nobody gets this duel any more."],
      reopen: ["Open again; who had skipped it may get it once more."],
      "take-back": ["Taken back: others may have it now. An answer that still comes is kept as late."],
    };
    const post = () => call("POST", ofDuel(this.#id, `/${key}`));
    const pressed = async (event) => {
      if (key === "erase") await this.#erase();
      else await act(event.currentTarget, this.#fault, async () => (await post(), works[key][0]));
      await this.#changed();
    };
    return button(text, pressed, { action: key, danger: key === "erase" });
  }

  #erase() {
    return confirm({
      title: "Erase the texts of this duel?",
      text: ["Prompt and responses are gone for good; if it waits, it is cancelled first. Its labels stay.", LEARNT],
      action: "Erase the texts",
      work: async () => {
        const { left } = await call("POST", ofDuel(this.#id, "/erase"), undefined, WRITTEN_ANEW);
        return ["The texts of the duel are erased.", ...left].join(" ");
      },
    });
  }

  #limit() {
    const { length } = namesIn(this.#assigned.value);
    const fault = length > MOST_NAMED ? `A duel is for ${MOST_NAMED} people at most; these are ${length}.` : "";
    this.#assigned.setCustomValidity(fault);
  }

  #values() {
    return {
      priority: Number(this.#priority.value),
      votes_needed: Number(this.#votes.value),
      assigned: namesIn(this.#assigned.value),
    };
  }

  async #send(event) {
    event.preventDefault();
    const now = this.#values();
    const changed = Object.keys(now).filter((name) => String(now[name]) !== String(this.#before[name]));
    const body = Object.fromEntries(changed.map((name) => [name, now[name]]));
    const done = await act(
      this.#save,
      this.#fault,
      async () => {
        await call("PATCH", ofDuel(this.#id), body);
        this.#before = now;
        return now.assigned.length
          ? `Saved; the duel is only for ${now.assigned.join(", ")}.`
          : "Saved; the duel is for everybody.";
      },
      this.#form,
    );
    if (done) await this.#changed();
  }
}

function about(duel) {
  return h(
    "p",
    { class: "about" },
    badge(DUEL_STATES[duel.state] ?? duel.state, duel.state),
    duel.gold && badge(`Gold: ${OUTCOMES[duel.gold]}`),
    h("code", {}, duel.client_key),
    h("span", {}, `posted ${moment(duel.created_at)}`),
    duel.expires_at && h("span", {}, `until ${moment(duel.expires_at)}`),
  );
}

function votesTable(votes) {
  const row = (vote) => [
    OUTCOMES[vote.outcome] + (vote.strength ? ` (${vote.strength} of 3)` : ""),
    [vote.kind, vote.late && "late", vote.revises && "correction"].filter(Boolean).join(", "),
    vote.elapsed_ms === null ? "–" : `${number(Math.round(vote.elapsed_ms / 1000))} s`,
    moment(vote.at),
    vote.comment ?? "",
  ];
  return wide(
    "Votes",
    h(
      "table",
      {},
      headings(["Annotator", "Answer", "Kind", "Time", "At", "Comment"]),
      h(
        "tbody",
        {},
        votes.map((vote) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, vote.annotator),
            row(vote).map((text) => h("td", {}, text)),
          ),
        ),
      ),
    ),
  );
}

function leaseInWords(annotator, state, until) {
  if (state === "live") return `${annotator} has it until ${moment(until)}.`;
  if (state === "skipped") return `${annotator} skipped it.`;
  if (state === "released") return `${annotator} gave it back, or it was taken back.`;
  return `${annotator} had it and let it run out.`;
}
