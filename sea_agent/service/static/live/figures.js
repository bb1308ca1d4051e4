// How users were answered and asked, in numbers; each says of how many.

import { fixed, number, plural } from "../admin/words.js";
import { h } from "../dom.js";

const NONE = "–";
const NAMES = { first: "first", second: "second", tie: "tie", both_bad: "both bad" };

/** The figures of a summary. */
export function figures(found) {
  const { audit, implicit, outcomes, users } = found;
  const each = Object.entries(NAMES).map(([key, name]) => `${number(outcomes[key])} ${name}`);
  const tiles = [
    ["Estimated regret", ...mean(found.regret)],
    ["Audits won against the initial policy", ...rate(audit.rate), `${plural(audit.ties, "tie")}, ${number(audit.asked)} asked`],
    ["Asked", percent(found.asked, found.eligible), `${number(found.asked)} of ${plural(found.eligible, "request")} that allow it`],
    ["Answered", ...rate(found.answer_rate), `${number(found.late)} late`],
    ["First shown chosen", ...rate(found.first_shown), each.join(", ")],
    ["Went on without a pick", number(implicit.first + implicit.second), `${number(implicit.first)} with the first, ${number(implicit.second)} with the second`],
    ["First token, median", ...quantiles(found.first_token)],
    ["Requests", number(found.requests), `${number(found.failed)} failed, ${number(found.unfinished)} under way`],
    ["Users", number(users.users), `${number(users.answering)} answered`],
    ["Tokens of an answer", found.requests ? number(Math.round(found.completion_tokens / found.requests)) : NONE, `${number(found.prompt_tokens)} read and ${number(found.completion_tokens)} written in all`],
    ["Thumbs up", number(found.thumbs_up), `${number(found.thumbs_down)} down, ${plural(found.edits, "edit")}, ${number(found.used)} used`],
  ];
  return h("dl", { class: "figures" }, tiles.map(tile));
}

/** A figure with what it rests on. */
const tile = ([name, figure, ...ground]) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, figure), h("dd", { class: "ground" }, ground.filter(Boolean).join("; ")));

const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : NONE);

function rate({ n, share, low, high }) {
  if (!n) return [NONE, ""];
  const [of, from, to] = [share, low, high].map((value) => Math.round(100 * value));
  return [`${of} %`, `${from} to ${to} %, n = ${number(n)}`];
}

function mean({ n, mean: value, low, high }) {
  return value === null ? [NONE, ""] : [fixed(value, 3), `${fixed(low, 3)} to ${fixed(high, 3)}, n = ${number(n)}`];
}

function quantiles({ n, p50, p95, p99 }) {
  if (!n) return [NONE, ""];
  const of = (seconds) => `${fixed(seconds, seconds < 1 ? 3 : 2)} s`;
  return [of(p50), `95 % within ${of(p95)}, 99 % within ${of(p99)}, n = ${number(n)}`];
}
