// What can be done to a run as a whole.

import { h } from "../dom.js";
import { at } from "../place.js";
import { call } from "../service.js";
import { WRITTEN_ANEW, isAdmin, ofRun } from "./context.js";
import { confirm } from "./dialog.js";
import { List } from "./list.js";
import { act } from "./outcome.js";
import { button } from "./parts.js";
import { changeRun } from "./run_form.js";
import { LEARNT, REMEDY, plural } from "./words.js";

const DONE = {
  open: "gives duels.",
  paused: "is paused: nobody gets a duel, answers that are under way are still taken.",
  closed: "is closed: it takes no more duels. Answers that are under way are still taken.",
  archived: "is archived: it is no longer in the lists.",
};

/** Change the state of a run, and say so. */
export const changeState = (pressed, fault, { id, name }, state) =>
  act(pressed, fault, async () => {
    await call("PUT", ofRun("", id), { state });
    return `${name || id} ${DONE[state]}`;
  });

/** The buttons of a run's page; `refresh` follows the run. */
export class RunActions {
  element = h("div", { class: "buttons", role: "group", "aria-label": "This run" });
  fault = h("p", { class: "fault", role: "alert", hidden: true });

  #list = new List(
    this.element,
    ({ key }) => key,
    (item) => this.#button(item),
  );
  #works = {
    change: () => changeRun(this.#run),
    settle: () => this.#settle(),
    erase: () => this.#erase(),
    delete: () => this.#delete(),
  };
  #refresh;
  #run;

  constructor(refresh) {
    this.#refresh = refresh;
  }

  /** Offer what can be done to the run now. */
  show(run, { stuck }) {
    this.#run = run;
    const ended = run.state === "closed" || run.state === "archived";
    const to = (state, text) => ({ key: `to-${state}`, text, state });
    const states = {
      open: [{ ...to("paused", "Pause"), key: "pause" }, to("closed", "Close")],
      paused: [{ ...to("open", "Go on"), key: "pause" }, to("closed", "Close")],
      closed: [{ ...to("open", "Open again"), key: "pause" }, to("archived", "Archive")],
      archived: [{ ...to("closed", "Take out of the archive"), key: "pause" }],
    };
    this.#list.show([
      ...states[run.state],
      { key: "change", text: "Change" },
      ...(stuck ? [{ key: "settle", text: "Settle stuck duels" }] : []),
      ...(isAdmin && !run.erased ? [{ key: "erase", text: "Erase texts" }] : []),
      ...(isAdmin && ended ? [{ key: "delete", text: "Delete" }] : []),
    ]);
  }

  #button({ key, text, state }) {
    const work = state ? (pressed) => this.#toState(pressed, state) : this.#works[key];
    const danger = key === "erase" || key === "delete";
    const pressed = async (event) => {
      await work(event.currentTarget);
      await this.#refresh.now();
    };
    return button(text, pressed, { action: key, danger });
  }

  async #toState(pressed, state) {
    if (state !== "closed" || this.#run.state === "archived") return changeState(pressed, this.fault, this.#run, state);
    return confirm({
      title: "Close the run?",
      text: "Nobody gets a duel of it any more and no duel can be posted. You can open it again.",
      action: "Close the run",
      work: async () => {
        await call("PUT", ofRun("", this.#run.id), { state });
        return `${this.#run.name || this.#run.id} ${DONE[state]}`;
      },
    });
  }

  #settle() {
    return confirm({
      title: "Settle stuck duels?",
      text: "Duels that everybody has answered or skipped, at least one of them by skipping, end with the votes that they have. Those that wait for more people than there are go on waiting.",
      action: "Settle",
      work: async () => {
        const before = (await call("GET", ofRun("/progress", this.#run.id))).open;
        const { open, stuck } = await call("POST", ofRun("/settle", this.#run.id));
        const left = stuck ? ` ${plural(stuck, "duel")} still stuck: ${REMEDY}` : "";
        return `${plural(before - open, "duel")} settled.${left}`;
      },
    });
  }

  #erase() {
    return confirm({
      title: "Erase the texts of this run?",
      text: [
        "Prompts, responses, instructions and examples are gone for good; duels that wait are cancelled first. Counts and labels stay.",
        "Exports, back-ups and experiments that have read the texts already keep them.",
        LEARNT,
      ],
      action: "Erase the texts",
      typed: this.#run.id,
      work: async () => {
        const { duels, left } = await call("POST", ofRun("/erase", this.#run.id), undefined, WRITTEN_ANEW);
        return [`The texts of ${plural(duels, "duel")} are erased.`, ...left].join(" ");
      },
    });
  }

  async #delete() {
    const done = await confirm({
      title: "Delete this run?",
      text: [
        "Its duels, labels and everything else about it are gone for good. Export the labels first if you may need them.",
        LEARNT,
      ],
      action: "Delete the run",
      typed: this.#run.id,
      work: async () => {
        await this.#refresh.without(() => call("DELETE", ofRun("", this.#run.id), undefined, WRITTEN_ANEW));
        return `${this.#run.id} is deleted.`;
      },
    });
    if (done) location.assign(at("/admin"));
  }
}
