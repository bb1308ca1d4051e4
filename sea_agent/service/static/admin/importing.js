// Duels from a file that is chosen or dropped.

import { h } from "../dom.js";
import { Refusal, call } from "../service.js";
import { ofRun, query } from "./context.js";
import { act } from "./outcome.js";
import { field, hint, section, tick } from "./parts.js";
import { plural } from "./words.js";

const TYPES = { jsonl: "application/jsonl", ndjson: "application/x-ndjson", json: "application/json", csv: "text/csv" };
const LARGEST = 20e6;
const SECONDS = 300;

export class Importing {
  #file = h("input", {
    type: "file",
    accept: Object.keys(TYPES)
      .map((ending) => `.${ending}`)
      .join(),
    onchange: () => this.#named(),
  });
  #gold = h("input", { type: "checkbox" });
  #submit = h("button", { class: "main" }, "Import");
  #fault = h("p", { class: "fault", role: "alert", hidden: true });
  #closed = hint("The run takes no more duels: open it again first.");
  #form;
  #changed;

  constructor(changed) {
    this.#changed = changed;
    const drop = h(
      "div",
      { class: "drop" },
      field("File, or drop it here", this.#file, "JSONL, JSON or CSV, up to 20 MB and 10,000 duels."),
    );
    for (const kind of ["dragover", "dragleave", "drop"]) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.dataset.over = kind === "dragover";
        if (kind === "drop" && event.dataTransfer.files.length) this.#file.files = event.dataTransfer.files;
      });
    }
    this.#form = h(
      "form",
      { class: "stack", onsubmit: (event) => this.#send(event) },
      drop,
      tick("The chosen response is a known answer (gold)", this.#gold),
      hint("Columns: prompt, and first and second or chosen and rejected. The same file again adds nothing."),
      this.#fault,
      h("div", { class: "buttons" }, this.#submit),
    );
    this.element = section("Import duels", this.#closed, this.#form);
  }

  /** Follow the run: one that is over takes no duels. */
  show({ state }) {
    this.#form.hidden = state === "closed" || state === "archived";
    this.#closed.hidden = !this.#form.hidden;
  }

  #named() {
    this.#fault.hidden = true;
  }

  async #send(event) {
    event.preventDefault();
    const done = await act(this.#submit, this.#fault, async () => {
      const file = this.#chosen();
      const path = ofRun(`/queries:import${query({ gold: this.#gold.checked ? "chosen" : "" })}`);
      const { created, known, ignored } = await call("POST", path, file, { seconds: SECONDS });
      const left = ignored.length ? ` Columns that were ignored: ${ignored.join(", ")}.` : "";
      return `${plural(created, "duel")} imported from ${file.name}, ${known} known already.${left}`;
    });
    if (!done) return;
    this.#form.reset();
    await this.#changed();
  }

  /** The file with its type. Throws a Refusal where the service would, before anything is sent. */
  #chosen() {
    const [file] = this.#file.files;
    if (!file) throw new Refusal(422, "Choose a file first.");
    const type = TYPES[file.name.split(".").at(-1).toLowerCase()];
    if (!type) throw new Refusal(422, `${file.name} does not end in .jsonl, .ndjson, .json or .csv.`);
    if (file.size > LARGEST) throw new Refusal(413, `${file.name} is larger than 20 MB: split it.`);
    return new File([file], file.name, { type });
  }
}
