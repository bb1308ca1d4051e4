// The page of one run. Its parts follow the service; what is typed into them stays.

import { h } from "../dom.js";
import { at } from "../place.js";
import { call } from "../service.js";
import { Assigning } from "./assigning.js";
import { governs, holds, ofRun, run as id } from "./context.js";
import { Duels } from "./duels.js";
import { Export } from "./export.js";
import { Importing } from "./importing.js";
import { List } from "./list.js";
import { Quality } from "./quality.js";
import { Refresh } from "./refresh.js";
import { RunActions } from "./run_actions.js";
import { ONLY_STUCK, summary } from "./summary.js";

export function start(view) {
  const refresh = new Refresh(load);
  const changed = () => refresh.now();
  const head = h("div", {});
  const top = new List(
    head,
    () => "summary",
    ({ run, progress }) => summary(run, progress, () => duels.only("stuck")),
  );
  const actions = new RunActions(refresh);
  const [duels, importing, assigning] = [new Duels(changed), new Importing(changed), new Assigning(changed)];
  const [quality, exporting] = [new Quality(), new Export()];
  const users = h("a", { href: at(`/live/${encodeURIComponent(id)}`), hidden: true }, "Users and figures of live mode");

  view.append(
    h("div", { class: "card stack" }, head, actions.element, actions.fault, links(users)),
    quality.element,
    h(
      "div",
      { class: "columns" },
      h("div", { class: "stack" }, duels.element),
      h("div", { class: "stack" }, importing.element, assigning.element, exporting.element),
    ),
  );

  async function load() {
    const people = governs ? call("GET", "/v1/people") : { people: [] };
    const [run, progress, staff] = await Promise.all([
      call("GET", ofRun()),
      call("GET", ofRun("/progress")),
      people,
      duels.load(),
    ]);
    document.getElementById("title").textContent = run.name || run.id;
    top.show([{ run, progress }]);
    users.hidden = !run.live;
    actions.show(run, progress);
    importing.show(run);
    await quality.load(progress.quality_version);
    const answered = quality.names;
    const able = staff.people.filter(canAnswer).map(({ annotator }) => annotator);
    assigning.show([...new Set([...able, ...answered])].sort(), run.assigned);
    duels.offer([...new Set([...able, ...answered])].sort());
    exporting.offer(answered);
  }

  if (location.hash === ONLY_STUCK) duels.only("stuck");
  else refresh.now();
}

function links(users) {
  const labels = h("a", { href: at(`/label/${encodeURIComponent(id)}`) }, "Label page of this run");
  return h("p", { class: "links" }, labels, " ", users);
}

function canAnswer({ active, keys }) {
  return (
    active && keys.some((key) => holds(key) && key.scopes.includes("annotate") && (!key.runs || key.runs.includes(id)))
  );
}
