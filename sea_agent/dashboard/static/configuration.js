// The configuration of one run, and where it differs from another's.

import { get } from "./api.js";
import { field, h, headings, options, wide } from "./dom.js";
import { NONE, plural } from "./format.js";
import { Panel } from "./panel.js";
import { change, state } from "./state.js";

export class Configuration {
  constructor() {
    this.panel = new Panel("configuration", "Configuration");
    this.against = h("select", { onchange: () => change({ against: this.against.value }) });
    this.every = h("input", { type: "checkbox", onchange: () => this.#draw(this.view) });
    this.facts = h("p", { class: "flow" });
    this.trouble = h("pre", { class: "trouble", hidden: true });
    this.table = h("table", { class: "keys" });
    this.panel.body.append(
      h(
        "div",
        { class: "filter" },
        field("Beside", this.against, "wide"),
        h("label", { class: "control check" }, this.every, h("span", {}, "keys that are the same, too")),
      ),
      this.facts,
      this.trouble,
      wide("Configuration", this.table, "scroll tall"),
    );
  }

  async update(runs) {
    if (!state.run) return this.panel.fail("No run is chosen.");
    options(this.against, [["", "no other run"], ...runs.filter((id) => id !== state.run).map((id) => [id, id])], runs.includes(state.against) ? state.against : "");
    const parameters = { run: state.run, against: state.against };
    this.panel.from("configuration", parameters);
    await this.panel.show(() => get("configuration", parameters), (view) => this.#draw(view));
    return this.panel.fault.hidden ? this.view : null;
  }

  #draw(view) {
    this.view = view;
    const { keys, against, summary, versions } = view;
    const both = against !== null;
    this.every.parentElement.hidden = !both;
    const shown = keys.filter((row) => !both || this.every.checked || !row.same);
    this.table.replaceChildren(
      headings(["Key", view.run, ...(both ? [against] : [])]),
      h("tbody", {}, shown.map((row) => h("tr", { class: both && !row.same ? "differs" : "" }, h("th", { scope: "row" }, row.key), h("td", {}, row.value ?? NONE), both ? h("td", {}, row.other ?? NONE) : null))),
    );
    const commit = summary.git_commit ? `, commit ${String(summary.git_commit).slice(0, 12)}` : "";
    const made = versions ? `, ${Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")}` : "";
    this.facts.textContent = `${view.run} is ${view.state}${commit}${made}.`;
    const trouble = [...view.trouble, view.error].filter(Boolean).join("\n");
    this.trouble.textContent = trouble;
    this.trouble.hidden = !trouble;
    const different = keys.filter((row) => !row.same).length;
    this.panel.define(
      both ? "Keys of config.yaml in which the two runs differ; a dash where one has no such key." : "config.yaml as it was resolved, all defaults written out.",
      both ? `${plural(different, "difference")} in ${plural(keys.length, "key")}.` : `n = ${plural(keys.length, "key")}.`,
    );
  }
}
