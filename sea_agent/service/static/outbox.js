// Answers on their way to the service. Each is written to localStorage before it is sent, under a name of its own, and
// removed when the service has acknowledged it. Sending one again is harmless: the service keeps one answer a lease
// and takes an exact repetition for what it is. So nothing is lost or doubled by a reload, a closed tab, a lost reply
// or a second tab that sends the same.
//
// What an outbox carries is told by {folder, keyOf, deliver, refused}: where its entries are kept, what names one among
// them, how one is sent, and what to do about one that the service does not take.
//
// An entry of LABELS: {lease, at, answer?, revision?, skip?, refused?}. `answer` is the body that the first PUT carried,
// and a revision is sent with the label that the service names when it gets that body again.

import { own } from "./place.js";
import { call, Pauses, Refusal, send } from "./service.js";
import { keep } from "./storage.js";

const READER = own("reader"); // who is signed in in this browser

const LABELS = {
  folder: "answers",
  keyOf: ({ lease }) => lease,
  deliver,
  refused: ({ lease }) => send("DELETE", `/v1/leases/${lease}`), // else the service would go on offering what it does not take
};

/** Remember who is signed in, so that pages of somebody else that are still open stop asking and sending. Returns whether
 * the browser keeps it. */
export const signIn = (annotator) => keep(READER, annotator);

/** Whether it is still this annotator, as far as this browser knows. */
export function isSignedIn(annotator) {
  return localStorage.getItem(READER) === annotator;
}

/** Emits `change` whenever what it says about itself has changed. */
export class Outbox extends EventTarget {
  /** Why nothing can be sent now: null, "offline", "signed-out" or "refused", which is all of them. */
  trouble = null;
  /** The words for that. */
  detail = "";
  /** Whether the service has acknowledged something since the page was opened. */
  saved = false;

  #annotator;
  #cargo;
  #prefix;
  #pauses = new Pauses();

  /** `place` tells the entries of one page from those of others: a run. */
  constructor(annotator, place, cargo = LABELS) {
    super();
    this.#annotator = annotator;
    this.#cargo = cargo;
    this.#prefix = `${prefixOf(annotator, cargo)}${place}/`;
    addEventListener("storage", (event) => this.#otherTab(event));
    this.#sendForever();
  }

  /** Keep an answer for good, then send it. Returns whether the browser keeps it: if not, it is not sent. */
  put(entry) {
    if (!keep(this.#nameOf(entry), JSON.stringify({ at: Date.now(), ...entry }))) return false;
    this.#changed();
    this.#pauses.end();
    return true;
  }

  /** Send an entry once more that the service refused. */
  retry(key) {
    this.put({ ...this.refused.find((entry) => this.#cargo.keyOf(entry) === key), refused: undefined });
  }

  /** Forget an entry. */
  discard(key) {
    localStorage.removeItem(this.#prefix + key);
    this.#changed();
  }

  /** The runs of which a browser keeps answers of somebody. */
  static runsOf(annotator) {
    const prefix = prefixOf(annotator, LABELS);
    const names = Object.keys(localStorage).filter((name) => name.startsWith(prefix));
    return [...new Set(names.map((name) => name.slice(prefix.length).split("/")[0]))];
  }

  /** What is still to be sent, the oldest first. */
  get waiting() {
    return this.#entries().filter((entry) => !entry.refused);
  }

  /** What the service did not take. */
  get refused() {
    return this.#entries().filter((entry) => entry.refused);
  }

  /** Return when nothing waits. */
  async emptied() {
    const changed = () => new Promise((resolve) => this.addEventListener("change", resolve, { once: true }));
    while (this.waiting.length) await changed();
  }

  async #sendForever() {
    for (;;) {
      const [entry] = this.waiting;
      if (!entry) await this.#pauses.untilEnded();
      else if (await exclusively(this.#prefix, () => this.#send(this.#nameOf(entry)))) this.#pauses.reset();
      else await this.#pauses.next();
    }
  }

  /**
   * Send what is kept under a name by now: another tab may have sent it, or the annotator changed it. Returns whether
   * that is settled, so that the next one can be sent.
   */
  async #send(name) {
    const kept = localStorage.getItem(name);
    if (kept === null) return true;
    let trouble = null;
    try {
      if (!isSignedIn(this.#annotator)) throw new Refusal(401, "Somebody else has signed in.");
      await this.#cargo.deliver(JSON.parse(kept));
      if (localStorage.getItem(name) === kept) localStorage.removeItem(name);
      this.saved = true;
    } catch (error) {
      this.detail = error.message;
      if (!(error instanceof Refusal)) trouble = "offline";
      else if (error.status === 401) trouble = "signed-out";
      else if (error.status === 403 || !this.#refuse(name, kept, error)) trouble = "refused";
    }
    this.trouble = trouble;
    this.#changed();
    return trouble === null;
  }

  /** Set an entry aside. Returns whether the browser has room for why: if not, the entry waits as it is. */
  #refuse(name, kept, { status, message }) {
    const entry = JSON.parse(kept);
    if (!keep(name, JSON.stringify({ ...entry, refused: { status, detail: message } }))) return false;
    this.#cargo.refused?.(entry);
    return true;
  }

  /** Another tab kept an answer, or has sent one: only a refused one is removed for another reason. */
  #otherTab({ key, oldValue, newValue }) {
    if (!key?.startsWith(this.#prefix)) return;
    if (newValue === null && !JSON.parse(oldValue).refused) [this.saved, this.trouble] = [true, null];
    this.#changed();
    this.#pauses.end();
  }

  #nameOf(entry) {
    return this.#prefix + this.#cargo.keyOf(entry);
  }

  #entries() {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(this.#prefix));
    return names.map((name) => JSON.parse(localStorage.getItem(name))).sort((a, b) => a.at - b.at);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** How the names of all entries of somebody begin. */
function prefixOf(annotator, { folder }) {
  return own(`${folder}/${encodeURIComponent(annotator)}/`);
}

async function deliver(entry) {
  const lease = `/v1/leases/${entry.lease}`;
  if (entry.skip) return call("POST", `${lease}/skip`);
  const label = await call("PUT", `${lease}/label`, entry.answer);
  if (entry.revision) await call("POST", `/v1/labels/${label.label_id}/revisions`, entry.revision);
}

/** Run in one tab at a time, where the browser can tell (only with https or on this machine). */
function exclusively(name, run) {
  return navigator.locks ? navigator.locks.request(name, run) : run();
}
