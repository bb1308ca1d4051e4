// The dialog in which runs are chosen: experiments and directories, and below them their runs with what became of them.

import { byId, h } from "./dom.js";
import { ago, plural } from "./format.js";
import { change, state } from "./state.js";

const STATES = ["running", "finished", "failed", "dead", "unknown"];
const MEANING = {
  running: "a process holds its lock",
  finished: "it has a summary",
  failed: "it left error.txt",
  dead: "no summary, and nobody holds its lock",
  unknown: "no summary and no lock: nobody can tell whether it still runs",
};

export class Picker {
  constructor() {
    this.dialog = byId("picker");
    this.button = byId("pick");
    this.search = h("input", { type: "search", placeholder: "Find a run", "aria-label": "Find a run", oninput: () => this.#fill() });
    this.list = h("div", { class: "picker-list" });
    this.dialog.append(
      h("header", {}, h("h2", { id: "picker-title" }, "Runs"), h("button", { type: "button", onclick: () => this.dialog.close() }, "Done")),
      this.search,
      this.list,
    );
    this.button.addEventListener("click", () => this.dialog.showModal());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.open = new Set();
  }

  /** Show the runs there are; `leftOut` says by id why a chosen run is in no comparison. */
  update(listing, leftOut) {
    this.listing = listing;
    this.leftOut = leftOut;
    const counts = tally(listing.runs.filter(isChosen));
    const names = state.runs.length === 1 ? state.runs[0] : plural(state.runs.length, "place");
    const name = state.runs.length ? (names === "." ? listing.name : names) : "all";
    this.button.replaceChildren(h("span", {}, name), ...STATES.filter((one) => counts[one]).map((one) => h("span", { class: `state ${one}` }, `${counts[one]} ${one}`)));
    this.#fill();
  }

  #fill() {
    const wanted = this.search.value.trim().toLowerCase();
    const collections = new Map();
    for (const run of this.listing.runs) {
      if (!`${run.id} ${run.state}`.toLowerCase().includes(wanted)) continue;
      if (!collections.has(run.collection)) collections.set(run.collection, []);
      collections.get(run.collection).push(run);
    }
    const now = Date.now() / 1000;
    const newest = (runs) => Math.max(...runs.map((run) => run.changed));
    const sorted = [...collections].sort(([, a], [, b]) => newest(b) - newest(a));
    const scrolled = this.list.scrollTop;
    this.list.replaceChildren(
      ...sorted.map(([id, runs]) => this.#collection(id, runs, now, wanted)),
      ...(sorted.length ? [] : [h("p", { class: "empty" }, "No run fits.")]),
      ...this.listing.trouble.map(({ place, what }) => h("p", { class: "trouble" }, `${place}: ${what}`)),
    );
    this.list.scrollTop = scrolled;
  }

  #collection(id, runs, now, wanted) {
    const counts = tally(runs);
    const box = h("input", { type: "checkbox", checked: state.runs.includes(id), "aria-label": `Show ${id}`, onchange: () => toggle(id) });
    const name = id === "." ? this.listing.name : id;
    const kind = this.listing.experiments.includes(id) ? "experiment" : "directory";
    const details = h(
      "details",
      { open: this.open.has(id) || Boolean(wanted), ontoggle: () => (details.open ? this.open.add(id) : this.open.delete(id)) },
      h("summary", {}, h("b", {}, name), h("small", {}, kind), ...STATES.filter((one) => counts[one]).map((one) => h("span", { class: `state ${one}` }, `${counts[one]} ${one}`)), h("small", {}, ago(now - Math.max(...runs.map((run) => run.changed))))),
    );
    if (details.open) this.#runs(details, id, runs, now);
    else details.addEventListener("toggle", () => this.#runs(details, id, runs, now), { once: true });
    return h("div", { class: "collection" }, box, details);
  }

  #runs(details, id, runs, now) {
    if (details.querySelector("ul")) return;
    const prefix = id === "." ? "" : `${id}/`;
    details.append(
      h("ul", {}, runs.map((run) => {
        const why = [this.leftOut.get(run.id), ...run.trouble].filter(Boolean).join("; ");
        return h(
          "li",
          {},
          h("label", {}, h("input", { type: "checkbox", checked: isChosen(run), disabled: state.runs.includes(id), onchange: () => toggle(run.id) }), run.id.startsWith(prefix) && run.id !== id ? run.id.slice(prefix.length) : run.id),
          h("span", { class: `state ${run.state}`, title: MEANING[run.state] }, run.state),
          h("small", {}, ago(now - run.changed)),
          why ? h("small", { class: "why" }, why) : null,
        );
      })),
    );
  }
}

export function isChosen(run) {
  return !state.runs.length || state.runs.includes(run.id) || state.runs.includes(run.collection);
}

function toggle(id) {
  const runs = state.runs.includes(id) ? state.runs.filter((one) => one !== id) : [...state.runs, id];
  change({ runs, group: "", method: "", baseline: "", run: "", against: "", duel: "", hide: [], show: [] });
}

function tally(runs) {
  const counts = {};
  for (const run of runs) counts[run.state] = (counts[run.state] ?? 0) + 1;
  return counts;
}
