// The page of one run: shows the duel that this tab has, takes the answer, and says what has become of it.

import { showExamples } from "./examples.js";
import { History } from "./history.js";
import { Leases } from "./leases.js";
import { Outbox, signIn } from "./outbox.js";
import { at, own } from "./place.js";
import { Stopwatch } from "./stopwatch.js";
import { keep as remember, keepInTab } from "./storage.js";
import * as view from "./view.js";

const OUTCOMES = ["first", "second", "tie", "both_bad"];
const LEVELS = [1, 2, 3];
const KEYS = {
  ArrowLeft: "first", ArrowRight: "second", t: "tie", b: "both_bad", s: "skip", u: "undo", Escape: "keep",
  1: "strength-1", 2: "strength-2", 3: "strength-3", c: "comment", d: "differences", r: "rendered", j: "jump",
  i: "instructions", "?": "help",
};
const PAUSED = "This run is paused now. Your answer still counts; the next duel comes when the run goes on.";
const CLOSED = "This run is closed now. Your answer to this duel still counts; it is the last one.";
const OTHERS = { text: "All runs", href: at("/label") };
const UNREADABLE_MS = 250; // nobody has read a duel by then: a second press of a key was meant for the one before

const { annotator, run, guidelines } = document.body.dataset;
const ME_HERE = `${encodeURIComponent(annotator)}/${run}`;
const SKETCH = own(`sketch/${ME_HERE}`);
const READ = own(`guidelines/${ME_HERE}`); // the digest of the guidelines that this annotator has read
if (!signIn(annotator)) {
  const remedy = "It needs to store data in this browser. Allow that for this address, see that there is room, and reload.";
  view.showPanel("This page cannot keep your answers", remedy);
  throw new Error("The browser stores nothing for this page.");
}
addEventListener("pagehide", () => shown && sketch()); // before the duel is given back, which clears the page
const outbox = new Outbox(annotator, run);
const leases = new Leases(annotator, run, outbox);
const history = new History(annotator, run);
const stopwatch = new Stopwatch();

let shown = null; // the duel whose texts are on the page
let readable = false; // whether they have been there for long enough to be answered
let revising = null; // the item of the history that is being answered again
let aside = null; // what was begun on the duel that waits meanwhile: {duel, ms, strength, comment}
let strength = null;
let unkept = false; // whether the browser refused to keep the last answer
let marking = localStorage.getItem(own("differences")) !== "off";
let rendered = localStorage.getItem(own("rendered")) !== "off";

// --- what the reader does --------------------------------------------------------------------------------------------

const actions = {
  skip: () => keep({ skip: true }, null),
  undo: () => reopen(history.before(revising)),
  keep: () => goOn(),
  comment: () => view.showMore(true), // of the key; the button opens and closes
  more: () => view.showMore(!view.isMoreShown()),
  instructions: () => showInstructions(!view.areInstructionsShown()),
  help: () => view.showHelp(),
  jump: () => shown && view.jump(),
  here: () => leases.choose(),
  retry: (lease) => outbox.retry(lease),
  discard: (lease) => outbox.discard(lease),
  differences() {
    marking = !marking;
    remember(own("differences"), marking ? "on" : "off");
  },
  rendered() {
    rendered = !rendered;
    remember(own("rendered"), rendered ? "on" : "off");
  },
};
for (const outcome of OUTCOMES) actions[outcome] = () => answer(outcome);
for (const level of LEVELS) {
  actions[`strength-${level}`] = () => {
    strength = strength === level ? null : level;
    view.showMore(true, { focus: false });
  };
}

function answer(outcome) {
  const comment = view.comment();
  const body = {
    outcome,
    ...(strength && (outcome === "first" || outcome === "second") && { strength }),
    ...(comment && { comment }),
    elapsed_ms: stopwatch.ms,
  };
  if (revising) revise(body);
  else keep({ answer: body }, body);
}

function keep(entry, body) {
  const { duel } = leases;
  if (!stored({ lease: duel.lease_id, ...entry })) return;
  history.add(duel, body);
  leases.done();
}

function revise(body) {
  const { answer, latest, duel } = revising;
  const same = latest && ["outcome", "strength", "comment"].every((field) => latest[field] === body[field]);
  if (!same) {
    if (!stored({ lease: duel.lease_id, ...(answer ? { answer, revision: body } : { answer: body }) })) return;
    history.revise(revising, body);
  }
  goOn();
}

/** Whether the browser keeps an answer. If not, it is not sent either: it could be lost on the way. */
function stored(entry) {
  unkept = !outbox.put(entry);
  return !unkept;
}

/** Answer an earlier duel again; the one that is on the page waits. */
function reopen(item) {
  aside ??= { duel: leases.duel, ...begun() };
  revising = item;
  begin(item.duel, { ms: 0, ...item.latest });
}

/** Go on with the duel that waited. */
function goOn() {
  if (leases.duel) begin(leases.duel, aside.duel === leases.duel ? aside : {});
  [revising, aside] = [null, null];
}

function begin(duel, { ms = 0, strength: level = null, comment = "" } = {}) {
  shown = duel;
  strength = level;
  view.setComment(comment);
  view.showMore(Boolean(level || comment), { focus: false });
  stopwatch.start(ms);
  readable = false;
  setTimeout(() => {
    if (shown === duel) readable = true;
    render();
  }, UNREADABLE_MS);
  scrollTo(0, 0);
}

/** What is begun on the duel that is shown. */
function begun() {
  return { ms: stopwatch.ms, strength, comment: view.comment() };
}

/** What was begun on a duel before the page was loaded again. */
function sketched(duel) {
  const sketch = JSON.parse(sessionStorage.getItem(SKETCH) ?? "null");
  sessionStorage.removeItem(SKETCH); // it is on the page from now on, and no other duel's
  return sketch?.query === duel.query_id ? sketch : {};
}

function sketch() {
  const { duel, ...rest } = aside ?? { duel: shown, ...begun() };
  keepInTab(SKETCH, JSON.stringify({ ...rest, query: duel?.query_id })); // without room only a sketch is lost
}

function showInstructions(open) {
  view.showInstructions(open);
  if (!open) remember(READ, guidelines);
  else localStorage.removeItem(READ); // they are open after a reload too
}

// --- what the page shows ---------------------------------------------------------------------------------------------

/** Bring the page in line with the state. */
function render() {
  if (!leases.chosen) [revising, aside] = [null, null];
  if (leases.duel && !revising && shown !== leases.duel) begin(leases.duel, sketched(leases.duel));
  const current = revising?.duel ?? leases.duel;
  const passing = shown && !current && leases.looking && leases.chosen && !trouble(); // the next is on its way
  if (!current) readable = false;
  if (!current && !passing) shown = null;
  if (shown) view.showDuel(shown, { marking, rendered, passing: !current, note: note() });
  else view.showPanel(...panel());
  view.showEarlier(revising ? revising.latest : undefined);
  const ready = readable && !view.areInstructionsShown(); // who is still reading those has not seen the duel below
  for (const name of [...OUTCOMES, "more", ...LEVELS.map((level) => `strength-${level}`)]) view.enable(name, ready);
  for (const level of LEVELS) view.press(`strength-${level}`, strength === level);
  view.enable("skip", ready && !revising);
  view.enable("undo", leases.chosen && history.before(revising));
  view.enable("keep", revising);
  view.press("differences", marking);
  view.showAnswers(shown || (leases.chosen && history.before(revising)));
  view.press("rendered", rendered);
  view.showProgress(leases.progress);
  view.showRefused(outbox.refused);
  view.showSaved(...saved());
}

/** Why no duel can be had or no answer sent: null, "offline", "signed-out" or "refused". */
function trouble() {
  if (outbox.waiting.length) return outbox.trouble;
  if (!leases.fault) return null;
  return { undefined: "offline", 401: "signed-out" }[leases.fault.status] ?? "refused";
}

function saved() {
  const waiting = outbox.waiting.length;
  const answers = waiting === 1 ? "1 answer" : `${waiting} answers`;
  if (unkept) return ["Not saved", "bad"];
  if (waiting && !outbox.trouble) return ["Saving…", "busy"];
  const name = { offline: "Offline", "signed-out": "Signed out", refused: "Not accepted" }[trouble()];
  if (name) return [waiting ? `${name}: ${answers} waiting` : name, "bad"];
  return [outbox.saved ? "Saved" : "", "good"];
}

function note() {
  if (unkept) return "Not saved: this browser keeps no data for this page. Its storage is full or not allowed; see to that, then answer again.";
  if (leases.lapsed && !revising) return "Others may answer this duel now. Your answer still counts, as a late one.";
  return { paused: PAUSED, closed: CLOSED, archived: CLOSED }[leases.progress?.state] ?? "";
}

function panel() {
  const kept = outbox.waiting.length ? "What you answered waits in this browser, and is sent then." : "";
  const here = { text: "Answer here", action: "here" };
  const again = { text: "Sign in", href: at(`/sign-in?next=${location.pathname}`) };
  if (!leases.chosen) return ["Open in another tab", "You answer this run in another tab.", here];
  switch (trouble()) {
    case "signed-out":
      return ["You are signed out", `Sign in to go on. ${kept}`, again];
    case "offline":
      return ["No connection", `The next duel comes as soon as the service answers again. ${kept}`];
    case "refused":
      return ["The service gives you no duel", outbox.waiting.length ? outbox.detail : leases.fault.message];
  }
  if (leases.looking) return ["Looking for a duel…", ""];
  return nothing(leases.progress ?? undefined);
}

/** Why there is nothing to answer. */
function nothing({ state, votes_needed, qualification } = {}) {
  const ask = "Ask whoever gave you the link to this page.";
  switch (state) {
    case "paused":
      return ["This run is paused", "It goes on here by itself.", OTHERS];
    case "closed":
    case "archived":
      return ["This run is closed", "There is nothing more to answer in it. Thank you for your answers.", OTHERS];
  }
  if (qualification?.passed === false) {
    const why = "Your answers to the first duels were not close enough to the instructions of this run.";
    return ["No more duels for you in this run", `Thank you for taking part. ${why} Do you think that this is wrong? ${ask}`];
  }
  if (qualification?.passed === null) {
    const why = "There are too few duels of the qualification for now. The next one appears here by itself.";
    return ["Nothing to answer now", `${why} Does none come? ${ask}`];
  }
  const next = "The next duel appears here by itself, as soon as there is one for you.";
  // Not whether an answer of theirs does lack those of others: that would tell gold duels and repeats apart.
  const others = "Several people answer each duel of this run, and the answers of others may still be awaited.";
  return ["Nothing to answer now", votes_needed > 1 ? `You have done your part. ${others} ${next}` : next, OTHERS];
}

/** What a key does, by the letter on it; by its place where the layout has no such letters, or shifts its digits. */
function named({ key, code }) {
  if (key.length > 1) return KEYS[key];
  const letter = key.toLowerCase();
  const place = code.replace(/^(Key|Digit)/, "").toLowerCase();
  return KEYS[letter] ?? (/[a-z]/.test(letter) ? undefined : KEYS[place]);
}

// --- from here on everything happens by itself -----------------------------------------------------------------------

outbox.addEventListener("change", render);
leases.addEventListener("change", render);

document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-action]");
  if (!button || button.getAttribute("aria-disabled") === "true") return;
  actions[button.dataset.action](button.closest("[data-lease]")?.dataset.lease);
  render();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || view.isHelpShown()) return;
  if (event.target.matches("textarea")) return event.key === "Escape" && event.target.blur();
  const name = named(event);
  if (!name || (event.key.startsWith("Arrow") && event.target.matches("[role=region]"))) return; // there they scroll
  event.preventDefault();
  if (name === "comment") actions.comment();
  else view.buttons(name)[0]?.click();
});

document.querySelector(".account").addEventListener("submit", (event) => {
  const kept = "Some answers are not saved yet. They stay in this browser until you sign in again. Sign out?";
  if (outbox.waiting.length && !confirm(kept)) event.preventDefault();
  else leases.leave(); // now, as afterwards the service would not know who gives the duel back
});

addEventListener("pageshow", ({ persisted }) => persisted && location.reload()); // what it shows may be long over

showExamples();
view.renderTexts();
showInstructions(localStorage.getItem(READ) !== guidelines); // others in this browser have not read them, nor what changed
render();
