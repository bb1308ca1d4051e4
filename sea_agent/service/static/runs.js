// The list of runs: answers that a closed tab left behind are sent from here too, also those to runs that left the list.

import { Outbox, signIn } from "./outbox.js";

const { annotator } = document.body.dataset;
signIn(annotator);

const lines = new Map();
for (const card of document.querySelectorAll("[data-run]")) lines.set(card.dataset.run, card.querySelector(".unsent"));

for (const run of new Set([...lines.keys(), ...Outbox.runsOf(annotator)])) {
  const outbox = new Outbox(annotator, run);
  const line = lines.get(run) ?? ofAnother();
  const render = () => {
    const waiting = outbox.waiting.length;
    const place = lines.has(run) ? "" : ` (${run})`;
    line.hidden = !waiting;
    line.textContent = `${waiting === 1 ? "1 answer of yours waits" : `${waiting} answers of yours wait`}${place}`;
  };
  outbox.addEventListener("change", render);
  render();
}

/** A line for a run that is not in the list. */
function ofAnother() {
  const line = Object.assign(document.createElement("p"), { className: "unsent", hidden: true });
  document.querySelector("main").append(line);
  return line;
}
