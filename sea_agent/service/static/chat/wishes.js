// What a reader says about answers, and whether they want to be asked: on its way by the outbox, so that it is there
// after a lost connection, once.

import { Outbox } from "../outbox.js";
import { own } from "../place.js";
import { call } from "../service.js";
import { keep } from "../storage.js";

const PUTS = { folder: "wishes", keyOf: ({ path }) => path, deliver: ({ path, body }) => call("PUT", path, body) };

export class Wishes {
  /** Carries them; emits `change`. */
  outbox;
  /** Whether the browser refused to keep the last one: it was not sent either. */
  unkept = false;

  #annotator;
  #asks;

  constructor(annotator) {
    this.outbox = new Outbox(annotator, "chat", PUTS);
    this.#annotator = annotator;
    this.#asks = own(`asks/${encodeURIComponent(annotator)}`);
  }

  /** Whether the reader lets the model ask which of two answers is better. */
  get asks() {
    return localStorage.getItem(this.#asks) !== "no";
  }

  /** Returns whether the wish is kept. */
  setAsks(asks) {
    const path = `/v1/users/${encodeURIComponent(this.#annotator)}/asks`;
    return this.#put({ path, body: { asks } }) && this.#noted(keep(this.#asks, asks ? "yes" : "no"));
  }

  /** Say which answer of a completion is better. Returns whether that is kept. */
  choose(completion, outcome) {
    return this.#put({ path: `/v1/feedback/${encodeURIComponent(completion)}/choice`, body: { outcome } });
  }

  /** Say whether a completion is good. Returns whether that is kept. */
  rate(completion, up) {
    return this.#put({ path: `/v1/feedback/${encodeURIComponent(completion)}/thumbs`, body: { up } });
  }

  #put(entry) {
    return this.#noted(this.outbox.put(entry));
  }

  #noted(kept) {
    this.unkept = !kept;
    return kept;
  }
}
