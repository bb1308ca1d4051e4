// Worked examples, shown with the instructions: a duel, which response is better, and why.

import { show } from "./text.js";
import { NAMES } from "./view.js";

/** Show the examples that the page came with. */
export function showExamples() {
  const place = document.getElementById("examples");
  if (place) place.replaceChildren(...JSON.parse(place.dataset.examples).map(exampleOf));
}

function exampleOf({ prompt, first, second, outcome, why }, index) {
  const example = made("article", "example");
  const sides = made("div", "sides-of-example");
  sides.append(sideOf("First", first, outcome === "first"), sideOf("Second", second, outcome === "second"));
  const verdict = made("p", "verdict-of-example");
  verdict.append(Object.assign(made("b"), { textContent: NAMES[outcome] }));
  example.append(Object.assign(made("h3"), { textContent: `Example ${index + 1}` }), texts(prompt), sides, verdict);
  if (why) example.append(texts(why));
  return example;
}

function sideOf(name, text, better) {
  const side = made("section", "side");
  side.dataset.better = better;
  side.append(Object.assign(made("h4"), { textContent: name }), texts(text));
  return side;
}

function texts(text) {
  const node = Object.assign(made("div", "text"), { dir: "auto" });
  show(node, text, { rendered: true });
  return node;
}

function made(tag, className = "") {
  return Object.assign(document.createElement(tag), { className });
}
