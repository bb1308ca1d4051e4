// The frame of a panel: title, what it shows and of how many, and its data as CSV, JSON, PNG and as a link.

import { url } from "./api.js";
import { byId, h } from "./dom.js";
import { address } from "./state.js";

export class Panel {
  constructor(id, title) {
    this.id = id;
    this.title = title;
    this.section = byId(id);
    this.tools = h("div", { class: "tools" });
    this.body = h("div", { class: "body" });
    this.fault = h("p", { class: "fault", hidden: true });
    this.note = h("p", { class: "note" });
    this.section.setAttribute("aria-labelledby", `${id}-title`);
    this.section.append(
      h("header", {}, h("h2", { id: `${id}-title` }, title), this.tools),
      this.fault,
      this.body,
      this.note,
    );
    this.source = null;
    this.charts = [];
  }

  /** Say what the panel shows; `n` is of how many. */
  define(definition, n) {
    this.note.replaceChildren(definition, ...(n ? [" ", h("b", { class: "n" }, n)] : []));
  }

  /** Where the panel's data is, for CSV and JSON. */
  from(path, parameters) {
    this.source = { path, parameters };
    this.#fillTools();
  }

  /** Show with `draw` what `load` fetches, or why that is not possible. */
  async show(load, draw) {
    try {
      const data = await load();
      this.fault.hidden = true;
      this.body.hidden = this.note.hidden = false;
      draw(data);
    } catch (error) {
      if (error.status === undefined) throw error;
      this.fail(error.message);
      if (error.status === 401) throw error;
    }
  }

  fail(message) {
    this.fault.textContent = message;
    this.fault.hidden = false;
    this.body.hidden = true;
  }

  #fillTools() {
    const { path, parameters } = this.source;
    const tools = [
      h("a", { href: url(`${path}.csv`, parameters), download: `${this.id}.csv` }, "CSV"),
      h("a", { href: url(path, parameters), target: "_blank", rel: "noopener" }, "JSON"),
      this.charts.length ? h("button", { type: "button", onclick: () => this.#savePng() }, "PNG") : null,
      h("button", { type: "button", onclick: (event) => this.#copyLink(event.currentTarget) }, "Link"),
    ];
    this.tools.replaceChildren(...tools.filter(Boolean));
    for (const tool of this.tools.children) tool.setAttribute("aria-label", `${this.title}: ${tool.textContent}`);
  }

  async #savePng() {
    const { toPng } = await import("./chart.js");
    const drawn = this.charts.filter(({ plot }) => plot);
    if (!drawn.length) return;
    const place = URL.createObjectURL(await toPng(drawn, this.title, this.note.textContent));
    h("a", { href: place, download: `${this.id}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(place), 1000);
  }

  async #copyLink(button) {
    const link = `${location.origin}${location.pathname}${address({ panel: this.id })}`;
    history.replaceState(null, "", link);
    try {
      await navigator.clipboard.writeText(link);
      button.textContent = "Copied";
    } catch {
      button.textContent = "In the address bar";
    }
    setTimeout(() => (button.textContent = "Link"), 1500);
  }
}
