// Texts of models and people on a page: rendered or as they were written, with the words that differ marked.

import { align, pieces, wordsOf } from "./diff.js";
import { render } from "./markdown.js";
import { watch } from "./sideways.js";

/** Fill an element with a text. Returns why it is not rendered, if it was to be. */
export function show(element, text, { rendered }) {
  const { content, note = "" } = rendered ? render(text) : {};
  fill(element, content, text);
  return note;
}

/**
 * Fill the elements {prompt, first, second} with the texts of a duel; `marking` marks the words of the responses that
 * are not in both. Returns what the reader should know: why texts are not rendered, or nothing is marked.
 */
export function showDuel(elements, { prompt, first, second }, { rendered, marking }) {
  const notes = new Set([show(elements.prompt, prompt, { rendered })]);
  const [places, texts] = [[elements.first, elements.second], [first, second]];
  const made = texts.map((text) => (rendered ? render(text) : {}));
  const isRendered = made.every(({ content }) => content); // both, or neither: or how they look would decide
  places.forEach((place, k) => fill(place, isRendered ? made[k].content : undefined, texts[k]));
  for (const { note } of made) notes.add(note);
  if (marking) notes.add(mark(places, texts));
  return [...notes].filter(Boolean).join(" ");
}

function fill(element, content, text) {
  element.classList.toggle("rendered", Boolean(content));
  if (content) element.replaceChildren(content);
  else element.textContent = text;
  watch(element);
}

/** Mark the words of two elements that differ. Returns why none are. */
function mark(elements, texts) {
  if (texts[0] === texts[1]) return "Both responses are the same.";
  const parts = elements.map(partsOf);
  const words = parts.map((side) => side.flatMap((part) => part.words));
  const { note, kept } = align(...words);
  if (note) return note;
  parts.forEach((side, k) => {
    let word = 0;
    for (const part of side) {
      markPart(part, kept[k], word);
      word += part.words.length;
    }
  });
  const isAnyMarked = words.some((side, k) => kept[k].size < side.length);
  return isAnyMarked ? "" : "Both say the same words; only their spaces or their form differ.";
}

/** What holds the words of an element, in order: text nodes, and formulas, each as one word. */
function partsOf(element) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT, (node) => {
    if (node.parentElement.closest("[data-source]")) return NodeFilter.FILTER_REJECT;
    return node.nodeType === Node.TEXT_NODE || node.dataset.source ? NodeFilter.FILTER_ACCEPT : NodeFilter.FILTER_SKIP;
  });
  const parts = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const source = node.dataset?.source;
    parts.push({ node, ...(source ? { segments: [source], words: [source] } : wordsOf(node.data)) });
  }
  return parts;
}

function markPart({ node, segments, words }, kept, from) {
  const made = pieces(segments, kept, from);
  if (!made.some(({ marked }) => marked)) return;
  if (words.length && node.dataset) node.replaceChildren(marked(...node.childNodes));
  else node.replaceWith(...made.map((piece) => (piece.marked ? marked(piece.text) : piece.text)));
}

function marked(...children) {
  const element = document.createElement("mark");
  element.append(...children);
  return element;
}

/** Formulas are copied as they were written; the browser would copy their letters without what joins them. */
document.addEventListener("copy", (event) => {
  const selection = getSelection();
  if (!selection.rangeCount || selection.isCollapsed) return;
  const copy = document.createElement("div");
  copy.append(selection.getRangeAt(0).cloneContents());
  const found = copy.querySelectorAll("[data-source]");
  if (!found.length) return;
  for (const formula of found) formula.replaceWith(formula.dataset.source);
  copy.className = "text rendered copied";
  document.body.append(copy); // innerText is that of a browser's copy only for what is laid out
  event.clipboardData.setData("text/plain", copy.innerText);
  copy.remove();
  event.preventDefault();
});
