// Panels of curves over the methods: win rate, shortfall, what the posterior believes, and the signs of over-optimisation.

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { h } from "./dom.js";
import { percent, plural, rate, short } from "./format.js";
import { Panel } from "./panel.js";
import { state } from "./state.js";

const AXES = {
  queries: { label: "oracle queries", unit: "oracle queries", format: short },
  samples: { label: "responses sampled for training", unit: "samples", format: short },
  cpu: { label: "CPU seconds, evaluation apart", unit: "CPU s", format: short },
  wall: { label: "wall seconds, evaluation apart", unit: "s", format: short },
};

const OVER_SEEDS = "Line and band: mean and 95 % percentile bootstrap interval over seeds; single runs where fewer than 3 are finished, thin while they run.";

export function axis() {
  return { ...AXES[state.x], log: state.log };
}

/** What the server sends of a column, as curves of a chart. */
export function drawn(curves, shown) {
  return curves
    .filter((curve) => shown.visible.has(curve.method))
    .map((curve) => {
      const look = shown.colours.get(curve.method);
      const single = curve.kind !== "mean";
      const seed = single && curves.filter((other) => other.method === curve.method).length > 1 ? `, seed ${curve.seeds[0]}` : "";
      const running = curve.kind === "unfinished" ? " (so far)" : "";
      return {
        ...curve,
        ...look,
        name: `${curve.method}${seed}${running}`,
        width: single ? 1.25 : 2.25,
        fill: single ? 0.08 : 0.16,
      };
    })
    .sort((a, b) => (a.method === shown.method) - (b.method === shown.method));
}

/** How many runs the curves are of. */
export function howMany(curves, shown) {
  const visible = curves.filter((curve) => shown.visible.has(curve.method));
  const seeds = visible.reduce((sum, curve) => sum + curve.seeds.length, 0);
  return visible.length ? `n = ${plural(seeds, "run")} of ${plural(new Set(visible.map((curve) => curve.method)).size, "method")}.` : "";
}

const said = (text, shown) => (typeof text === "function" ? text(shown) : text);

class CurvePanel {
  constructor(id, title, columns) {
    this.panel = new Panel(id, title);
    this.columns = columns;
    this.charts = columns.map(({ title: heading, height }) => {
      const box = h("div", { class: "part" }, columns.length > 1 ? h("h3", {}, heading) : null);
      this.panel.body.append(box);
      return Object.assign(new Chart(box, `${title}: ${heading}`, height), { heading });
    });
    this.panel.body.classList.toggle("parts", columns.length > 1);
    this.panel.charts = this.charts;
  }

  draw(data, shown, x, extra = {}) {
    this.columns.forEach((column, k) => {
      const curves = data.columns[column.name] ?? [];
      this.charts[k].update({ curves: drawn(curves, shown), x, y: column.y, empty: said(column.empty, shown), ...extra });
    });
    this.panel.define(this.definition(shown), howMany(data.columns[this.columns[0].name] ?? [], shown));
  }
}

export class WinRate extends CurvePanel {
  constructor() {
    super("win-rate", "Win rate", [{ name: "win_rate", title: "against the initial policy", height: 340, y: { label: "win rate", format: rate } }]);
  }

  definition(shown) {
    return `${shown.definition ?? ""} ${OVER_SEEDS} Drag to zoom, double-click to go back.`;
  }

  async update(shown) {
    const parameters = { ...shown.about, column: "win_rate", x: state.x };
    this.panel.from("curves", parameters);
    await this.panel.show(() => get("curves", parameters), (data) => this.draw(data, shown, axis(), { target: state.level }));
  }
}

export class Shortfall extends CurvePanel {
  constructor() {
    super("shortfall", "Shortfall", [{ name: "shortfall", title: "area above the curve", height: 300, y: { label: "answers lost", format: short } }]);
  }

  definition() {
    return "Area between a win rate of 1 and the curve, in oracle answers: what slow learning has cost. It stands for regret, which is not known: no oracle tells the best response there is.";
  }

  async update(shown) {
    const parameters = { ...shown.about, column: "shortfall", x: state.x };
    this.panel.from("curves", parameters);
    await this.panel.show(() => get("curves", parameters), (data) => this.draw(data, shown, axis()));
  }
}

const graph = (name, title, height, format, empty) => ({ name, title, height, y: { label: "", format }, empty });

export class Optimisation extends CurvePanel {
  constructor() {
    super("optimisation", "Over-optimisation", [
      graph("judge_win_rate", "Win rate by the independent judge", 200, rate, ({ byJudge }) =>
        byJudge ? "The win rate above is the judge's: the oracle does not evaluate." : "No judge beside the oracle: set evaluation.judge."),
      graph("response_tokens", "Tokens of a response", 200, short),
      graph("distinct_share", "Prompts with two different samples", 200, percent),
      graph("kl_to_reference", "KL to the initial policy, nats", 200, short, "No reference is kept by this loss."),
    ]);
  }

  definition() {
    return "What a policy gives up to please one oracle: a judge's curve that turns down, responses that grow or shrink, samples that become the same, a policy far from where it began. On held-out prompts.";
  }

  async update(shown) {
    const parameters = { ...shown.about, column: this.columns.map(({ name }) => name), x: state.x };
    this.panel.from("curves", parameters);
    await this.panel.show(() => get("curves", parameters), (data) => this.draw(data, shown, axis()));
  }
}

export class Beliefs extends CurvePanel {
  constructor() {
    const empty = "No posterior chose these pairs.";
    super("beliefs", "What the posterior knew", [
      graph("disagreement", "Disagreement about the chosen pairs", 110, rate, empty),
      graph("typical_disagreement", "About pairs at random", 110, rate, empty),
      graph("foresight_accuracy", "Answers it foresaw", 110, percent, empty),
    ]);
  }

  definition() {
    return "Before each answer: standard deviation over the posterior of the probability that the first response wins, and the share of answers on the side it believed in. Means of up to 24 stretches of rounds. At random: the mean over all pairs of a prompt's candidates.";
  }

  async update(shown) {
    this.panel.from("beliefs", shown.about);
    await this.panel.show(() => get("beliefs", shown.about), (data) => this.draw(data, shown, { ...AXES.queries, log: state.log }));
  }
}
