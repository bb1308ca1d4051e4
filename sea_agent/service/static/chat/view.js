// What is on the page of the chat, around its exchanges.

import { byId, h } from "../dom.js";
import { button, Turn } from "./turn.js";

const turns = new Map(); // key of an exchange -> its Turn
const NEAR = 120; // pixels from the end within which the page follows what is written

/** Show the exchanges; `stateOf` tells what an update of one needs. */
export function showExchanges(exchanges, stateOf) {
  const follows = isNearEnd();
  const keys = new Set(exchanges.map(({ key }) => key));
  for (const [key, turn] of turns) {
    if (keys.has(key)) continue;
    turn.element.remove();
    turns.delete(key);
  }
  for (const exchange of exchanges) {
    if (!turns.has(exchange.key)) {
      turns.set(exchange.key, new Turn(exchange));
      byId("log").append(turns.get(exchange.key).element);
    }
    turns.get(exchange.key).update(exchange, stateOf(exchange));
  }
  byId("welcome").hidden = exchanges.length > 0;
  if (follows) toEnd();
}

export const turnOf = ({ key }) => turns.get(key);

/** The key of the exchange that an element is in. */
export const keyAt = (element) => element?.closest("[data-key]")?.dataset.key;

const isNearEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - NEAR;

/** Bring the end of the conversation into view. */
export const toEnd = () => scrollTo(0, document.documentElement.scrollHeight);

/** Read something out. */
export const announce = (text) => (byId("news").textContent = text);

/** Show what has become of what the reader said and picked. `mood` is "good", "busy" or "bad". */
export function showSaved(text, mood) {
  if (byId("saved").textContent !== text) byId("saved").textContent = text;
  byId("saved").dataset.mood = mood;
}

/** Show what keeps everything up, with a link {text, href} to where that is mended; "" when nothing does. */
export function showTrouble(text, way) {
  const place = byId("trouble");
  if (place.dataset.shown === text) return;
  place.dataset.shown = text;
  place.hidden = !text;
  place.replaceChildren(text, ...(way ? [" ", h("a", { href: way.href }, way.text)] : []));
}

/** List the wishes that the service did not take. */
export function showRefused(entries) {
  const place = byId("notices");
  const shown = JSON.stringify(entries);
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.hidden = !entries.length;
  const item = ({ path, refused }) =>
    h(
      "li",
      { dataset: { path } },
      h("p", {}, `What you chose was not taken. ${refused.detail}`),
      button("Try again", "retry"),
      button("Dismiss", "discard"),
    );
  place.replaceChildren(...entries.map(item));
}

/** Show whether an answer is being written, and whether the reader is asked. */
export function showControls({ writing, empty, asks }) {
  byId("send").hidden = writing;
  byId("stop").hidden = !writing;
  byId("fresh").hidden = empty;
  byId("asks").textContent = asks ? "Don’t ask me to compare" : "Ask me to compare again";
}

/** As high as what is written in it, up to what the style sheet allows. */
export function fit(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}
