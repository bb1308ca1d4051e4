// Where the time of one run goes, and how fresh the responses are that it learns from.

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { palette } from "./colours.js";
import { h, swatch } from "./dom.js";
import { count, percent, plural, short } from "./format.js";
import { Panel } from "./panel.js";
import { state } from "./state.js";

export class Throughput {
  constructor() {
    this.panel = new Panel("throughput", "Throughput");
    this.flow = h("p", { class: "flow" });
    this.key = h("ul", { class: "key" });
    this.oracle = h("p", { class: "flow" });
    this.panel.body.append(this.flow, this.oracle, this.key);
    this.chart = new Chart(this.panel.body, "Throughput: seconds of each stage by round", 230);
    this.panel.charts = [this.chart];
  }

  async update() {
    if (!state.run) return this.panel.fail("No run is chosen.");
    this.panel.from("throughput", { run: state.run });
    await this.panel.show(() => get("throughput", { run: state.run }), (view) => this.#draw(view));
  }

  #draw(view) {
    const stages = Object.keys(view.seconds);
    const all = stages.reduce((sum, stage) => sum + view.totals[stage], 0);
    const below = view.round.map(() => 0);
    const curves = stages.map((stage, k) => {
      const low = [...below];
      view.seconds[stage].forEach((value, place) => (below[place] += value));
      return { name: stage, colour: palette()[k % palette().length], width: 1, fill: 0.75, x: view.round, y: [...below], low, high: [...below] };
    });
    this.chart.update({
      curves,
      stacked: true,
      x: { label: "round", unit: "rounds", format: short },
      y: { label: "seconds a round", format: short },
      empty: "No round is finished yet.",
    });
    this.key.replaceChildren(
      ...curves.map(({ name, colour }) => h("li", {}, swatch(colour), name, h("small", {}, all ? percent(view.totals[name] / all) : ""))),
    );
    const { counts, oracle, staleness } = view;
    const duels = view.duels ?? { answered: counts.oracle_queries };
    this.oracle.textContent = Object.entries(oracle).map(([name, value]) => `${name.replaceAll("_", " ")} ${short(value)}`).join(" · ");
    this.flow.replaceChildren(
      ...[
        [counts.policy_samples, "sampled"],
        [duels.asked, "asked"],
        [duels.answered, "answered"],
        [counts.gradient_steps, "policy updates"],
      ].filter(([number]) => number !== undefined).flatMap(([number, what], k) => [k ? h("span", { "aria-hidden": "true" }, " → ") : "", h("b", {}, count(number)), ` ${what}`]),
      duels.waiting ? h("span", {}, `, ${count(duels.waiting)} waiting for an answer`) : "",
      duels.skipped ? h("span", {}, `, ${count(duels.skipped)} skipped`) : "",
      counts.imagined_pairs ? `, and ${count(counts.imagined_pairs)} imagined pairs` : "",
    );
    const stale = !staleness
      ? ` Staleness is not known: ${view.trouble}`
      : staleness.round.length
        ? ` Responses were sampled ${short(average(staleness.mean))} weight versions before they were learnt from on average, ${short(Math.max(...staleness.largest))} at most.`
        : "";
    this.panel.define(`Wall seconds of each stage, means of neighbouring rounds stacked; shares are of ${short(all)} s in all.${stale}`, `n = ${plural(view.rounds, "row")} of metrics.`);
  }
}

function average(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
