// The form of a run, to make one and to change it.

import { h } from "../dom.js";
import { at } from "../place.js";
import { call } from "../service.js";
import { ofRun } from "./context.js";
import * as dialog from "./dialog.js";
import { Examples } from "./examples.js";
import { act, say } from "./outcome.js";
import { button, field, group } from "./parts.js";

const RUN_ID = "[A-Za-z0-9_\\-]([A-Za-z0-9_\\-]|\\.[A-Za-z0-9_\\-])*";

/** A run that is there stays as it is: it may be archived, another's, or younger than the list that the reader sees. */
const ONLY_NEW = { headers: { "If-None-Match": "*" } };

const NEW = { votes_needed: 1, repeat_share: 0.05, gold_share: 0.05, qualifying_share: 0.8 };

/** Ask for a new run, and go to its page when it is made. */
export function makeRun() {
  const id = h("input", {
    name: "id",
    required: true,
    pattern: RUN_ID,
    maxlength: 100,
    autocomplete: "off",
    spellcheck: "false",
    title: "Letters, digits, -, _ and single dots",
  });
  const help = "Experiments and links name the run by it: letters, digits, - and _. It cannot be changed later.";
  show("New run", "Make the run", NEW, field("Id", id, help), async (body) => {
    await call("PUT", ofRun("", id.value), body, ONLY_NEW);
    location.assign(at(`/admin/runs/${encodeURIComponent(id.value)}`));
    return "";
  });
}

/** Change a run; resolves when it is done or left. */
export function changeRun(run) {
  return show("Change the run", "Save", run, null, async (body) => {
    await call("PUT", ofRun("", run.id), body);
    return "The run is changed. Duels that are there already keep the number of votes they need.";
  });
}

function show(title, action, run, before, save) {
  return new Promise((resolve) => {
    const fault = h("p", { class: "fault", role: "alert", hidden: true });
    const examples = new Examples(run.examples ?? []);
    const submit = h("button", { class: "main" }, action);
    const form = h(
      "form",
      {
        class: "stack",
        onsubmit: async (event) => {
          event.preventDefault();
          let said = "";
          const work = async () => void (said = await save({ ...values(form), examples: examples.values }));
          if (!(await act(submit, fault, work, form))) return;
          opened.close();
          if (said) say(said);
        },
      },
      before,
      ...controls(run),
      examples.element,
      fault,
      h(
        "div",
        { class: "buttons" },
        submit,
        button("Leave it", () => opened.close()),
      ),
    );
    const opened = dialog.open(title, form, { wide: true });
    opened.addEventListener("close", resolve);
  });
}

function controls(run) {
  const input = (name, attributes = {}) => h("input", { name, value: run[name] ?? "", ...attributes });
  const whole = { type: "number", step: 1, inputmode: "numeric", required: true };
  const percent = (name) =>
    input(name, {
      type: "number",
      min: 0,
      max: 100,
      step: "any",
      required: true,
      value: Math.round(1e4 * (run[name] ?? 0)) / 100,
    });
  return [
    field("Name", input("name", { maxlength: 200 }), "What annotators see."),
    field(
      "Instructions",
      h("textarea", { name: "instructions", rows: 6, maxlength: 100000, value: run.instructions ?? "" }),
      "Markdown. Annotators read them before their first duel.",
    ),
    group(
      "Votes",
      field(
        "Votes needed",
        input("votes_needed", { ...whole, min: 1, max: 100 }),
        "By different people, for each new duel.",
      ),
      field(
        "Repeated duels, %",
        percent("repeat_share"),
        "Of the duels given, to see whether people agree with themselves.",
      ),
      field(
        "Gold duels, %",
        percent("gold_share"),
        "Of the duels given, as far as there are duels with a known answer.",
      ),
    ),
    group(
      "Qualification",
      field(
        "Gold duels to begin with",
        input("qualification", { ...whole, min: 0, max: 100, value: run.qualification ?? 0 }),
        "0: none.",
      ),
      field("Right at least, %", percent("qualifying_share"), "With fewer right, somebody gets no more duels."),
    ),
    field(
      "Erase texts after days",
      input("retention_days", { type: "number", min: 0, max: 36500, step: "any", inputmode: "decimal" }),
      "Counted from when a duel is over. Empty: they are kept.",
    ),
  ];
}

/** The body for the service. */
function values(form) {
  const text = (name) => form.elements.namedItem(name).value;
  const days = text("retention_days");
  return {
    name: text("name"),
    instructions: text("instructions"),
    votes_needed: Number(text("votes_needed")),
    repeat_share: Number(text("repeat_share")) / 100,
    gold_share: Number(text("gold_share")) / 100,
    qualification: Number(text("qualification")),
    qualifying_share: Number(text("qualifying_share")) / 100,
    retention_days: days === "" ? null : Number(days),
  };
}
