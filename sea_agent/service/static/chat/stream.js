// One completion as it is written, and what a service that refuses one says, in words.

import { at } from "../place.js";
import { limited, Refusal, Unreachable } from "../service.js";

const SILENCE_S = 60; // without any word, after which a connection is taken for lost

/**
 * What the service answers to a completion: {id, texts, duel}, two texts if it asks which is better. `told` is called
 * with what is there so far as it comes. The same key and body are answered the same, however often they are sent.
 * @throws Refusal, Unreachable (with `after`, the seconds that the service asks for), or an AbortError.
 */
export function complete(body, key, { told, signal }) {
  return limited(SILENCE_S, signal, async (limit, renew) => {
    const response = await fetch(at("/v1/chat/completions"), {
      method: "POST",
      redirect: "error",
      headers: { "Content-Type": "application/json", "Idempotency-Key": key },
      body: JSON.stringify(body),
      signal: limit,
    });
    if (!response.ok) throw await refusalOf(response);
    const reply = new Reply();
    if (!response.headers.get("content-type")?.startsWith("text/event-stream")) return reply.whole(await response.json());
    for await (const data of eventsOf(response.body, renew)) {
      if (data === "[DONE]") return reply;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(response.status, inWords(chunk.error, "The service could not finish this answer."));
      reply.add(chunk);
      told(reply);
    }
    throw new Unreachable("The connection was lost.");
  });
}

class Reply {
  id = null;
  texts = [""];
  /** What the service calls the duel, {id, expires_at}; null before the last chunk, and where there is none. */
  duel = null;

  add({ id, choices, sea }) {
    this.id = id ?? this.id;
    this.duel = sea?.duel ?? this.duel;
    for (const { index, delta } of choices ?? []) {
      while (this.texts.length <= index) this.texts.push("");
      this.texts[index] += delta?.content ?? "";
    }
  }

  /** An answer that was kept and comes at once. */
  whole({ id, choices, sea }) {
    this.add({ id, sea, choices: choices.map(({ index, message }) => ({ index, delta: message })) });
    return this;
  }
}

/** The data of each server-sent event; `renew` is called whenever something comes, also what only keeps a line open. */
async function* eventsOf(stream, renew) {
  const reader = stream.getReader(); // not every browser lets a stream be looped over
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    renew();
    text += decoder.decode(value, { stream: true });
    const events = text.split(/\r?\n\r?\n/);
    text = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
    }
  }
}

/** Why there is no answer: for good, or for now. */
async function refusalOf(response) {
  const body = await response.json().catch(() => null);
  const { status } = response;
  const after = Number(response.headers.get("retry-after")) || 0;
  if (!body || after || status === 429) {
    const detail = body && (body.error ? inWords(body.error) : body.detail);
    return Object.assign(new Unreachable(detail || "The service does not answer."), { after, told: Boolean(detail) });
  }
  return new Refusal(status, inWords(body.error ?? { message: body.detail }, `The service answered with ${status}.`));
}

/** An error in OpenAI's shape, {message, code, …}, in words for who writes here. */
function inWords({ message, code }, otherwise = "") {
  if (code === "context_length_exceeded") {
    return "This conversation has become too long for the model. Begin a new chat, or send a shorter message.";
  }
  return message || otherwise;
}
