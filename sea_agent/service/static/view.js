// What is on the page of a run. Texts of models and of people get there by text.js or as textContent, never as markup.

import { show, showDuel as showTexts } from "./text.js";

export const NAMES = { first: "First is better", second: "Second is better", tie: "Tie", both_bad: "Both bad" };

const at = (id) => document.getElementById(id);

/** The buttons of an action. */
export const buttons = (action) => document.querySelectorAll(`[data-action="${action}"]`);

// --- the duel --------------------------------------------------------------------------------------------------------

let onPage = {}; // what the texts on the page were made from: made anew, they would lose the reader's selection

/** Show a duel, rendered or raw, its differences marked or not; while it is `passing`, the next one is on its way. */
export function showDuel(duel, { marking, rendered, passing, note }) {
  at("panel").hidden = true;
  at("answers").dataset.idle = at("duel").hidden = false;
  at("duel").dataset.passing = passing;
  if (duel !== onPage.duel || marking !== onPage.marking || rendered !== onPage.rendered) {
    const places = { prompt: at("prompt"), first: at("first"), second: at("second") };
    onPage = { duel, marking, rendered, note: showTexts(places, duel, { rendered, marking }) };
    say("news", `Duel: ${duel.prompt.slice(0, 100)}`);
  }
  say("note", note || onPage.note);
}

/** Render the texts that the page came with. */
export function renderTexts() {
  for (const each of document.querySelectorAll("[data-markdown]")) show(each, each.textContent, { rendered: true });
}

/** Show a message in place of a duel; `way` is a link {text, href} or a button {text, action}. */
export function showPanel(title, text, way) {
  at("panel").hidden = false;
  at("answers").dataset.idle = at("duel").hidden = true;
  if (at("panel").dataset.shown === title + text) return; // or it would be read out again
  at("panel").dataset.shown = title + text;
  const parts = [element("h2", title), element("p", text)];
  if (way?.href) parts.push(Object.assign(element("a", way.text), { href: way.href, className: "button main" }));
  if (way?.action) parts.push(button(way.text, way.action, "main"));
  at("panel").replaceChildren(...parts);
}

/** Say that an earlier answer is being given again: what it was, a body or null; undefined when none is. */
export function showEarlier(body) {
  at("revising").hidden = body === undefined;
  say("earlier", body === undefined ? "" : `Your answer was: ${inWords(body)}. Choose again, or keep it.`);
  for (const outcome of Object.keys(NAMES)) {
    for (const each of buttons(outcome)) each.dataset.earlier = body?.outcome === outcome;
  }
}

/** Bring the response into view that is not being read. */
export function jump() {
  const [first, second] = ["first", "second"].map((side) => at(side).closest(".response"));
  const before = scrollY;
  const ways = second.getBoundingClientRect().top > innerHeight / 3 ? [second, first] : [first, second];
  for (const response of ways) {
    response.scrollIntoView();
    response.querySelector("h2").focus({ preventScroll: true }); // a screen reader goes on from there
    if (scrollY !== before) return; // else it was at the end of the page already
  }
}

/** Show the buttons at the bottom, or not: with no duel and nothing to take back there are none to press. */
export function showAnswers(shown) {
  at("answers").hidden = !shown;
}

// --- around it -------------------------------------------------------------------------------------------------------

/** Show how far the run is, once that is known; who may only annotate is told of their own answers alone. */
export function showProgress(progress) {
  if (!progress) return;
  const { open, answered, mine, qualification } = progress;
  const told = open !== undefined;
  at("bar").hidden = !told;
  if (told) [at("bar").max, at("bar").value] = [Math.max(1, open + answered), answered];
  const [o, a, m] = [open, answered, mine].map((count) => count?.toLocaleString());
  say("counts", told ? `${o} open · ${a} answered · ${m} by you` : `${m} by you`);
  say("qualifying", qualification?.passed === null ? qualifying(qualification) : "");
}

function qualifying({ given, needed }) {
  return `Qualification, ${given} of ${needed} answered: the right answers of these duels are known.`;
}

/** Show what has become of the answers. `mood` is "good", "busy" or "bad". */
export function showSaved(text, mood) {
  say("saved", text);
  at("saved").dataset.mood = mood;
}

/** List what the service did not take, each with ways on. */
export function showRefused(entries) {
  const shown = JSON.stringify(entries);
  if (at("notices").dataset.shown === shown) return;
  at("notices").dataset.shown = shown;
  at("notices").hidden = !entries.length;
  at("notices").replaceChildren(...entries.map(notice));
}

function notice(entry) {
  const { status, detail } = entry.refused;
  const reasons = {
    404: "The service does not know this duel any more.",
    409: "You have answered this duel already, in another place, and that answer stands.",
  };
  const item = element("li", "");
  item.dataset.lease = entry.lease;
  const given = inWords(entry.revision ?? entry.answer);
  item.append(element("p", `“${given}” was not taken. ${reasons[status] ?? detail}`));
  if (status !== 409) item.append(button("Try again", "retry"));
  item.append(button("Dismiss", "discard"));
  return item;
}

// --- what opens and closes -------------------------------------------------------------------------------------------

export const isMoreShown = () => !at("more").hidden;

/** Show the fields for how much better, and for a comment. */
export function showMore(open, { focus = true } = {}) {
  at("more").hidden = !open;
  for (const each of buttons("more")) each.setAttribute("aria-expanded", String(open));
  if (open && focus) at("comment").focus();
}

export const comment = () => at("comment").value.trim();

export function setComment(text) {
  at("comment").value = text;
}

export const areInstructionsShown = () => at("instructions")?.hidden === false;

export function showInstructions(open) {
  if (!at("instructions")) return; // the run has none
  at("instructions").hidden = !open;
  for (const each of buttons("instructions")) each.setAttribute("aria-expanded", String(open));
}

export const isHelpShown = () => at("help").open;

export const showHelp = () => at("help").showModal();

// --- parts -----------------------------------------------------------------------------------------------------------

/** Let a button be pressed or not. It keeps the focus, which `disabled` would take from it. */
export function enable(action, enabled) {
  for (const each of buttons(action)) each.setAttribute("aria-disabled", String(!enabled));
}

/** Show whether a button is down. */
export function press(action, down) {
  for (const each of buttons(action)) each.setAttribute("aria-pressed", String(down));
}

/** Set the text of an element that is read out when its text changes. */
function say(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

/** An answer in words; a skip is none. */
function inWords(body) {
  return body ? NAMES[body.outcome] : "Skip";
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function button(text, action, className = "") {
  const made = element("button", text);
  made.dataset.action = action;
  made.className = className;
  return made;
}
