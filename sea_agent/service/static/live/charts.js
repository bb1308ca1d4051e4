// What changed over time, and what the gate measured of each version.

import { Chart } from "../chart.js";
import { onScheme, palette } from "../colours.js";
import { h, swatch } from "../dom.js";
import { percent, rate, short } from "../format.js";

const DAY_S = 86_400;

/** Curves over the time of the summary: how a part of it becomes a point, null where there is none. */
const OVER_TIME = [
  { title: "Estimated regret", what: "Posterior mean of the best reward less that of what was shown; lower is better.", names: ["regret"], points: [({ regret }) => regret] },
  { title: "First token", what: "Mean seconds until the first word.", names: ["seconds"], points: [({ first_token: seconds }) => seconds] },
  { title: "Asked and answered", what: "Shares of all requests.", names: ["asked", "answered"], format: percent, points: [({ asked, requests }) => part(asked, requests), ({ answered, requests }) => part(answered, requests)] },
  { title: "Requests", what: "In each part of the time, and those that failed.", names: ["requests", "failed"], points: [({ requests }) => requests, ({ failed }) => failed] },
];

/** Curves over the versions, from what the gate reported. */
const OVER_VERSIONS = [
  { title: "Win rate against what was live", what: "As the posterior sees it, down to its lower bound.", names: ["win rate"], format: (value) => rate(value, 2), target: 0.5, range: () => [0, 1], low: ({ win_low: low }) => low, points: [({ win_rate: won }) => won] },
  { title: "Length and divergence", what: "Length as a multiple of the initial policy’s; nats per response from it.", names: ["length", "KL"], points: [({ length }) => length, ({ kl }) => kl] },
  { title: "Drift of prompts", what: "How far the newest held-out prompts are from those before them: 0 the same kind, 1 nothing in common.", names: ["drift"], range: () => [0, 1], points: [({ drift }) => drift] },
];

const whole = (value) => (Number.isInteger(value) ? String(value) : "");

const part = (some, all) => (all ? some / all : null);

export class Charts {
  element = h("div", { class: "charts" });

  #shown = [...OVER_TIME, ...OVER_VERSIONS].map((plan) => this.#frame(plan));
  #given = null; // what is drawn

  constructor() {
    onScheme(() => this.#given && this.#draw(...this.#given));
  }

  /** Draw the series of a summary and the reports of publications, unless that is what is drawn or they are being read. */
  show(series, publications) {
    const reports = publications.map(({ version, report }) => ({ ...report, version })).reverse();
    const values = (given) => JSON.stringify(given, (key, value) => (key === "at" ? undefined : value));
    if (this.#given && values([series, reports]) === values(this.#given)) return;
    if (this.#shown.some(({ chart }) => !chart.tip.hidden)) return;
    this.#draw(series, reports);
  }

  #draw(series, reports) {
    this.#given = [series, reports];
    const times = series.map(({ at }) => Date.parse(at) / 1000);
    const isLong = times.length > 1 && times[times.length - 1] - times[0] > DAY_S;
    const clock = (seconds) => new Date(seconds * 1000).toLocaleString(undefined, isLong ? { month: "short", day: "numeric" } : { timeStyle: "short" });
    for (const { plan, chart, key } of this.#shown) {
      key.replaceChildren(...plan.names.map((name, k) => h("span", {}, swatch(palette()[k]), name)));
      const isOverTime = OVER_TIME.includes(plan);
      const [xs, rows] = isOverTime ? [times, series] : [reports.map(({ version }) => version), reports];
      const x = isOverTime ? { label: "time", unit: "", format: clock } : { label: "version", format: whole };
      chart.update({
        curves: plan.names.map((name, k) => curveOf(plan, k, name, xs, rows)),
        x,
        y: { label: "", format: plan.format ?? short, range: plan.range },
        target: plan.target,
        empty: isOverTime ? "Nothing in this time." : "No version has been through the gate yet.",
      });
    }
  }

  #frame(plan) {
    const key = h("p", { class: "curves", hidden: plan.names.length < 2 });
    const frame = h("section", { class: "card" }, h("h2", {}, plan.title), h("p", { class: "hint" }, plan.what), key);
    this.element.append(frame);
    return { plan, key, chart: new Chart(frame, `Chart: ${plan.title}. ${plan.what}`, 180) };
  }
}

/** The points of a curve that are known. */
function curveOf({ points, low }, k, name, xs, rows) {
  const isNumber = (value) => Number.isFinite(value);
  const known = rows.map((row, place) => [xs[place], points[k](row), low?.(row)]).filter(([, y]) => isNumber(y));
  const hasBand = low && known.every(([, , bound]) => isNumber(bound));
  const [x, y, bounds] = [0, 1, 2].map((column) => known.map((one) => one[column]));
  return { name, colour: palette()[k], x, y, low: hasBand ? bounds : null, high: hasBand ? y : null, points: known.length < 30 };
}
