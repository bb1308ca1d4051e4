// What an operator can change: what goes live. Each action says first what it does.

import { isAdmin } from "../admin/context.js";
import { confirm } from "../admin/dialog.js";
import { List } from "../admin/list.js";
import { button } from "../admin/parts.js";
import { h } from "../dom.js";
import { call } from "../service.js";

const initial = (version) => (version === null ? "the initial weights" : `version ${version}`);

export class Actions {
  element = h("div", { class: "buttons", role: "group", "aria-label": "What goes live" });
  fault = h("p", { class: "fault", role: "alert", hidden: true });

  #list = new List(
    this.element,
    ({ key }) => key,
    ({ key, text, danger }) => button(text, () => this.#works[key](), { action: key, danger }),
  );
  #works = {
    freeze: () =>
      this.#ask({
        title: "Freeze?",
        text: "What is live stays live: nothing new goes live by itself and nothing is taken back by itself, until you unfreeze. Answering, asking and learning go on.",
        action: "Freeze",
        path: "/freeze",
        done: () => "Frozen: nothing new goes live by itself.",
      }),
    unfreeze: () =>
      this.#ask({
        title: "Unfreeze?",
        text: "New weights that hold what the gate asks for go live by themselves again.",
        action: "Unfreeze",
        path: "/unfreeze",
        done: () => "New weights go live by themselves again.",
      }),
    rollback: () =>
      this.#ask({
        title: `Take version ${this.#live.live} back?`,
        text: "What was live before it serves again at once; streams that run go on. The version that is taken back goes live again only if you say so.",
        action: "Take it back",
        path: "/rollback",
        done: ({ live }) => `Taken back; ${initial(live)} ${live === null ? "serve" : "serves"} now.`,
      }),
  };
  #ofLive;
  #refresh;
  #live;

  constructor(ofLive, refresh) {
    [this.#ofLive, this.#refresh] = [ofLive, refresh];
  }

  /** Offer what can be done now. */
  show(live) {
    this.#live = live;
    if (!isAdmin) return;
    this.#list.show([
      live.frozen ? { key: "unfreeze", text: "Unfreeze" } : { key: "freeze", text: "Freeze" },
      ...(live.live === null ? [] : [{ key: "rollback", text: "Roll back", danger: true }]),
    ]);
  }

  /** Let a version go live. */
  promote(version, state) {
    const warning = { rejected: "The gate rejected it.", withdrawn: "It was live and was taken back." }[state];
    return this.#ask({
      title: `Let version ${version} go live?`,
      text: [warning, `Every user gets it at once, instead of ${initial(this.#live.live)}, whatever the gate says; streams that run go on.`].filter(Boolean),
      action: "Let it go live",
      path: "/promote",
      body: { version },
      done: () => `Version ${version} is live.`,
    });
  }

  async #ask({ title, text, action, path, body, done }) {
    const work = async () => done(await call("POST", this.#ofLive(path), body));
    await confirm({ title, text, action, work });
    await this.#refresh.now();
  }
}
