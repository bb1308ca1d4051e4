// The ledger of one run, duel by duel: found by text, outcome and round, with why each pair was chosen.

import { get } from "./api.js";
import { field, h, options } from "./dom.js";
import { count, percent, plural, rate } from "./format.js";
import { Panel } from "./panel.js";
import { address, change, state } from "./state.js";

const SHOWN = 20;
const OUTCOMES = { first: "first won", second: "second won", tie: "tie", both_bad: "both bad", skip: "skipped" };
const SORTS = [["newest", "newest first"], ["oldest", "oldest first"], ["disagreement", "most disagreement"], ["surprise", "most surprising answer"]];

export class Duels {
  constructor() {
    this.panel = new Panel("duels", "Duels");
    this.list = h("ol", { class: "duel-list", "aria-label": "Duels" });
    this.detail = h("article", { class: "duel", "aria-live": "polite", "aria-label": "Duel" });
    this.seen = new Promise((resolve) => new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && resolve()).observe(this.detail));
    this.rendered = true;
    this.pages = h("div", { class: "pages" });
    this.panel.body.append(this.#filter(), h("div", { class: "duel-split" }, h("div", {}, this.list, this.pages), this.detail));
    this.list.addEventListener("keydown", (event) => this.#onKey(event));
  }

  async update() {
    if (!state.run) return this.panel.fail("No run is chosen.");
    this.#fillFilter();
    const wanted = this.#wanted();
    this.panel.from("duels", wanted);
    const parameters = { ...wanted, offset: state.page * SHOWN, limit: SHOWN };
    await this.panel.show(() => get("duels", parameters), (view) => this.#draw(view));
    await this.#showDuel(this.list.querySelector("a")?.dataset.duel);
  }

  #wanted() {
    const { run, text, outcome, source, sort } = state;
    return { run, text, outcome, source, sort, first_round: state.from, last_round: state.to };
  }

  #filter() {
    const set = (key) => (event) => change({ [key]: event.target.value, page: 0 });
    let waiting;
    this.text = h("input", {
      type: "search",
      placeholder: "in prompt or responses",
      oninput: (event) => {
        clearTimeout(waiting);
        waiting = setTimeout(() => set("text")(event), 250);
      },
    });
    this.outcome = h("select", { onchange: set("outcome") });
    this.source = h("select", { onchange: set("source") });
    this.sort = h("select", { onchange: set("sort") });
    this.from = h("input", { type: "number", min: 0, inputmode: "numeric", onchange: set("from") });
    this.to = h("input", { type: "number", min: 0, inputmode: "numeric", onchange: set("to") });
    return h(
      "form",
      { class: "filter", role: "search", onsubmit: (event) => event.preventDefault() },
      field("Text", this.text),
      field("Outcome", this.outcome),
      field("Labelled by", this.source),
      field("From round", this.from),
      field("To round", this.to),
      field("Order", this.sort),
    );
  }

  #fillFilter() {
    options(this.outcome, [["", "any"], ...Object.entries(OUTCOMES), ["none", "not answered"]], state.outcome);
    options(this.source, [["", "anybody"], ["oracle", "oracle"], ["posterior", "posterior"]], state.source);
    options(this.sort, SORTS, state.sort);
    if (document.activeElement !== this.text) this.text.value = state.text;
    this.from.value = state.from;
    this.to.value = state.to;
  }

  #draw({ duels, total, offset }) {
    const focused = this.list.contains(document.activeElement) ? document.activeElement.dataset.duel : null;
    this.list.replaceChildren(...duels.map((duel) => this.#item(duel)));
    if (focused) this.list.querySelector(`[data-duel="${CSS.escape(focused)}"]`)?.focus();
    const turn = (by) => () => change({ page: state.page + by });
    this.pages.replaceChildren(
      h("button", { type: "button", onclick: turn(-1), disabled: offset === 0 }, "← Before"),
      h("span", {}, total ? `${count(offset + 1)}–${count(offset + duels.length)} of ${count(total)}` : "No duel fits."),
      h("button", { type: "button", onclick: turn(1), disabled: offset + duels.length >= total }, "Next →"),
    );
    this.panel.define(
      "↑ and ↓ go through the list. Every duel of the ledger. Belief: the posterior's probability, before the answer, that the first response wins; disagreement: its standard deviation. A CSV holds what the filter finds, whole texts included.",
      `n = ${plural(total, "duel")}.`,
    );
  }

  #item(duel) {
    return h(
      "li",
      {},
      h(
        "a",
        { href: address({ duel: duel.id, panel: "duels" }), dataset: { duel: duel.id }, onclick: (event) => this.#open(event, duel.id) },
        h("span", { class: "duel-head" }, h("span", { class: `outcome ${duel.outcome ?? "none"}` }, OUTCOMES[duel.outcome] ?? "not answered"), h("span", {}, `round ${duel.round}`), h("span", {}, duel.belief === null ? "" : `belief ${rate(duel.belief, 2)} ± ${rate(duel.disagreement, 2)}`), duel.source === "oracle" ? null : h("span", {}, duel.source)),
        h("span", { class: "line" }, duel.prompt),
        h("span", { class: "line side" }, h("b", {}, "1 "), duel.first),
        h("span", { class: "line side" }, h("b", {}, "2 "), duel.second),
      ),
    );
  }

  #open(event, id) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    change({ duel: id, panel: "duels" });
  }

  #onKey(event) {
    const links = [...this.list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (at < 0 || to === undefined || !links[to]) return;
    event.preventDefault();
    links[to].focus();
    change({ duel: links[to].dataset.duel });
  }

  /** The duel of the address, or the first one of the list. */
  async #showDuel(first) {
    const id = state.duel || first;
    for (const link of this.list.querySelectorAll("a")) {
      if (link.dataset.duel === id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    if (!id) return this.detail.replaceChildren(h("p", { class: "empty" }, "There is no duel to read."));
    try {
      const duel = await get("duel", { run: state.run, duel: id });
      this.detail.replaceChildren(...this.#whole(duel));
    } catch (error) {
      if (error.status === undefined) throw error;
      this.detail.replaceChildren(h("p", { class: "fault" }, error.message));
    }
  }

  /** Render the texts of a duel, and mark what differs, once somebody sees them: what does so is heavy. */
  async #render(texts, duel, note) {
    await this.seen;
    try {
      const { showDuel } = await import("./text.js");
      note.textContent = showDuel(texts, duel, { rendered: this.rendered, marking: true });
    } catch (error) {
      note.textContent = `The texts are as they were written, without marks: ${error.message}`;
    }
  }

  #whole(duel) {
    const place = (text) => h("div", { class: "text", dir: "auto" }, text);
    const texts = { prompt: place(duel.prompt), first: place(duel.first), second: place(duel.second) };
    const note = h("p", { class: "hint" });
    const toggle = h("button", { type: "button", onclick: () => draw(!this.rendered) });
    const draw = (rendered) => {
      this.rendered = rendered;
      toggle.textContent = rendered ? "Show raw" : "Show rendered";
      this.#render(texts, duel, note);
    };
    draw(this.rendered);
    const side = (name, text, version, tokens) =>
      h(
        "section",
        { class: duel.outcome === name ? "side won" : "side" },
        h("h4", {}, name === "first" ? "First" : "Second", duel.outcome === name ? h("span", { class: "badge" }, "preferred") : null),
        text,
        h("p", { class: "hint" }, `${version < 0 ? "by the frozen reference" : `policy version ${version}`}, ${plural(tokens, "token")}`),
      );
    return [
      h("h3", { class: "with-button" }, "Prompt", toggle),
      texts.prompt,
      h("div", { class: "sides" }, side("first", texts.first, duel.first_version, duel.first_tokens), side("second", texts.second, duel.second_version, duel.second_tokens)),
      note,
      h("h3", {}, "Belief and answer"),
      duel.belief === null ? h("p", {}, "No posterior looked at this pair.") : belief(duel),
      h("p", {}, answer(duel)),
      h("h3", {}, "Why this pair"),
      h("p", {}, reason(duel)),
      h("p", { class: "hint" }, h("a", { href: address({ duel: duel.id, panel: "duels" }) }, "Link to this duel"), ` ${duel.id}`),
    ].filter(Boolean);
  }
}

/** A scale from "second wins" to "first wins" with the belief, its spread, and the answer. */
function belief(duel) {
  const at = (share) => `${100 * Math.min(1, Math.max(0, share))}%`;
  const [low, high] = [Math.max(0, duel.belief - duel.disagreement), Math.min(1, duel.belief + duel.disagreement)];
  const told = { first: 1, second: 0, tie: 0.5 }[duel.outcome];
  const mark = (name, left, width) => h("i", { class: name, style: { left: at(left), width } });
  return h(
    "div",
    { class: "belief", role: "img", "aria-label": `Belief ${rate(duel.belief, 2)} that the first wins, plus or minus ${rate(duel.disagreement, 2)}` },
    h("span", {}, "second"),
    h("div", { class: "scale" }, mark("spread", low, at(high - low)), mark("point", duel.belief), told === undefined ? null : mark("told", told)),
    h("span", {}, "first"),
    h("b", {}, `${rate(duel.belief, 2)} ± ${rate(duel.disagreement, 2)}`),
  );
}

function answer(duel) {
  if (duel.outcome === null) return "Not answered yet.";
  const when = new Date(1000 * duel.at).toLocaleString();
  const surprise = duel.belief !== null && ["first", "second"].includes(duel.outcome) ? ((duel.belief > 0.5) === (duel.outcome === "first") ? ", as the posterior believed" : ", against the posterior's belief") : "";
  const sure = duel.probability === null ? "" : ` with probability ${rate(duel.probability, 2)} for the first`;
  const after = duel.belief_after === null ? "" : ` Belief afterwards: ${rate(duel.belief_after, 2)} ± ${rate(duel.disagreement_after, 2)}.`;
  return `${duel.annotator}: ${OUTCOMES[duel.outcome]}${surprise}${sure}, ${when}.${after}`;
}

function reason(duel) {
  const by = { oracle: "for the oracle", posterior: "for the posterior to label", demo: "as a demonstration", self: "for the policy itself" }[duel.source];
  const how = `The rule ${duel.rule} chose it ${by} in round ${duel.round}, from policy version ${duel.policy_version} and posterior version ${duel.posterior_version}.`;
  if (duel.belief === null) return `${how} No posterior took part.`;
  const rank = duel.disagreement_above === null ? "" : ` The posterior disagreed about it more than about ${percent(duel.disagreement_above)} of this run's duels.`;
  const typical = duel.typical_disagreement === null ? "" : ` (${rate(duel.typical_disagreement, 2)} for a random pair)`;
  return `${how} It believed in the first response with ${rate(duel.belief, 2)} and a standard deviation of ${rate(duel.disagreement, 2)}${typical}.${rank}`;
}
