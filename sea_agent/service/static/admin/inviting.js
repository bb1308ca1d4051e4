// A link for somebody who is to answer, shown once.

import { h } from "../dom.js";
import { call } from "../service.js";
import { RunTicks, Until } from "./key_fields.js";
import { act } from "./outcome.js";
import { field, section } from "./parts.js";
import { Secret } from "./secret.js";

export class Inviting {
  #name = h("input", { name: "annotator", required: true, maxlength: 200, autocomplete: "off" });
  #runs = new RunTicks();
  #until = new Until();
  #submit = h("button", { class: "main" }, "Make a link");
  #fault = h("p", { class: "fault", role: "alert", hidden: true });
  #made = new Secret();
  #form;
  #changed;

  constructor(changed) {
    this.#changed = changed;
    this.#form = h(
      "form",
      { class: "stack", onsubmit: (event) => this.#send(event) },
      field("Name", this.#name, "It stands in the label log and in exports."),
      this.#runs.element,
      this.#until.element,
      this.#fault,
      h("div", { class: "buttons" }, this.#submit),
    );
    this.element = section("Invite somebody", this.#form, this.#made.element);
  }

  /** Offer these runs. */
  offer(runs) {
    this.#runs.offer(runs);
  }

  async #send(event) {
    event.preventDefault();
    const name = this.#name.value.trim();
    const done = await act(
      this.#submit,
      this.#fault,
      async () => {
        const runs = this.#runs.value;
        const straight = runs.runs?.length === 1 ? { run: runs.runs[0] } : {}; // where the link leads at once
        const { link, qr } = await call("POST", "/v1/people", {
          annotator: name,
          ...runs,
          ...this.#until.value,
          ...straight,
        });
        const image = h("img", {
          class: "qr",
          alt: `QR code of the link for ${name}`,
          src: `data:image/svg+xml,${encodeURIComponent(qr)}`,
        });
        this.#made.show(
          `Link for ${name}`,
          "Shown this once. It opens the pages as this person until their access is ended.",
          link,
          image,
        );
        return `There is a link for ${name}.`;
      },
      this.#form,
    );
    if (!done) return;
    this.#form.reset();
    await this.#changed();
  }
}
