// How a run is, as it stands in the list of runs and on top of its own page.

import { h } from "../dom.js";
import { at } from "../place.js";
import { badge } from "./parts.js";
import { STATES, noGoldInWords, number, plural, stuckInWords } from "./words.js";

/** What ends the address of a run's page that lists only the duels that nobody can answer. */
export const ONLY_STUCK = "#stuck";

/** State, counts, who can answer, and what is in the way, with a link to it; `toStuck` is called when that is followed. */
export function summary(run, progress, toStuck) {
  const [stuck, noGold] = [stuckInWords(progress.stuck), noGoldInWords(run, progress)];
  const address = at(`/admin/runs/${encodeURIComponent(run.id)}${ONLY_STUCK}`);
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
    noGold && h("p", { class: "warning" }, noGold),
    stuck &&
      h(
        "p",
        { class: "warning" },
        `${stuck} `,
        h("a", { href: address, onclick: toStuck, "data-action": "stuck" }, progress.stuck === 1 ? "Show it" : "Show them"),
      ),
  );
}
