// Sends what waits for an answer, again and again until there is one. The service knows a message by its key, so that
// one whose answer was lost on the way is answered with the same words and counts once.

import { isSignedIn } from "../outbox.js";
import { Pauses, Refusal } from "../service.js";
import { complete } from "./stream.js";

/** Emits `change` whenever what it says about itself has changed. */
export class Sender extends EventTarget {
  /** What there is of the answer that is being written; null when none is. */
  reply = null;
  /** Why nothing can be sent now: null, "offline", "busy" or "signed-out". */
  trouble = null;
  /** The words for that. */
  detail = "";

  #annotator;
  #conversation;
  #pauses = new Pauses();
  #stop = null;

  constructor(annotator, conversation) {
    super();
    this.#annotator = annotator;
    this.#conversation = conversation;
    this.#sendForever();
  }

  /** Something waits: see to it now. */
  go() {
    this.#pauses.end();
  }

  /** Leave the answer where it is. */
  stop() {
    const { waiting } = this.#conversation;
    if (!waiting) return;
    const { reply } = this;
    const begun = reply?.texts[0] && { id: reply.id, texts: [reply.texts[0]], duel: null };
    const end = begun ? { reply: begun, stopped: true } : { fault: "Stopped before there was an answer." };
    this.#conversation.end(waiting, end);
    this.#stop?.abort();
    this.#set({ reply: null, trouble: null, detail: "" });
    this.#pauses.end();
  }

  async #sendForever() {
    for (;;) {
      const { waiting } = this.#conversation;
      if (!waiting) await this.#pauses.untilEnded();
      else {
        const after = await this.#send(waiting);
        if (after === null) this.#pauses.reset();
        else await this.#pauses.next(after);
      }
    }
  }

  /** Returns null when the exchange is over, else the least seconds before the next attempt. */
  async #send(exchange) {
    const stop = (this.#stop = new AbortController());
    let longest = 0;
    const told = (reply) => {
      const length = reply.texts.join("").length;
      if (stop.signal.aborted || length < longest) return; // said again, it is shown once it says more
      longest = length;
      this.#set({ reply, trouble: null, detail: "" });
    };
    try {
      if (!isSignedIn(this.#annotator)) throw new Refusal(401, "Somebody else has signed in.");
      longest = this.reply?.texts.join("").length ?? 0;
      const { id, texts, duel } = await complete(exchange.body, exchange.key, { told, signal: stop.signal });
      this.#finish(exchange, stop, { reply: { id, texts: duel ? texts : texts.slice(0, 1), duel } });
      return null;
    } catch (error) {
      if (stop.signal.aborted) return null;
      if (error instanceof Refusal && error.status !== 401) {
        this.#finish(exchange, stop, { fault: error.message });
        return null;
      }
      if (error instanceof Refusal) this.#set({ trouble: "signed-out", detail: error.message });
      else this.#set({ trouble: error.told ? "busy" : "offline", detail: error.message });
      return error.after ?? 0;
    }
  }

  #finish(exchange, stop, end) {
    if (stop.signal.aborted) return; // stopped, as the last word arrived
    this.#conversation.end(exchange, end);
    this.#set({ reply: null, trouble: null, detail: "" });
  }

  #set(values) {
    Object.assign(this, values);
    this.dispatchEvent(new Event("change"));
  }
}
