// Dialogs: each is made when it opens and removed when it closes. The browser then puts the focus back to where it was, at
// once: done again when `close` is told, it would be taken from the field in which somebody already types.

import { h } from "../dom.js";
import { act, say } from "./outcome.js";
import { button, field } from "./parts.js";

let made = 0;

/** Open a dialog with a title; returns it. */
export function open(title, content, { wide = false } = {}) {
  const id = `dialog-${++made}`;
  const heading = h("h2", { id, tabindex: -1, autofocus: true }, title);
  const close = button("×", () => dialog.close(), { quiet: true });
  close.setAttribute("aria-label", "Dismiss");
  const status = h("p", { class: "done", role: "status" });
  const dialog = h(
    "dialog",
    { class: wide ? "wide-dialog" : "", "aria-labelledby": id },
    h("div", { class: "dialog-head" }, heading, close),
    content,
    status,
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Ask before something is done that cannot be undone. With `typed`, that text has to be typed first. `work` returns what
 * to say afterwards. Resolves when the dialog is closed, to whether it was done.
 */
export function confirm({ title, text, action, typed = null, work }) {
  return new Promise((resolve) => {
    let done = false;
    const fault = h("p", { class: "fault", role: "alert", hidden: true });
    const answer = typed && h("input", { autocomplete: "off", spellcheck: "false", required: true });
    const submit = h("button", { class: "danger" }, action);
    const onsubmit = async (event) => {
      event.preventDefault();
      if (typed && answer.value !== typed) {
        fault.textContent = `This is not “${typed}”; nothing was done.`;
        fault.hidden = false;
        return answer.focus();
      }
      let said = "";
      done = await act(submit, fault, async () => void (said = await work()));
      if (!done) return;
      dialog.close();
      say(said);
    };
    const form = h(
      "form",
      { class: "stack", novalidate: true, onsubmit },
      [text].flat().map((line) => h("p", {}, line)),
      typed && field(`Type “${typed}” to go on`, answer),
      fault,
      h(
        "div",
        { class: "buttons" },
        submit,
        button("Leave it", () => dialog.close()),
      ),
    );
    const dialog = open(title, form);
    dialog.addEventListener("close", () => resolve(done));
  });
}
