// How users were answered and asked, in numbers; each says of how many.

import { fixed, number, plural, share } from "../admin/words.js";
import { h } from "../dom.js";

const NONE = "–";
const NAMES = { first: "first", second: "second", tie: "tie", both_bad: "both bad" };

/** The figures of a summary. */
export function figures(found) {
  const { audit, outcomes, users } = found;
  const pairs = [
    ["Requests", `${number(found.requests)}, ${number(found.failed)} failed, ${number(found.unfinished)} under way`],
    ["Estimated regret", mean(found.regret)],
    ["Audits won against the initial policy", `${share(audit.rate)}${audit.ties ? `, ${plural(audit.ties, "tie")}` : ""} of ${number(audit.asked)} asked`],
    ["Asked", `${percent(found.asked, found.eligible)} of ${plural(found.eligible, "request")} that allow it: ${number(found.asked)}`],
    ["Answered", `${share(found.answer_rate)}${found.late ? `, ${number(found.late)} of them late` : ""}`],
    ["Outcomes", Object.entries(NAMES).map(([key, name]) => `${number(outcomes[key])} ${name}`).join(", ")],
    ["First shown chosen", share(found.first_shown)],
    ["First token", quantiles(found.first_token)],
    ["Length of an answer", found.requests ? `${number(Math.round(found.completion_tokens / found.requests))} tokens` : NONE],
    ["Tokens", `${number(found.prompt_tokens)} read, ${number(found.completion_tokens)} written`],
    ["Other feedback", `${number(found.thumbs_up)} up, ${number(found.thumbs_down)} down, ${plural(found.edits, "edit")}, ${number(found.used)} used`],
    ["Users", `${number(users.users)}, of whom ${number(users.answering)} answered`],
  ];
  return h("dl", { class: "figures" }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : NONE);

function mean({ n, mean: value, low, high }) {
  return value === null ? NONE : `${fixed(value, 3)} (${fixed(low, 3)} to ${fixed(high, 3)}, n = ${number(n)})`;
}

/** "0.21 s for half of 90 requests, 0.4 s for 95 %, 0.6 s for 99 %" */
function quantiles({ n, p50, p95, p99 }) {
  if (!n) return NONE;
  const of = (seconds) => `${fixed(seconds, seconds < 1 ? 3 : 2)} s`;
  return `${of(p50)} for half of ${plural(n, "request")}, ${of(p95)} for 95 %, ${of(p99)} for 99 %`;
}
