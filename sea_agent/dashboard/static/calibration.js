// Whether beliefs were borne out: the share of duels that the first response won, by what the posterior had believed.

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { h, headings, wide } from "./dom.js";
import { count, percent, plural } from "./format.js";
import { Panel } from "./panel.js";

export class Calibration {
  constructor() {
    this.panel = new Panel("calibration", "Calibration");
    this.chart = new Chart(this.panel.body, "Calibration: wins of the first response by belief", 270);
    this.counts = h("table", { class: "figures" });
    this.panel.body.append(h("details", {}, h("summary", {}, "Answers in each bin"), wide("Answers in each bin", this.counts, "scroll")));
    this.panel.charts = [this.chart];
  }

  async update(shown) {
    this.panel.from("labels", shown.about);
    await this.panel.show(() => get("labels", shown.about), (data) => this.#draw(data, shown));
  }

  #draw({ methods }, shown) {
    const visible = methods.filter(({ method }) => shown.visible.has(method));
    const known = (bins) => bins.filter(({ n }) => n);
    this.chart.update({
      curves: visible.map(({ method, calibration }) => ({
        ...shown.colours.get(method),
        name: method,
        dash: [],
        points: true,
        fill: 0.1,
        x: known(calibration).map((bin) => bin.belief),
        y: known(calibration).map((bin) => bin.share),
        // Bands of many methods would hide each other: the chosen one has one.
        low: method === shown.method ? known(calibration).map((bin) => bin.low) : null,
        high: method === shown.method ? known(calibration).map((bin) => bin.high) : null,
      })),
      x: { label: "belief that the first wins", unit: "belief", range: [0, 1], format: percent },
      y: { label: "share it won", range: [0, 1], format: percent },
      diagonal: true,
      empty: "No posterior chose these pairs.",
    });
    const chosen = visible.filter(({ calibration }) => known(calibration).length);
    this.counts.replaceChildren(
      headings(["Belief", ...chosen.map(({ method }) => method)]),
      h("tbody", {}, (chosen[0]?.calibration ?? []).map((bin, k) =>
        h("tr", {}, h("th", { scope: "row" }, `${percent(bin.from)} – ${percent(bin.to)}`), chosen.map(({ calibration }) => h("td", {}, count(calibration[k].n)))),
      )),
    );
    const answers = chosen.reduce((sum, { calibration }) => sum + calibration.reduce((part, { n }) => part + n, 0), 0);
    const trouble = methods.flatMap((one) => one.trouble);
    this.panel.define(
      `From the ledgers: in ten bins of the belief before the answer, the share of duels that the first response won (a tie counts ½), with the 95 % Wilson interval of the chosen method. On the dotted line beliefs are right.${trouble.length ? ` Left out: ${trouble[0].run}: ${trouble[0].why}` : ""}`,
      `n = ${plural(answers, "answer")}.`,
    );
  }
}
