// What serves now: the version that is live, and what each engine holds.

import { badge } from "../admin/parts.js";
import { ago, number } from "../admin/words.js";
import { h } from "../dom.js";

const STATES = ["live", "canary", "offered", "retired", "rejected", "withdrawn"];

/** The head of the page. */
export function state({ live, engines, publications }) {
  const serves = live.live === null ? "The initial weights serve" : `Version ${live.live} is live`;
  return h(
    "div",
    { class: "summary" },
    h(
      "p",
      { class: "about" },
      badge(serves, "live"),
      live.canary !== null && badge(`Version ${live.canary} is tried on some users`),
      live.forced !== null && badge(`An operator let version ${live.forced} go live`),
      live.frozen && badge("Frozen: nothing new goes live by itself", "frozen"),
    ),
    h(
      "p",
      { class: "counts" },
      STATES.filter((name) => publications[name]).map((name) => h("span", {}, h("b", {}, number(publications[name])), ` ${name}`)),
    ),
    h("h2", {}, "Engines"),
    engines.length
      ? h("ul", { class: "engines", "aria-label": "Engines" }, engines.map(engine))
      : h("p", { class: "hint" }, "No engine is known here: this service was not started by sea-agent live."),
  );
}

function engine({ url, version, wanted, error, checked_at: checked }) {
  const holds = version === null ? "the initial weights" : `version ${version}`;
  const lags = wanted !== version && `should hold ${wanted === null ? "the initial weights" : `version ${wanted}`}`;
  return h(
    "li",
    {},
    h("code", {}, url),
    h("span", {}, checked === null ? "not looked at yet" : `${holds}, ${ago(checked)}`),
    lags && h("span", {}, lags),
    error && h("span", { class: "fault" }, error),
  );
}
