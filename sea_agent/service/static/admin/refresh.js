// The page follows the service while it is in view.

import { inWords } from "./outcome.js";

const SECONDS = 3;
const REST = 5; // times as long as the last load took: a service with much to look through is left in peace

/** Calls `load` every few seconds from the first `now` on, one call at a time, while the page is in view. */
export class Refresh {
  #load;
  #timer = null;
  #running = null;
  #again = false;
  #held = false;

  constructor(load) {
    this.#load = load;
    document.addEventListener("visibilitychange", () => this.now());
  }

  /** Load now, because something has been changed; returns when what is shown is no older than this call. */
  async now() {
    if (this.#held) return;
    this.#again = true;
    this.#running ??= this.#run();
    await this.#running;
  }

  /** Ask for nothing while `work` does away with what is shown; go on only if it fails. */
  async without(work) {
    this.#held = true;
    await this.#running;
    try {
      return await work();
    } catch (error) {
      this.#held = false;
      throw error;
    }
  }

  async #run() {
    clearTimeout(this.#timer);
    const began = performance.now();
    while (this.#again && !this.#held) {
      this.#again = false;
      await this.#once();
    }
    this.#running = null;
    if (!document.hidden) this.#timer = setTimeout(() => this.now(), Math.max(SECONDS * 1000, REST * (performance.now() - began)));
  }

  async #once() {
    const trouble = document.getElementById("trouble");
    try {
      await this.#load();
      trouble.hidden = true;
    } catch (error) {
      const text = inWords(error);
      if (trouble.textContent !== text) trouble.textContent = text; // or it would be read out each time
      trouble.hidden = false;
    }
  }
}
