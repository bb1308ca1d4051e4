// The page of live mode: what serves, how users are answered and asked, and which weights went live or did not.

import { run } from "../admin/context.js";
import { List } from "../admin/list.js";
import { field, section, select } from "../admin/parts.js";
import { Refresh } from "../admin/refresh.js";
import { h } from "../dom.js";
import { at } from "../place.js";
import { call } from "../service.js";
import { Actions } from "./actions.js";
import { Charts } from "./charts.js";
import { figures } from "./figures.js";
import { Publications } from "./publications.js";
import { state } from "./state.js";
import { Users } from "./users.js";

const BINS = 60;
const HOUR = 3600;
const SPANS = [
  [HOUR, "Last hour"],
  [24 * HOUR, "Last day"],
  [7 * 24 * HOUR, "Last week"],
  [30 * 24 * HOUR, "Last 30 days"],
];

const ofLive = (what) => `/v1/live/${encodeURIComponent(run)}${what}`;

const refresh = new Refresh(load);
const span = select({ onchange: () => refresh.now() }, SPANS.map(([seconds, name]) => [String(seconds), name]), String(24 * HOUR));
const head = h("div", {});
const numbers = h("div", {});
const [top, shown] = [new List(head, () => "state", state), new List(numbers, () => "figures", figures)];
const actions = new Actions(ofLive, refresh);
const charts = new Charts();
const publications = new Publications(actions);
const users = new Users();
const first = h("section", { class: "card stack", hidden: true }, ...howToBegin());

document
  .getElementById("view")
  .append(
    h("div", { class: "card stack" }, head, actions.element, actions.fault),
    first,
    section("Users and answers", h("div", { class: "narrow-field" }, field("Since", span)), numbers),
    charts.element,
    publications.element,
    users.element,
  );
document.getElementById("stalled").remove();
refresh.now();

async function load() {
  const since = new Date(Date.now() - Number(span.value) * 1000).toISOString();
  const [summary, published] = await Promise.all([
    call("GET", ofLive(`/summary?since=${since}&bins=${BINS}`)),
    call("GET", ofLive("/publications")),
  ]);
  first.hidden = summary.requests > 0;
  top.show([{ live: summary.live, engines: summary.engines, publications: summary.publications }]);
  actions.show(summary.live);
  shown.show([numbersOf(summary)]);
  charts.show(summary.series, published.publications);
  publications.show(published.publications, summary.live);
  users.show(summary.users);
}

/** What the figures are made from: not from the time, or they would be made anew each time. */
function numbersOf({ since, until, series, engines, live, publications, ...rest }) {
  return rest;
}

/** What to do when nobody has asked anything since the time that is chosen. */
function howToBegin() {
  const address = `${location.origin}${at("/v1")}`;
  return [
    h("h2", {}, "No request in this time"),
    h("p", {}, "Apps that speak to OpenAI’s API speak to this service when their base URL is ", h("code", {}, address), ", with a key that has the scope chat."),
    h("pre", {}, h("code", {}, `curl ${address}/chat/completions -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\\n  -d '{"model": "${run}", "user": "u1", "messages": [{"role": "user", "content": "Hello"}], "sea": {"duel": "allow"}}'`)),
    h("p", {}, "People use ", h("a", { href: at("/chat") }, "the chat page"), "; give them a key with the scope chat."),
  ];
}
