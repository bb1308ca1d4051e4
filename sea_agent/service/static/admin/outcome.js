// What an action did, or why the service did not do it, where the reader is.

import { Refusal, Unreachable } from "../service.js";

const SECONDS = 8; // for which it stands there, and for each of its characters a little longer
const SECONDS_TO_READ = 0.1;

let timer;

/** Say what was done: in the dialog that is open, since nothing else is read out while it is, or on the page. */
export function say(text) {
  const place =
    [...document.querySelectorAll("dialog[open] [role=status]")].at(-1) ?? document.getElementById("outcome");
  place.textContent = ""; // said again, it is read out again
  requestAnimationFrame(() => (place.textContent = text));
  clearTimeout(timer);
  timer = setTimeout(() => (place.textContent = ""), (SECONDS + SECONDS_TO_READ * text.length) * 1000);
}

/**
 * Do what a button asks for. It cannot be pressed again meanwhile. `work` returns what to say; what the service refuses
 * is shown in `place`, and at the fields of `form` that it names. Returns whether it was done.
 */
export async function act(button, place, work, form = null) {
  if (button.getAttribute("aria-disabled") === "true") return false;
  button.setAttribute("aria-disabled", "true");
  clear(place, form);
  try {
    const done = await work();
    if (done) say(done);
    return true;
  } catch (error) {
    show(error, place, form);
    return false;
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

/** Why something was not done, in words. A fault of the page itself is thrown on. */
export function inWords(error) {
  if (error instanceof Refusal && error.status === 401) return "You are signed out. Reload the page to sign in again.";
  if (error instanceof Refusal || error instanceof Unreachable) return error.message;
  throw error;
}

function show(error, place, form) {
  const lines = [inWords(error)];
  for (const { where, what } of error.errors ?? []) {
    const [, name] = where.split(".");
    const control = form?.elements.namedItem(name);
    if (control instanceof HTMLElement) mark(control, what);
    else lines.push(`${where.replace(/^body\./, "")}: ${what}`);
  }
  place.textContent = lines.join("\n");
  place.hidden = false;
  form?.querySelector("[aria-invalid=true]")?.focus();
}

function mark(control, what) {
  control.setAttribute("aria-invalid", "true");
  const fault = document.getElementById(`${control.id}-fault`);
  fault.textContent = what;
  fault.hidden = false;
}

function clear(place, form) {
  place.hidden = true;
  for (const control of form?.querySelectorAll("[aria-invalid]") ?? []) {
    control.removeAttribute("aria-invalid");
    document.getElementById(`${control.id}-fault`).hidden = true;
  }
}
