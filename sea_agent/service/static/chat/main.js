// The chat: sends what the reader writes, shows the answers as they are written, and takes the pick where there are two.

import { byId } from "../dom.js";
import { signIn } from "../outbox.js";
import { at, own } from "../place.js";
import { keepInTab } from "../storage.js";
import { Conversation } from "./conversation.js";
import { Sender } from "./sender.js";
import * as view from "./view.js";
import { Wishes } from "./wishes.js";

const OUTCOMES = ["first", "second", "tie", "both_bad"]; // by their keys, from 1 on
const UNREADABLE_MS = 400; // what is pressed that soon after both answers are there was meant for something else
const [SHORTEST_PAUSE_MS, REST] = [60, 4]; // between two looks at an answer: REST times as long as the last one took
const TROUBLES = {
  offline: () => "No connection. Your message waits here and is sent when it is back.",
  busy: ({ detail }) => `${detail} Your message waits here and is sent again by itself.`,
  "signed-out": () => "Your message waits here until you have signed in again.",
};

const { annotator, model } = document.body.dataset;
const DRAFT = own(`chat-draft/${encodeURIComponent(annotator)}`);
const message = byId("message");
const hasMouse = matchMedia("(hover: hover)"); // elsewhere a field that gets the focus brings a keyboard over the page

signIn(annotator);
const conversation = new Conversation(annotator);
const wishes = new Wishes(annotator);
const sender = new Sender(annotator, conversation);

const answered = new Set(conversation.exchanges.filter(({ reply }) => reply).map(({ key }) => key)); // and read out
let reopened = null; // the exchange whose pick is being changed
let readable = 0; // when the last duel can be answered by a key

// --- what the reader does --------------------------------------------------------------------------------------------

const actions = {
  stop: () => sender.stop(),
  asks: () => wishes.setAsks(!wishes.asks),
  retry: (_, { path }) => wishes.outbox.retry(path),
  discard: (_, { path }) => wishes.outbox.discard(path),
  pick: (exchange, { outcome }) => pick(exchange, outcome),
  change(exchange) {
    reopened = exchange;
    render();
    view.turnOf(exchange).focusDuel();
  },
  keep: () => (reopened = null),
  rate(exchange, { up }) {
    if (!wishes.rate(exchange.reply.id, up === "true")) return;
    conversation.rate(exchange, up === "true");
    view.announce("Noted.");
  },
  again(exchange) {
    say(conversation.withdraw(exchange));
  },
  edit(exchange) {
    message.value = conversation.withdraw(exchange);
    view.fit(message);
    message.focus();
  },
  quiet(exchange) {
    if (!wishes.setAsks(false)) return;
    exchange.leaves = true;
    conversation.keep();
    goOn("You are not asked any more.");
  },
  fresh() {
    const unsent = "Your last message has no answer yet. Begin a new chat all the same?";
    if (conversation.waiting && !confirm(unsent)) return;
    sender.stop();
    conversation.clear();
    goOn("A new chat.");
  },
};

function say(text) {
  reopened = null;
  const duel = wishes.asks ? "allow" : "never";
  conversation.say(text, { model, user: annotator, stream: true, sea: { duel } });
  sender.go();
  render();
  view.toEnd();
}

function pick(exchange, outcome) {
  if (!wishes.choose(exchange.reply.id, outcome)) return;
  conversation.decide(exchange, outcome);
  reopened = null;
  goOn("Noted.");
}

/** What was done, for who hears it; and on to the next message. */
function goOn(said) {
  view.announce(said);
  if (hasMouse.matches) message.focus({ preventScroll: true });
}

/** The exchange whose duel the keys answer: the one that has the focus, else the last that is open. */
function asking() {
  const open = conversation.exchanges.filter(isOpen);
  return open.find(({ key }) => key === view.keyAt(document.activeElement)) ?? open[open.length - 1];
}

function isOpen(exchange) {
  return exchange.reply?.duel && !exchange.leaves && (!exchange.pick || exchange === reopened);
}

// --- what the page shows ---------------------------------------------------------------------------------------------

/** Bring the page in line with the state. */
function render() {
  const { waiting, exchanges } = conversation;
  view.showExchanges(exchanges, (exchange) => ({
    writing: exchange === waiting ? sender.reply : null,
    trouble: exchange === waiting ? TROUBLES[sender.trouble]?.(sender) : "",
    goesOn: conversation.isLast(exchange),
    reopened: exchange === reopened,
  }));
  for (const exchange of exchanges) {
    if (exchange.reply && !answered.has(exchange.key)) hear(exchange);
  }
  view.showControls({ writing: Boolean(waiting), empty: !exchanges.length, asks: wishes.asks });
  view.showRefused(wishes.outbox.refused);
  view.showTrouble(...trouble());
  view.showSaved(...saved());
}

/** An answer is there: read it out, and let the keys answer the duel that it may be. */
function hear(exchange) {
  answered.add(exchange.key);
  const turn = view.turnOf(exchange);
  if (!isOpen(exchange)) return view.announce(turn.spoken);
  readable = performance.now() + UNREADABLE_MS;
  if (document.activeElement === message && !message.value) turn.focusDuel();
  view.announce(`Two answers. ${turn.spoken}\nWhich is better? 1 the first, 2 the second, 3 a tie, 4 both bad.`);
}

function trouble() {
  const { outbox } = wishes;
  if (sender.trouble === "signed-out" || outbox.trouble === "signed-out") {
    return ["You are signed out.", { text: "Sign in to go on", href: at(`/sign-in?next=${location.pathname}`) }];
  }
  if (outbox.trouble === "refused") return [outbox.detail];
  if (wishes.unkept || conversation.unkept) {
    const what = wishes.unkept ? "What you chose is not saved" : "This conversation will not be there after a reload";
    return [`${what}: this browser keeps no data for this page. Its storage is full or not allowed.`];
  }
  return [""];
}

function saved() {
  const choices = wishes.outbox.waiting.length;
  const isUnsent = conversation.waiting && sender.trouble;
  const parts = [isUnsent && "1 message", choices && (choices === 1 ? "1 choice" : `${choices} choices`)].filter(Boolean);
  const trouble = sender.trouble ?? (choices ? wishes.outbox.trouble : null);
  const name = { offline: "Offline", busy: "Busy", "signed-out": "Signed out", refused: "Not accepted" }[trouble];
  if (name) return [`${name}: ${parts.join(" and ")} waiting`, "bad"];
  if (wishes.unkept) return ["Not saved", "bad"];
  if (conversation.waiting) return ["Answering…", "busy"];
  if (choices) return ["Saving…", "busy"];
  return [wishes.outbox.saved ? "Saved" : "", "good"];
}

let timer = null;
let pause = SHORTEST_PAUSE_MS;

/** Render soon: an answer comes in more pieces than anybody can see. */
function renderSoon() {
  timer ??= setTimeout(() => {
    timer = null;
    const began = performance.now();
    render();
    pause = Math.max(SHORTEST_PAUSE_MS, REST * (performance.now() - began));
  }, pause);
}

// --- from here on everything happens by itself -----------------------------------------------------------------------

sender.addEventListener("change", renderSoon);
wishes.outbox.addEventListener("change", renderSoon);
addEventListener("storage", renderSoon); // another tab was told whether to ask

document.addEventListener("click", ({ target }) => {
  const pressed = target.closest("[data-action]");
  if (!pressed || pressed.getAttribute("aria-disabled") === "true") return;
  const exchange = conversation.exchanges.find(({ key }) => key === view.keyAt(pressed));
  actions[pressed.dataset.action](exchange, { ...pressed.closest("[data-path]")?.dataset, ...pressed.dataset });
  render();
});

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (!text || conversation.waiting) return;
  message.value = "";
  view.fit(message);
  say(text);
});

message.addEventListener("input", () => view.fit(message));
message.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return asking() ? view.turnOf(asking()).focusDuel() : message.blur();
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || !hasMouse.matches) return;
  event.preventDefault();
  byId("send").click();
});

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || target === message) return;
  if (key === "Escape" && reopened) {
    reopened = null;
    render();
  }
  const outcome = OUTCOMES[Number(event.code.replace(/^(Digit|Numpad)/, "")) - 1]; // some layouts shift their digits
  const exchange = outcome && asking();
  if (exchange) {
    event.preventDefault();
    if (performance.now() < readable) return;
    pick(exchange, outcome);
    render();
  } else if (key.length === 1 && key !== " ") message.focus(); // which then gets what is typed
});

document.querySelector(".account").addEventListener("submit", (event) => {
  const unsent = "Not everything was sent yet. Your choices stay in this browser; a message without an answer is lost. Sign out?";
  if ((conversation.waiting || wishes.outbox.waiting.length) && !confirm(unsent)) return event.preventDefault();
  message.value = "";
  conversation.clear(); // the next reader in this browser is somebody else
});

addEventListener("pagehide", () => keepInTab(DRAFT, message.value)); // without room only a draft is lost
addEventListener("pageshow", ({ persisted }) => persisted && location.reload()); // what it shows may be long over

byId("stalled").remove();
byId("chat").hidden = false;
message.value = sessionStorage.getItem(DRAFT) ?? "";
view.fit(message);
render();
view.toEnd();
