// Keys for experiments, readers and admins: made, shown once, ended.

import { h } from "../dom.js";
import { call } from "../service.js";
import { holds, isLink } from "./context.js";
import { confirm } from "./dialog.js";
import { RunTicks, Until } from "./key_fields.js";
import { List } from "./list.js";
import { act } from "./outcome.js";
import { button, field, group, section, tick } from "./parts.js";
import { Secret } from "./secret.js";
import { moment } from "./words.js";

const SCOPES = [
  ["experiment", "experiment: make runs, post duels, read"],
  ["read", "read: labels, quality, exports, the dashboard"],
  ["annotate", "annotate: answer duels"],
  ["chat", "chat: talk to the model that learns from its users"],
  ["admin", "admin: everything"],
];

export class Keys {
  #items = h("ul", { class: "plain", "aria-label": "Keys" });
  #list = new List(
    this.#items,
    ({ id }) => id,
    (key) => this.#item(key),
  );
  #name = h("input", { name: "name", required: true, maxlength: 200, autocomplete: "off" });
  #scopes = h(
    "div",
    { class: "ticks" },
    SCOPES.map(([scope, text]) => tick(text, h("input", { type: "checkbox", value: scope }))),
  );
  #runs = new RunTicks();
  #until = new Until();
  #submit = h("button", { class: "main" }, "Make a key");
  #fault = h("p", { class: "fault", role: "alert", hidden: true });
  #made = new Secret();
  #form;
  #changed;

  constructor(changed) {
    this.#changed = changed;
    this.#form = h(
      "form",
      { class: "stack", onsubmit: (event) => this.#send(event) },
      field("Name of the key", this.#name),
      group("May", this.#scopes),
      this.#runs.element,
      this.#until.element,
      this.#fault,
      h("div", { class: "buttons" }, this.#submit),
    );
    this.element = section(
      "Other keys",
      this.#items,
      h("details", {}, h("summary", {}, "New key"), this.#form),
      this.#made.element,
    );
  }

  /** Offer these runs. */
  offer(runs) {
    this.#runs.offer(runs);
  }

  /** List the keys that hold and are no links: those stand beside the people whose they are. */
  async load() {
    const { keys } = await call("GET", "/v1/keys");
    this.#list.show(keys.filter((key) => holds(key) && !isLink(key)));
  }

  #item(key) {
    const reach = key.runs ? ` in ${key.runs.join(", ")}` : "";
    const until = key.expires_at ? `, until ${moment(key.expires_at)}` : "";
    return h(
      "li",
      { class: "key" },
      h("span", {}, h("b", {}, key.name), ` ${key.scopes.join(", ")}${reach}${until}`),
      button("End", () => endKey(key.id, `key ${key.name}`, "End the key", this.#changed), { action: "end" }),
    );
  }

  async #send(event) {
    event.preventDefault();
    const scopes = [...this.#scopes.querySelectorAll("input:checked")].map(({ value }) => value);
    const name = this.#name.value.trim();
    const done = await act(
      this.#submit,
      this.#fault,
      async () => {
        const { key } = await call("POST", "/v1/keys", { name, scopes, ...this.#runs.value, ...this.#until.value });
        this.#made.show(`Key ${name}`, "Shown this once: the service keeps only its digest.", key);
        return `There is a key ${name}.`;
      },
      this.#form,
    );
    if (!done) return;
    this.#form.reset();
    await this.#changed();
  }
}

/** Ask, and end a key; `what` says which it is. */
export async function endKey(id, what, action, changed) {
  await confirm({
    title: `End the ${what}?`,
    text: "Whoever uses it is refused at once, and its pages are signed out. If they have no other key to answer with, duels that they hold or were handed go to others.",
    action,
    work: async () => {
      await call("DELETE", `/v1/keys/${encodeURIComponent(id)}`);
      return `The ${what} has ended.`;
    },
  });
  await changed();
}
