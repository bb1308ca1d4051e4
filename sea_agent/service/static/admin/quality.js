// How well the answers of a run agree, and who gave them.

import { h, headings, wide } from "../dom.js";
import { call } from "../service.js";
import { ofRun } from "./context.js";
import { List } from "./list.js";
import { badge, hint, section } from "./parts.js";
import { ago, fixed, number, plural, share } from "./words.js";

const COLUMNS = [
  "Annotator",
  "Answers",
  "Per hour",
  "Median s",
  "With others",
  "Gold right",
  "Same again",
  "First shown",
  "Last",
];

export class Quality {
  /** Everybody who answered or skipped. */
  names = [];

  #about = h("div", {});
  #figures = new List(
    this.#about,
    () => "figures",
    (found) => figures(found),
  );
  #rows = h("tbody", {});
  #people = new List(this.#rows, ({ annotator }) => annotator, row);
  #read = null; // of which version

  constructor() {
    this.element = section(
      "Agreement and quality",
      this.#about,
      wide("Annotators", h("table", {}, headings(COLUMNS), this.#rows)),
      hint(
        "Shares with their 95 % interval in percent. With others: the most frequent vote of the others on the same duel. First shown: answers for the response on the left, of those with a winner; about half is right.",
      ),
    );
  }

  /** Read anew if what the service would tell has another version than the last time. */
  async load(version) {
    if (this.#read === version) return;
    const [agreement, { annotators }] = await Promise.all([
      call("GET", ofRun("/agreement")),
      call("GET", ofRun("/annotators")),
    ]);
    this.#read = version;
    this.names = annotators.map(({ annotator }) => annotator);
    this.#figures.show([agreement]);
    this.#people.show(annotators);
  }
}

function figures(found) {
  const pairs = [
    ["Agreement α", alpha(found)],
    ["Gold right", share(found.gold_accuracy)],
    ["Same answer again", share(found.self_agreement)],
    ["First shown chosen", share(found.first_shown)],
    ["Ties", share(found.ties)],
    ["Both bad", share(found.both_bad)],
  ];
  return h(
    "dl",
    { class: "figures" },
    pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

function alpha({ alpha, alpha_low, alpha_high, compared }) {
  if (alpha === null) return "not known yet: it needs duels with two votes";
  const interval = alpha_low === null ? "" : ` (${fixed(alpha_low, 2)} to ${fixed(alpha_high, 2)})`;
  return `${fixed(alpha, 2)}${interval} on ${plural(compared, "duel")}`;
}

function row(one) {
  const cells = [
    number(one.answers),
    number(one.per_hour && Math.round(one.per_hour)),
    fixed(one.median_s, 1),
    share(one.with_others),
    share(one.gold_accuracy),
    share(one.self_agreement),
    share(one.first_shown),
    ago(one.last_at),
  ];
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, one.annotator, qualified(one.qualification)),
    cells.map((text) => h("td", {}, text)),
  );
}

/** Whether somebody qualified, where the run asks for that. */
function qualified(qualification) {
  if (!qualification) return null;
  const { given, needed, passed } = qualification;
  if (passed === null) return badge(`Qualifying: ${number(given)} of ${number(needed)}`);
  return passed ? badge("Qualified", "answered") : badge("Not qualified: gets no duels", "stuck");
}
