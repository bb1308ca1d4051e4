// The page: fetches what the address asks for, shows it, and does so again when runs change.

import { get } from "./api.js";
import { Annotators } from "./annotators.js";
import { Calibration } from "./calibration.js";
import { colours, onScheme } from "./colours.js";
import { Configuration } from "./configuration.js";
import { Beliefs, Optimisation, Shortfall, WinRate } from "./curves.js";
import { byId, h, options, swatch } from "./dom.js";
import { Duels } from "./duels.js";
import { plural } from "./format.js";
import { Headline, Targets } from "./headline.js";
import { listen } from "./live.js";
import { Picker, isChosen } from "./picker.js";
import { change, onChange, settle, state } from "./state.js";
import { Throughput } from "./throughput.js";

const MOST_DRAWN = 8;
const OF_ONE_RUN = ["text", "outcome", "source", "from", "to", "sort", "page", "duel", "panel"];

const headline = new Headline();
const targets = new Targets();
const curves = [new WinRate(), new Shortfall(), new Beliefs(), new Optimisation()];
const calibration = new Calibration();
const throughput = new Throughput();
const annotators = new Annotators(headline);
const duels = new Duels();
const configuration = new Configuration();
const picker = new Picker();

let listing = null;

// --- loading: one at a time, and once more when something happened meanwhile

let loading = false;
let wanted = null; // "everything", "run" or nothing

async function load(what) {
  wanted = wanted === "everything" ? wanted : what;
  if (loading) return;
  loading = true;
  try {
    while (wanted) {
      const now = wanted;
      wanted = null;
      await (now === "everything" ? everything() : oneRun());
      say("");
    }
  } catch (error) {
    if (error.status === undefined) throw error;
    if (error.status === 401) say("To see the runs, sign in with a key that may read.", `../sign-in?next=${encodeURIComponent(location.pathname)}`);
    else say(error.message);
  } finally {
    loading = false;
    document.body.dataset.loaded = String(Number(document.body.dataset.loaded ?? 0) + 1);
  }
}

async function everything() {
  listing = await get("runs");
  byId("name").textContent = listing.name;
  byId("live-mode").hidden = !listing.service;
  document.title = `${listing.name} · sea-agent`;
  if (isEmpty()) return annotators.update(listing.service);
  chooseRuns();
  const all = await comparison();
  const view = all?.methods.length ? all : null;
  picker.update(listing, new Map((all?.left_out ?? []).map(({ run, why }) => [run, why])));
  chooseRun(view, listing.runs.filter(isChosen));
  for (const { panel } of curves) panel.section.hidden = !view;
  calibration.panel.section.hidden = !view && !all?.unmeasured.length;
  if (view) {
    const shown = controls(view);
    headline.update(shown);
    await targets.panel.show(() => view, () => targets.draw(view, shown));
    await Promise.all([...curves.map((panel) => panel.update(shown)), calibration.update(shown), headline.updateLabels(shown), oneRun()]);
  } else if (all?.unmeasured.length) {
    const shown = unmeasured(all);
    headline.update(shown);
    await Promise.all([calibration.update(shown), headline.updateLabels(shown), oneRun()]);
  } else {
    await oneRun();
  }
}

/** What can be shown of runs without a win rate: their ledgers. */
function unmeasured({ group, unmeasured: methods }) {
  const about = { runs: state.runs, group: group ?? [] };
  return { about, baseline: null, colours: colours(methods, null), method: methods[0], row: null, visible: new Set(methods) };
}

/** Whether there is no run, which the page then says once. */
function isEmpty() {
  const empty = !listing.runs.length;
  byId("place").textContent = listing.name;
  byId("empty").hidden = !empty;
  document.body.classList.toggle("without-runs", empty);
  byId("annotators").hidden = empty && !listing.service; // who answers is kept by the service
  return empty;
}

/** The newest collection, until somebody chooses. */
function chooseRuns() {
  const known = new Set(listing.runs.flatMap((run) => [run.id, run.collection]));
  const kept = state.runs.filter((id) => known.has(id));
  if (kept.length && kept.length === state.runs.length) return;
  const newest = listing.runs.reduce((best, run) => (!best || run.changed > best.changed ? run : best), null);
  settle({ runs: kept.length ? kept : newest ? [newest.collection] : [] });
}

async function comparison() {
  const about = { runs: state.runs, group: state.group ? state.group.split("|") : [] };
  try {
    const view = await get("comparison", { ...about, level: state.level, baseline: state.baseline });
    if (!view.methods.length) {
      const [first] = view.left_out;
      nothing(`No run here has a win rate yet.${first ? ` ${first.run}: ${first.why}` : ""}`);
    }
    return view;
  } catch (error) {
    if (error.status !== 422) throw error;
    nothing(error.message);
    return null;
  }
}

/** Say once that there is nothing to compare, and why. */
function nothing(message) {
  targets.panel.fail(message);
  headline.update({ row: null, baseline: null });
  byId("methods").replaceChildren();
}

/** Fill the controls with what there is, and say what is shown. */
function controls(view) {
  const methods = view.methods.map(({ method }) => method);
  const method = chosenMethod(view);
  const groups = view.groups.map(({ group, runs }) => [group.join("|"), `${group[0]}, ${group[1]}, ${group[2]} labels (${runs})`]);
  options(byId("group"), groups, view.group?.join("|"));
  options(byId("method"), methods.map((name) => [name, name]), method);
  options(byId("baseline"), [...(view.baseline ? [] : [["", "none"]]), ...methods.map((name) => [name, name])], view.baseline ?? "");
  if (document.activeElement !== byId("level")) byId("level").value = state.level;
  byId("x").value = state.x;
  byId("log").checked = state.log;
  const visible = new Set(methods.filter((name) => isDrawn(name, view, method)));
  const shown = {
    about: { runs: state.runs, group: view.group ?? [] },
    baseline: view.baseline,
    colours: colours(methods, view.baseline),
    byJudge: view.by_judge,
    definition: view.definition,
    method,
    row: view.methods.find((row) => row.method === method),
    visible,
  };
  chips(view, shown);
  return shown;
}

/** The method with most seeds that is not the baseline, until somebody chooses. */
function chosenMethod(view) {
  if (view.methods.some(({ method }) => method === state.method)) return state.method;
  const others = view.methods.filter(({ method }) => method !== view.baseline);
  return others.reduce((best, row) => (!best || row.seeds.length > best.seeds.length ? row : best), null)?.method ?? view.baseline ?? "";
}

/** All methods where they are few, otherwise the baseline, the chosen one, and those with most seeds. */
function isDrawn(name, view, method) {
  if (state.hide.includes(name)) return false;
  if (state.show.includes(name) || name === method || name === view.baseline) return true;
  const bySeeds = [...view.methods].sort((a, b) => b.seeds.length - a.seeds.length).map((row) => row.method);
  return bySeeds.indexOf(name) < MOST_DRAWN;
}

function chips(view, shown) {
  byId("methods").replaceChildren(
    ...view.methods.map(({ method, runs, so_far }) => {
      const on = shown.visible.has(method);
      const without = (list) => list.filter((one) => one !== method);
      const flip = () => change(on ? { hide: [...state.hide, method], show: without(state.show) } : { hide: without(state.hide), show: [...state.show, method] });
      return h("button", { type: "button", "aria-pressed": String(on), onclick: flip }, swatch(shown.colours.get(method).colour), method, h("small", {}, `${plural(runs.length, "run")}${so_far ? ", so far" : ""}`));
    }),
  );
}

// --- one run

function chooseRun(view, chosen) {
  const grouped = new Map();
  for (const { method, runs } of view?.methods ?? []) for (const { id } of runs) grouped.set(id, method);
  const entries = (view?.methods ?? []).map(({ method, runs }) => ({ group: method, options: runs.map(({ id, seed, state: is }) => [id, `${method}, seed ${seed}, ${is}: ${id}`]) }));
  const others = chosen.filter(({ id }) => !grouped.has(id)).map(({ id, state: is }) => [id, `${is}: ${id}`]);
  if (others.length) entries.push({ group: "not compared", options: others });
  const ids = chosen.map(({ id }) => id);
  const row = view?.methods.find(({ method }) => method === chosenMethod(view));
  const first = row?.runs[0].id ?? ids[0] ?? "";
  if (!ids.includes(state.run)) settle({ run: first });
  options(byId("run"), entries, state.run);
}

async function oneRun() {
  const chosen = listing.runs.filter(isChosen).map(({ id }) => id);
  const [view] = await Promise.all([configuration.update(chosen), throughput.update(), duels.update()]);
  const own = view?.keys.find(({ key }) => key === "oracle.run")?.value;
  await annotators.update(listing.service, own);
}

// --- what people do

const on = (id, act) => byId(id).addEventListener("change", ({ target }) => act(target));

byId("controls").addEventListener("submit", (event) => event.preventDefault());
on("group", ({ value }) => change({ group: value, method: "", baseline: "", run: "", duel: "", hide: [], show: [] }));
for (const id of ["method", "baseline", "x"]) on(id, ({ value }) => change({ [id]: value }));
on("log", ({ checked }) => change({ log: checked }));
on("run", ({ value }) => change({ run: value, duel: "", page: 0 }));
on("level", (target) => {
  const level = target.valueAsNumber;
  if (level >= 0 && level <= 1) change({ level });
  else target.value = state.level;
});

onChange((changed) => {
  if (listing) load(changed.every((key) => OF_ONE_RUN.includes(key)) ? "run" : "everything");
});
onScheme(() => load("everything"));

// --- live

function onNews({ version }) {
  byId("live").title = `version ${version}`;
  if (!listing || listing.version < version) load("everything");
}

function onState(is) {
  const live = byId("live");
  if (is === "live" && live.className.endsWith("lost")) load("everything");
  live.className = `live ${is}`;
  live.textContent = is === "live" ? "live" : "not connected";
}

function say(message, link) {
  const place = byId("message");
  place.hidden = !message;
  place.replaceChildren(message, link ? h("a", { href: link }, "Sign in") : "");
}

byId("stalled").remove();
await load("everything");
listen(onNews, onState);
if (state.panel) byId(state.panel)?.scrollIntoView();
