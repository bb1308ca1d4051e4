// The page follows the service while it is in view.

import { inWords } from "./outcome.js";

const SECONDS = 3;

/** Calls `load` at once and then every few seconds, one call at a time, while the page is in view. */
export class Refresh {
  #load;
  #timer = null;
  #running = null;
  #again = false;

  constructor(load) {
    this.#load = load;
    document.addEventListener("visibilitychange", () => this.now());
    this.now();
  }

  /** Load now, because something has been changed; returns when what is shown is no older than this call. */
  async now() {
    this.#again = true;
    this.#running ??= this.#run();
    await this.#running;
  }

  async #run() {
    clearTimeout(this.#timer);
    while (this.#again) {
      this.#again = false;
      await this.#once();
    }
    this.#running = null;
    if (!document.hidden) this.#timer = setTimeout(() => this.now(), SECONDS * 1000);
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
