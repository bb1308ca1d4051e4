// Everybody who may answer or did, how to invite others, and the keys that are not for answering.

import { h } from "../dom.js";
import { call } from "../service.js";
import { WRITTEN_ANEW, holds, isLink, ofPerson } from "./context.js";
import { confirm } from "./dialog.js";
import { Inviting } from "./inviting.js";
import { Keys, endKey } from "./keys.js";
import { List } from "./list.js";
import { badge, button, field, section } from "./parts.js";
import { Refresh } from "./refresh.js";
import { LEARNT, ago, moment, number, plural } from "./words.js";

export function start(view) {
  const changed = () => refresh.now();
  const search = h("input", { type: "search", oninput: () => show() });
  const items = h("ul", { class: "cards", "aria-label": "People" });
  const list = new List(
    items,
    ({ annotator }) => annotator,
    (person) => card(person, changed),
  );
  const [inviting, keys] = [new Inviting(changed), new Keys(changed)];
  const empty = h("p", { hidden: true }, "Nobody yet: invite somebody.");
  let found = [];
  view.append(
    h(
      "div",
      { class: "columns" },
      h("div", { class: "stack" }, section("People", field("Search", search), items, empty)),
      h("div", { class: "stack" }, inviting.element, keys.element),
    ),
  );

  const refresh = new Refresh(async () => {
    const [{ people }, { runs }] = await Promise.all([call("GET", "/v1/people"), call("GET", "/v1/runs"), keys.load()]);
    found = people;
    inviting.offer(runs);
    keys.offer(runs);
    show();
  });
  refresh.now();

  function show() {
    const text = search.value.trim().toLowerCase();
    list.show(found.filter(({ annotator }) => annotator.toLowerCase().includes(text)));
    empty.hidden = found.length > 0;
  }
}

function card(person, changed) {
  const { annotator, active, erased, keys, runs } = person;
  const live = keys.filter(holds);
  return h(
    "li",
    { class: "person" },
    h("h3", {}, annotator),
    h(
      "p",
      { class: "about" },
      badge(erased ? "Erased" : active ? "Can answer" : "Cannot answer", active ? "open" : "closed"),
      h("span", {}, `last seen ${ago(person.last_seen)}`),
      h("span", {}, plural(person.answers, "answer")),
      h("span", {}, `${number(person.answers_last_hour)} in the last hour`),
      live.length > 0 && h("span", {}, `${plural(live.length, "key")} for ${reachOf(live)}`),
      runs.length > 0 && h("span", {}, `answered in ${runs.join(", ")}`),
    ),
    live.length > 1 && links(annotator, live.filter(isLink), changed),
    !erased &&
      h(
        "div",
        { class: "buttons" },
        live.length > 0 && button("End access", () => endAccess(annotator, changed), { action: "end" }),
        button("Erase", () => erase(annotator, changed), { action: "erase", danger: true }),
      ),
  );
}

function reachOf(keys) {
  if (keys.some(({ runs }) => runs === null)) return "every run";
  return [...new Set(keys.flatMap(({ runs }) => runs))].sort().join(", ");
}

/** The links of somebody who has other access too, so that one of them can be ended alone. */
function links(annotator, keys, changed) {
  const item = (key) => {
    const until = key.expires_at ? `, until ${moment(key.expires_at)}` : "";
    const text = `Link for ${reachOf([key])}, made ${moment(key.created_at)}${until}`;
    const end = () => endKey(key.id, `link of ${annotator}`, "End the link", changed);
    return h("li", { class: "key" }, h("span", {}, text), button("End this link", end, { action: key.id }));
  };
  return h("ul", { class: "plain", "aria-label": `Links of ${annotator}` }, keys.map(item));
}

async function endAccess(name, changed) {
  await confirm({
    title: `End the access of ${name}?`,
    text: "All their keys and links end, their pages are signed out, and duels that they have open go to others. Their answers stay.",
    action: "End access",
    work: async () => {
      await call("POST", ofPerson(name, "/end"));
      return `The access of ${name} has ended.`;
    },
  });
  await changed();
}

async function erase(name, changed) {
  await confirm({
    title: `Erase ${name}?`,
    text: [
      "Their name becomes a random pseudonym everywhere, their comments are removed, their keys end. Their answers stay under the pseudonym. This cannot be undone.",
      "What cannot be forgotten here: exports, back-ups and experiments that have read the name already, and the name where it stands inside a prompt or a response.",
      LEARNT,
    ],
    action: "Erase this person",
    typed: name,
    work: async () => {
      const { pseudonym, labels, left } = await call("POST", ofPerson(name, "/erase"), undefined, WRITTEN_ANEW);
      return [`Erased: ${plural(labels, "label")} of theirs now under ${pseudonym}.`, ...left].join(" ");
    },
  });
  await changed();
}
