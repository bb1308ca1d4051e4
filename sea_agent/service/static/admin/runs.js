// Every run: how far it is, who can answer it, and what is in its way.

import { h } from "../dom.js";
import { at } from "../place.js";
import { call } from "../service.js";
import { query } from "./context.js";
import { List } from "./list.js";
import { button, field, tick } from "./parts.js";
import { Refresh } from "./refresh.js";
import { makeRun } from "./run_form.js";
import { changeState } from "./run_actions.js";
import { summary } from "./summary.js";

export function start(view) {
  const search = h("input", { type: "search", oninput: () => show() });
  const archived = h("input", { type: "checkbox", onchange: () => refresh.now() });
  const fault = h("p", { class: "fault", role: "alert", hidden: true });
  const empty = h("p", { class: "card", hidden: true });
  const items = h("ul", { class: "cards", "aria-label": "Runs" });
  const list = new List(items, ({ id }) => id, card);
  let found = [];

  const create = button("New run", () => makeRun(), { main: true });
  view.append(
    h("div", { class: "toolbar" }, field("Search", search), tick("Show archived", archived), create),
    fault,
    items,
    empty,
  );

  const refresh = new Refresh(async () => {
    found = (await call("GET", `/v1/runs${query({ archived: archived.checked || "", progress: true })}`)).runs;
    show();
  });
  refresh.now();

  function show() {
    const text = search.value.trim().toLowerCase();
    const matching = found.filter(({ id, name }) => `${id}\n${name}`.toLowerCase().includes(text));
    list.show(matching);
    empty.hidden = matching.length > 0;
    empty.textContent = found.length
      ? "No run has this in its name."
      : "There is no run yet. Make one, then import duels.";
  }

  function card(run) {
    const toggle = { open: ["Pause", "paused"], paused: ["Go on", "open"] }[run.state];
    return h(
      "li",
      { class: "card run-card" },
      h(
        "h2",
        {},
        h("a", { href: at(`/admin/runs/${encodeURIComponent(run.id)}`), "data-action": "open" }, run.name || run.id),
      ),
      summary(run, run.progress),
      toggle &&
        button(
          toggle[0],
          (event) => changeState(event.currentTarget, fault, run, toggle[1]).then(() => refresh.now()),
          { action: "state" },
        ),
    );
  }
}
