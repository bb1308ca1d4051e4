// Requests to the service. There is an answer, or a Refusal, or Unreachable: no answer that settles anything.

import { at } from "./place.js";

/** The service has decided against a request; asking again changes nothing. */
export class Refusal extends Error {
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors; // of a 422: {where, what} of each field
  }
}

/** Whether a request has been carried out is not known, or it was not taken for now: ask again later. */
export class Unreachable extends Error {}

/**
 * What the service answers, null when that is empty.
 * @throws Refusal, Unreachable, or an AbortError when `signal` is aborted.
 */
export function call(method, path, body, { seconds = 20, signal, headers } = {}) {
  return limited(seconds, signal, async (limit) => {
    const response = await fetch(at(path), { ...request(method, body, headers), signal: limit });
    if (response.status === 204) return null;
    const answer = await response.json();
    if (response.ok) return answer;
    if (response.status < 500 && response.status !== 429) throw new Refusal(response.status, answer.detail, answer.errors);
    throw new Unreachable(answer.detail);
  });
}

/**
 * What `work` makes of a signal that is aborted `seconds` after it last called `renew`, or with `signal`.
 * @throws Refusal, Unreachable, or an AbortError when `signal` is aborted.
 */
export async function limited(seconds, signal, work) {
  const limit = new AbortController(); // AbortSignal.any and .timeout do the same, where browsers have them
  const end = () => limit.abort();
  let timer;
  const renew = () => {
    clearTimeout(timer);
    timer = setTimeout(end, seconds * 1000);
  };
  renew();
  signal?.addEventListener("abort", end);
  try {
    if (signal?.aborted) end();
    return await work(limit.signal, renew);
  } catch (error) {
    if (error instanceof Refusal || error instanceof Unreachable) throw error;
    if (signal?.aborted) throw error;
    throw new Unreachable("The service does not answer."); // the connection, the time limit, or a proxy's own page
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
  }
}

/** A request that outlives the page, and whose answer nobody waits for. */
export function send(method, path) {
  fetch(at(path), { ...request(method), keepalive: true }).catch(() => {}); // nothing hangs on it
}

/** Pauses between attempts: longer each time, over at once when the connection or the reader comes back. */
export class Pauses {
  #failures = 0;
  #end = () => {};

  constructor() {
    addEventListener("online", () => this.end());
    document.addEventListener("visibilitychange", () => this.end());
  }

  /** The last attempt went well. */
  reset() {
    this.#failures = 0;
  }

  /** End the pause that is on, if one is. */
  end() {
    this.#end();
  }

  /** Before the next attempt: half a second at first, half a minute at most, at random so that not all come at once;
   * `least` seconds where the service asked for that. */
  async next(least = 0) {
    const seconds = Math.min(30, 0.5 * 2 ** this.#failures++);
    const timer = setTimeout(() => this.end(), 1000 * Math.max(least, seconds * (0.5 + Math.random() / 2)));
    await this.untilEnded();
    clearTimeout(timer);
  }

  /** Until `end` is called. */
  untilEnded() {
    return new Promise((resolve) => (this.#end = resolve));
  }
}

/** A `Blob` is sent as it is, with its type; anything else as JSON. */
function request(method, body, headers) {
  const about = { method, redirect: "error", headers: { ...headers } };
  if (body === undefined) return about;
  const isFile = body instanceof Blob;
  about.headers["Content-Type"] = isFile ? body.type : "application/json";
  return { ...about, body: isFile ? body : JSON.stringify(body) };
}
