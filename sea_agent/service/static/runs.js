// The list of runs: answers that a closed tab left behind are sent from here too.

import { Outbox, signIn } from "./outbox.js";

const { annotator } = document.body.dataset;
signIn(annotator);

for (const card of document.querySelectorAll("[data-run]")) {
  const outbox = new Outbox(annotator, card.dataset.run);
  const line = card.querySelector(".unsent");
  const render = () => {
    const waiting = outbox.waiting.length;
    line.hidden = !waiting;
    line.textContent = waiting === 1 ? "1 answer of yours waits" : `${waiting} answers of yours wait`;
  };
  outbox.addEventListener("change", render);
  render();
}
