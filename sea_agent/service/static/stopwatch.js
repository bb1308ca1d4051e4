/** Measures for how long something has been in view: it stands still while the page is hidden. */
export class Stopwatch {
  #before = 0;
  #since = null;

  constructor() {
    document.addEventListener("visibilitychange", () => this.start(this.ms));
  }

  /** Run on from a reading. */
  start(ms = 0) {
    this.#before = ms;
    this.#since = document.hidden ? null : performance.now();
  }

  get ms() {
    return Math.round(this.#before + (this.#since === null ? 0 : performance.now() - this.#since));
  }
}
