// The conversation of this tab, kept in its own storage: it is there again after a reload, and gone with the tab.
//
// An exchange: {key, said, body?, reply?, used, pick?, leaves?, up?, stopped?, fault?}. `body` is what is sent, word for
// word the same however often, under `key`; it is there until there is a `reply`, {id, texts, duel}, of which text number
// `used` is what the conversation goes on with. `pick` is the outcome of a duel, `leaves` that it is not to be answered,
// `up` whether an answer that came alone was called good.

import { own } from "../place.js";
import { keepInTab } from "../storage.js";

export class Conversation {
  exchanges;
  /** Whether the browser refused to keep it the last time: it is on the page until that is loaded again. */
  unkept = false;

  #name;

  constructor(annotator) {
    this.#name = own(`chat/${encodeURIComponent(annotator)}`);
    this.exchanges = JSON.parse(sessionStorage.getItem(this.#name) ?? "[]");
  }

  /** The exchange that has no answer yet, or undefined. */
  get waiting() {
    return this.exchanges.find(({ body }) => body);
  }

  /** Say something: the next exchange. `request` holds the rest of what is sent. */
  say(said, request) {
    const before = this.exchanges.filter(({ reply }) => reply);
    const messages = before.flatMap((one) => [
      { role: "user", content: one.said },
      { role: "assistant", content: one.reply.texts[one.used] },
    ]);
    const body = { ...request, messages: [...messages, { role: "user", content: said }] };
    this.exchanges.push({ key: keyOfOurs(), said, body, used: 0 });
    this.keep();
  }

  /** End an exchange: with a reply, or with what is wrong. */
  end(exchange, { reply, fault, stopped = false }) {
    delete exchange.body;
    Object.assign(exchange, reply ? { reply, stopped } : { fault });
    this.keep();
  }

  /** Take an exchange without a reply back; what was said in it. */
  withdraw(exchange) {
    this.exchanges = this.exchanges.filter((one) => one !== exchange);
    this.keep();
    return exchange.said;
  }

  /** Note what became of a duel; a side that was picked is what the conversation goes on with, unless it has. */
  decide(exchange, outcome) {
    exchange.pick = outcome;
    if (this.isLast(exchange)) exchange.used = outcome === "second" ? 1 : 0;
    this.keep();
  }

  /** Note whether an answer was called good. */
  rate(exchange, up) {
    exchange.up = up;
    this.keep();
  }

  isLast(exchange) {
    return this.exchanges[this.exchanges.length - 1] === exchange;
  }

  /** Forget everything. */
  clear() {
    this.exchanges = [];
    this.keep();
  }

  /** As many of the last exchanges as the browser has room for. */
  keep() {
    sessionStorage.removeItem(this.#name); // room for the new ones
    let kept = this.exchanges;
    while (kept.length && !keepInTab(this.#name, JSON.stringify(kept))) kept = kept.slice(1);
    this.unkept = kept.length < this.exchanges.length;
  }
}

/** A name for a message that no other has. crypto.randomUUID is there with https only. */
function keyOfOurs() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `chat-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
