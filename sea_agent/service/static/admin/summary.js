// How a run is, as it stands in the list of runs and on top of its own page.

import { h } from "../dom.js";
import { badge } from "./parts.js";
import { STATES, number, plural, stuckInWords } from "./words.js";

/** State, counts, who can answer, and what is in the way. */
export function summary(run, progress) {
  const stuck = stuckInWords(progress.stuck);
  return h(
    "div",
    { class: "summary" },
    h(
      "p",
      { class: "about" },
      badge(STATES[run.state], run.state),
      run.erased && badge("Texts erased"),
      h("code", {}, run.id),
    ),
    h("progress", {
      max: Math.max(1, progress.open + progress.answered),
      value: progress.answered,
      "aria-label": "Answered",
    }),
    h(
      "p",
      { class: "counts" },
      h("span", {}, h("b", {}, number(progress.open)), progress.open === 1 ? " waits" : " wait"),
      h("span", {}, h("b", {}, number(progress.answered)), " answered"),
      h("span", {}, h("b", {}, number(progress.labels)), progress.labels === 1 ? " label" : " labels"),
      h("span", {}, `${plural(progress.annotators, "person", "people")} can answer`),
    ),
    stuck && h("p", { class: "warning" }, stuck),
  );
}
