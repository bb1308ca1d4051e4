// The last duels that were answered or skipped in this tab, so that an answer can be taken back; also after a reload.
//
// An item: {duel, answer, latest}. `answer` is the body that the first PUT carried (null after a skip), `latest` the
// body that holds now.

import { own } from "./place.js";
import { keepInTab } from "./storage.js";

const LONGEST = 10; // items: texts are long, and a tab may keep a few megabytes

export class History {
  #name;
  #items;

  constructor(annotator, run) {
    this.#name = own(`history/${encodeURIComponent(annotator)}/${run}`);
    this.#items = JSON.parse(sessionStorage.getItem(this.#name) ?? "[]");
  }

  add(duel, answer) {
    this.#items = [...this.#items, { duel, answer, latest: answer }].slice(-LONGEST);
    this.#keep();
  }

  /** Note which answer holds now. */
  revise(item, body) {
    item.answer ??= body;
    item.latest = body;
    this.#keep();
  }

  /** The item before another, or the last one; undefined when there is none. */
  before(item) {
    return this.#items[(item ? this.#items.indexOf(item) : this.#items.length) - 1];
  }

  /** As many of the last ones as the browser has room for; this page has them all until it is loaded again. */
  #keep() {
    sessionStorage.removeItem(this.#name); // room for the new ones
    let items = this.#items;
    while (items.length && !keepInTab(this.#name, JSON.stringify(items))) items = items.slice(1);
  }
}
