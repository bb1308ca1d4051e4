// Whose answers the model learns from: nobody's share should be large.

import { List } from "../admin/list.js";
import { hint, section } from "../admin/parts.js";
import { number } from "../admin/words.js";
import { h, headings, wide } from "../dom.js";

const SHOWN = 12; // characters of a user's name, which is a keyed hash

export class Users {
  #rows = h("tbody", {});
  #list = new List(this.#rows, ({ user }) => user, row);
  #empty = h("p", { class: "hint" }, "Nobody has answered in this time.");
  #table = wide("Users", h("table", {}, headings(["User", "Answers", "Share of all answers"]), this.#rows));

  element = section(
    "Users who answered most",
    this.#empty,
    this.#table,
    hint("Users are kept as keyed hashes. How much one of them can weigh is limited: the setting max_weight_share."),
  );

  show({ most }) {
    this.#empty.hidden = most.length > 0;
    this.#table.hidden = !most.length;
    this.#list.show(most);
  }
}

function row({ user, answers, share }) {
  const name = h("code", { title: user }, user.length > SHOWN ? `${user.slice(0, SHOWN)}…` : user);
  return h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, number(answers)), h("td", {}, `${(100 * share).toFixed(1)} %`));
}
