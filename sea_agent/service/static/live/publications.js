// Every version that was offered: what the gate measured, what became of it, and why.

import { isAdmin } from "../admin/context.js";
import { List } from "../admin/list.js";
import { badge, button, hint, section } from "../admin/parts.js";
import { fixed, moment, number } from "../admin/words.js";
import { h, headings, wide } from "../dom.js";

const COLUMNS = ["Version", "State", "Why", ...(isAdmin ? ["Change"] : []), "Win rate", "Judge", "KL", "Length", "Distinct", "Gap", "Users", "Answers", "Round", "Offered"];

export class Publications {
  #rows = h("tbody", {});
  #empty = h("p", { class: "hint" }, "No weights were offered yet. The first are after a round of answers.");
  #table = wide("Versions", h("table", {}, headings(COLUMNS), this.#rows));
  #list;

  element = section(
    "Versions and what the gate decided",
    this.#empty,
    this.#table,
    hint("Win rate against what was live, as the posterior sees it, with its lower bound at 95 %. KL in nats per response from the initial policy. Length and distinct share as multiples of the initial policy’s. Gap: nats a token between learner and sampler."),
  );

  constructor(actions) {
    this.#list = new List(
      this.#rows,
      ({ version }) => version,
      (one) => row(one, actions),
    );
  }

  show(publications, live) {
    this.#empty.hidden = publications.length > 0;
    this.#table.hidden = !publications.length;
    this.#list.show(publications.map((one) => ({ ...one, wasForced: live.forced === one.version })));
  }
}

function row({ version, state, reason, report, path, labels, round, created_at: at, wasForced }, actions) {
  const won = Number.isFinite(report.win_rate) ? `${fixed(report.win_rate, 3)} (from ${fixed(report.win_low, 3)})` : "–";
  const figure = (name, digits) => fixed(Number.isFinite(report[name]) ? report[name] : null, digits);
  const can = state !== "live" && path;
  const promote = button("Let it go live", () => actions.promote(version, state), { action: "promote" });
  promote.setAttribute("aria-label", `Let version ${version} go live`);
  const cells = [
    badge(wasForced ? `${state}, by an operator` : state, state),
    [reason || "–", report.audits ? h("p", { class: "hint" }, audits(report)) : null],
    ...(isAdmin ? [can ? promote : path ? "" : "weights are gone"] : []),
    won,
    figure("judge_win_rate", 3),
    figure("kl", 2),
    figure("length", 2),
    figure("distinct", 2),
    figure("gap", 4),
    number(report.users),
    number(labels),
    number(round),
    moment(at),
  ];
  const cell = (content, place) => h("td", { class: place === 1 ? "why" : null }, content);
  return h("tr", {}, h("th", { scope: "row" }, String(version)), cells.map(cell));
}

const audits = ({ audits: count, lost, won }) => `Audits: ${number(won)} won, ${number(lost)} lost of ${number(count)}.`;
