// Numbers, times and states in words.

const NONE = "–";

export const STATES = { open: "Open", paused: "Paused", closed: "Closed", archived: "Archived" };

export const OUTCOMES = { first: "First", second: "Second", tie: "Tie", both_bad: "Both bad" };

export const DUEL_STATES = {
  open: "Open",
  leased: "Being answered",
  stuck: "Stuck",
  answered: "Answered",
  skipped: "Skipped by somebody",
  cancelled: "Cancelled",
  expired: "Expired",
};

export const number = (value) => (value === null || value === undefined ? NONE : value.toLocaleString("en"));

/** "1 duel", "3 duels" */
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export const fixed = (value, decimals) =>
  value === null || value === undefined ? NONE : value.toFixed(decimals).replace("-", "−");

/** A share with its interval and of how many: "83 % (61–94, n = 18)". */
export function share(rate) {
  if (!rate?.n) return NONE;
  const [of, low, high] = [rate.share, rate.low, rate.high].map((value) => Math.round(100 * value));
  return `${of} % (${low}–${high}, n = ${number(rate.n)})`;
}

/** A moment on the reader's clock. */
export const moment = (iso) =>
  iso ? new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : NONE;

/** "just now", "5 minutes ago", "3 days ago" */
export function ago(iso) {
  if (!iso) return "never";
  const minutes = Math.round((Date.now() - new Date(iso)) / 60000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${plural(minutes, "minute")} ago`;
  if (minutes < 48 * 60) return `${plural(Math.round(minutes / 60), "hour")} ago`;
  return `${plural(Math.round(minutes / 1440), "day")} ago`;
}

/** What makes duels that nobody can answer go on. */
export const REMEDY = "invite people, lower votes, or take back what was handed out.";

/** What is to be done about duels that nobody can answer; empty when there are none. */
export function stuckInWords(count) {
  if (!count) return "";
  const verb = count === 1 ? "waits" : "wait";
  return `${plural(count, "duel")} ${verb} for votes that nobody can give: ${REMEDY}`;
}

/** What is to be done where nobody can qualify, as too few gold duels are open; empty where they can. */
export function noGoldInWords({ qualification, state }, { gold_missing: missing }) {
  if (!missing || state === "closed" || state === "archived") return "";
  const open = qualification - missing;
  const has = open ? `has only ${number(open)} open` : "has none";
  return (
    "Nobody new can qualify, and who has not gets nothing else: the qualification asks for " +
    `${plural(qualification, "gold duel")}, and the run ${has}. Import ${number(missing)} more with known answers ` +
    "(gold), or ask for fewer under Change."
  );
}

/** What an erasure does not reach. */
export const LEARNT =
  "Weights and posteriors that have learnt from the answers cannot forget them: only training again without them can.";

/** Names that were typed, one on a line: a name may hold a comma. */
export const namesIn = (text) => [
  ...new Set(
    text
      .split("\n")
      .map((name) => name.trim())
      .filter(Boolean),
  ),
];
