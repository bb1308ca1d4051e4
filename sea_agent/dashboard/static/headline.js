// The figures that tell at a glance whether labels are well spent, and the table of queries to the target.

import { get } from "./api.js";
import { byId, h, headings, swatch, wide } from "./dom.js";
import { NONE, count, factor, interval, percent, plural, rate } from "./format.js";
import { Panel } from "./panel.js";
import { state } from "./state.js";

const total = (values) => values.reduce((sum, value) => sum + value, 0);

/** One tile: `name`, the figure, and what it rests on. */
function tile(id, name, figure, ground, extra = {}) {
  return h("div", { class: `tile ${extra.class ?? ""}`, id: `tile-${id}`, title: extra.title ?? null }, h("h2", {}, name), h("p", { class: "figure" }, figure), h("p", { class: "ground" }, ground));
}

export class Headline {
  constructor() {
    this.section = byId("headline");
    this.labels = null;
    this.agreement = null;
  }

  update(shown) {
    this.shown = shown;
    this.#draw();
  }

  async updateLabels(shown) {
    this.labels = await get("labels", shown.about).catch(() => null);
    this.#draw();
  }

  /** Agreement of the service's annotators, or why there is none. */
  setAgreement(agreement, reason) {
    this.agreement = agreement;
    this.reason = reason;
    if (this.shown) this.#draw();
  }

  #draw() {
    const row = this.shown.row;
    const labels = this.labels?.methods.find(({ method }) => method === this.shown.method);
    this.section.replaceChildren(this.#saved(row), this.#winRate(row), ...this.#spent(labels));
  }

  #saved(row) {
    const { baseline } = this.shown;
    const name = "Labels saved";
    const title = "How many times the oracle queries of the method its baseline needed to the target: geometric mean of paired ratios";
    const to = `to a win rate of ${rate(state.level, 2)}`;
    if (!row) return tile("saved", name, NONE, "No run to compare", { class: "first", title });
    if (!baseline) return tile("saved", name, NONE, "There is no baseline to compare with: pick one above", { class: "first", title });
    if (row.method === baseline) return tile("saved", name, NONE, `${baseline} is the baseline; pick another method`, { class: "first", title });
    if (!row.factor) return tile("saved", name, NONE, `No run of ${row.method} has a seed in common with ${baseline}`, { class: "first", title });
    const { low, high, bound, ratios } = row.factor;
    const reached = { ">=": `; ${baseline} never got there in some`, "<=": `; ${row.method} never got there in some`, "?": "; neither got there in some" }[bound] ?? "";
    const ends = interval(low, high, (value) => value.toFixed(2)) || "no interval under 3 pairs";
    return tile("saved", name, factor(row.factor), `${row.method} against ${baseline}, ${to}. 95 % ${ends}, ${plural(ratios.length, "pair")}${reached}`, { class: "first", title });
  }

  #winRate(row) {
    if (!row?.final.win_rate) return tile("win-rate", "Win rate", NONE, "Nothing was evaluated");
    const counted = row.runs.filter((run) => row.so_far || run.state === "finished");
    const ends = new Set(counted.map((run) => run.queries));
    const at = ends.size === 1 ? count([...ends][0]) : `${count(Math.min(...ends))}–${count(Math.max(...ends))}`;
    const { mean, low, high } = row.final.win_rate;
    const over = low === null ? (counted.length === 1 ? interval(...counted[0].interval, rate) : "") : interval(low, high, rate);
    const of = low === null ? (over ? "over prompts, one run" : plural(counted.length, "run")) : `over ${plural(counted.length, "seed")}`;
    return tile("win-rate", `Win rate @${at}`, rate(mean), `${over} ${of}${row.so_far ? ", so far" : ""}`, {
      title: "Last evaluation, against the initial policy; 95 % interval",
    });
  }

  #spent(labels) {
    const { answers, outcomes = {}, posterior, per_minute: speed, first_share, waiting } = labels ?? {};
    const runs = labels ? plural(labels.runs, "run") : NONE;
    const decided = (outcomes.first ?? 0) + (outcomes.second ?? 0);
    const open = waiting ? `, ${count(waiting)} waiting` : "";
    return [
      tile("accepted", "Accepted labels", count(answers), `in ${runs}${open}; ${count(posterior)} more by the posterior`, { title: "Answers of the oracle in the ledgers, skips left out" }),
      tile("speed", "Labels a minute", speed ? speed.toFixed(speed < 10 ? 1 : 0) : NONE, `first to last answer, ${runs}`, { title: "Answers after the first, over the time from the first to the last, of each run" }),
      tile("agreement", "Agreement α", this.agreement?.alpha == null ? NONE : rate(this.agreement.alpha, 2), this.agreement?.alpha == null ? (this.reason ?? "…") : `${interval(this.agreement.alpha_low, this.agreement.alpha_high, (value) => rate(value, 2))} ${plural(this.agreement.compared, "duel")}`, { title: "Krippendorff's α of the annotators" }),
      tile("first", "First position", percent(first_share, 1), `of ${plural(decided, "decided answer")}`, { title: "Share of decided answers that prefer the first response; far from 50 % hints at position bias" }),
    ];
  }
}

export class Targets {
  constructor() {
    this.panel = new Panel("targets", "Queries to the target");
    this.table = h("table", { class: "figures" });
    this.panel.body.append(wide("Queries to the target", this.table, "scroll"));
  }

  draw(view, shown) {
    this.panel.from("comparison", { ...shown.about, level: state.level, baseline: shown.baseline });
    const most = Math.max(1, ...view.methods.map((row) => row.factor?.mean ?? 0));
    this.table.replaceChildren(
      headings(["Method", "Queries", "Labels saved", "n"]),
      h("tbody", {}, view.methods.map((row) => this.#row(row, shown, most))),
    );
    const runs = total(view.methods.map((row) => row.seeds.length));
    this.panel.define(
      `Oracle queries until the win rate first reaches ${rate(state.level, 2)}, linear between evaluations; mean over seeds, 95 % bootstrap interval. ≥: a run never got there and counts with its budget. Labels saved: geometric mean of the ratios of ${view.baseline ?? "the baseline"} to the method, paired by seed; ≥ when the baseline, ≤ when the method, ? when both never got there. Lighter: not finished yet.`,
      `n = ${plural(runs, "run")}.`,
    );
  }

  #row(row, shown, most) {
    const look = shown.colours.get(row.method);
    const width = `${row.factor ? (100 * row.factor.mean) / most : 0}%`;
    const show = (value) => value.toFixed(0);
    const { mean, low, high } = row.queries;
    return h(
      "tr",
      { class: `${row.so_far ? "so-far" : ""} ${row.method === shown.method ? "chosen" : ""}`, dataset: { method: row.method } },
      h("th", { scope: "row" }, swatch(look.colour), row.method),
      h("td", {}, `${row.censored ? "≥\u2009" : ""}${show(mean)}`, h("small", {}, interval(low, high, show)), row.censored ? h("small", {}, `${row.censored} of ${row.seeds.length} never`) : null),
      h("td", {}, factor(row.factor), h("small", {}, row.factor ? interval(row.factor.low, row.factor.high, (value) => value.toFixed(1)) : ""), row.factor ? h("i", { class: "meter", style: { width, background: look.colour } }) : null),
      h("td", {}, String(row.seeds.length)),
    );
  }
}
