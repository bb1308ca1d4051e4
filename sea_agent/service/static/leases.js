// Which duel this tab has: claims one, keeps it while the reader thinks, gives it back when the page is left.
//
// A person holds one duel of a run at a time, so the next is claimed when the answer to the last has arrived. Of
// several tabs with the same run, the one opened (or chosen) last answers, and the others let go.

import { isSignedIn } from "./outbox.js";
import { own } from "./place.js";
import { call, Pauses, Refusal, send, Unreachable } from "./service.js";

const WAIT_S = 25; // for a duel to come
const HEARTBEAT_MS = 60_000; // a lease lasts five minutes

/** Emits `change` whenever one of its fields has changed. */
export class Leases extends EventTarget {
  /** The duel that is to be answered, or null. */
  duel = null;
  /** Whether its lease has ended, so that an answer counts as late. */
  lapsed = false;
  /** Whether a duel is on its way, as far as is known; false when there was none. */
  looking = true;
  /** The error for which there is no duel, or null. */
  fault = null;
  /** Whether this tab is the one that answers. */
  chosen = true;
  /** The state of the run and how far the reader is in it, as the service tells it; null at first. */
  progress = null;

  #annotator;
  #path;
  #outbox;
  #tabs;
  #since = 0;
  #pauses = new Pauses();
  #claim = new AbortController();
  #over = () => {};

  constructor(annotator, run, outbox) {
    super();
    this.#annotator = annotator;
    this.#path = `/v1/runs/${run}`;
    this.#outbox = outbox;
    this.#tabs = new BroadcastChannel(own(`${annotator}/${run}`));
    this.#tabs.addEventListener("message", ({ data }) => data > this.#since && this.#letGo());
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#claim.abort() : this.#beat()));
    addEventListener("pagehide", () => this.leave());
    setInterval(() => this.#beat(), HEARTBEAT_MS);
    this.choose();
    this.#work();
  }

  /** Let this tab answer, and no other. */
  choose() {
    this.chosen = true;
    this.#since = Date.now() + Math.random();
    this.#tabs.postMessage(this.#since);
    this.#pauses.end();
    this.#changed();
  }

  /** The duel has its answer: go on to the next. */
  done() {
    [this.duel, this.looking] = [null, true];
    this.#over();
    this.#changed();
  }

  /** Give the duel back and claim no other: the page is being left. */
  leave() {
    if (this.duel) send("DELETE", `/v1/leases/${this.duel.lease_id}`);
    this.#letGo();
  }

  async #work() {
    for (let wait_s = 0; ; ) {
      await this.#outbox.emptied();
      if (!this.chosen || document.hidden) {
        await this.#pauses.untilEnded(); // nobody would see the duel
        continue;
      }
      const answered = new Promise((resolve) => (this.#over = resolve));
      await this.#next(wait_s);
      if (this.duel) await answered;
      else if (this.fault) await this.#pauses.next();
      wait_s = this.looking ? 0 : WAIT_S; // the first claim asks whether there is something, the next ones wait for it
    }
  }

  async #next(wait_s) {
    this.#claim = new AbortController();
    const limits = { seconds: wait_s + 20, signal: this.#claim.signal };
    try {
      if (!isSignedIn(this.#annotator)) throw new Refusal(401, "Somebody else has signed in.");
      this.duel = await call("POST", `${this.#path}/leases`, { wait_s }, limits);
      [this.fault, this.lapsed] = [null, false];
      this.#pauses.reset();
      if (this.duel) this.#count();
      else await this.#count(); // before it is said why there is no duel
      this.looking = this.duel !== null;
    } catch (error) {
      if (this.#claim.signal.aborted) return;
      this.fault = expected(error);
    }
    this.#changed();
  }

  async #count() {
    try {
      this.progress = await call("GET", `${this.#path}/progress`);
    } catch (error) {
      expected(error); // the next claim or answer tells about it
    }
    this.#changed();
  }

  async #beat() {
    const { duel } = this;
    if (!duel || document.hidden) return;
    try {
      await call("PATCH", `/v1/leases/${duel.lease_id}`, {});
    } catch (error) {
      this.lapsed ||= expected(error).status === 409 && this.duel === duel;
    }
    this.#count();
  }

  /** Another tab goes on; the duel stays leased for it. */
  #letGo() {
    this.chosen = false;
    this.duel = null;
    this.#claim.abort();
    this.#over();
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** An error that requests come to; any other is thrown. */
function expected(error) {
  if (!(error instanceof Refusal || error instanceof Unreachable)) throw error;
  return error;
}
