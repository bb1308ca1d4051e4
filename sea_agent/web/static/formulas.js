// Formulas in LaTeX: found in Markdown, and set as MathML. One that cannot be set stays as it was written.

import { load } from "./load.js";

await Promise.all([load("vendor/temml.min.js"), load("vendor/purify.min.js")]);
const { temml, DOMPurify } = globalThis;

const LONGEST = 2000; // characters of a formula
const DEEPEST = 100; // elements in each other, so that laying them out cannot exhaust the browser
const MOST = 500; // formulas of a text
const LARGEST = [20, 200]; // what a formula may ask for, in em and in pt

const INLINE = new RegExp(
  [
    String.raw`\$\$(?:[^$\\]|\\[^]){1,${LONGEST}}?\$\$`,
    // "$5 and $10" is none: as in Pandoc, no space within the signs, and no letter or digit beside them
    String.raw`(?<![\p{L}\p{N}$])\$(?![\s$])(?:[^$\\\n]|\\[^\n]){1,${LONGEST}}?(?<!\s)\$(?![\p{L}\p{N}$])`,
    String.raw`\\\([^]{1,${LONGEST}}?\\\)`,
    String.raw`\\\[[^]{1,${LONGEST}}?\\\]`,
  ].join("|"),
  "yu",
);
const CLOSING = { "$$": "$$", "\\[": "\\]" };
const DEFINITIONS = /\\(?:[egx]?def|let|futurelet|global|long|(?:re)?newcommand|providecommand)(?![a-zA-Z@])/;

/** A plugin of markdown-it: formulas become <code class="formula">, for `setFormulas`. */
export function formulas(markdown) {
  markdown.inline.ruler.before("escape", "formula", inline);
  markdown.block.ruler.before("fence", "formula", block, { alt: ["paragraph", "reference", "blockquote", "list"] });
  markdown.renderer.rules.formula = (tokens, k) =>
    `<code class="formula">${markdown.utils.escapeHtml(tokens[k].content)}</code>`;
}

function inline(state, silent) {
  INLINE.lastIndex = state.pos;
  const found = INLINE.exec(state.src)?.[0];
  if (!found || state.pos + found.length > state.posMax) return false;
  if (!silent) state.push("formula", "code", 0).content = found;
  state.pos += found.length;
  return true;
}

/** A formula on lines of its own, so that nothing in it is taken for a list or a heading. */
function block(state, first, end, silent) {
  const start = state.bMarks[first] + state.tShift[first];
  const closing = CLOSING[state.src.slice(start, start + 2)];
  if (!closing || state.sCount[first] - state.blkIndent >= 4) return false;
  let content = "";
  for (let line = first; line < end && content.length <= LONGEST; line++) {
    if (line > first && state.sCount[line] < state.blkIndent && !state.isEmpty(line)) return false;
    content += state.getLines(line, line + 1, state.blkIndent, true);
    const at = content.indexOf(closing, content.indexOf(closing === "$$" ? "$$" : "\\[") + 2);
    if (at < 0) continue;
    if (content.slice(at + 2).trim()) return false;
    if (!silent) Object.assign(state.push("formula", "code", 0), { content: content.trim(), block: true, map: [first, line + 1] });
    state.line = line + 1;
    return true;
  }
  return false;
}

/** Set the formulas below an element. Each keeps how it was written in `data-source`. */
export function setFormulas(root) {
  for (const code of [...root.querySelectorAll("code.formula")].slice(0, MOST)) {
    const source = code.textContent;
    const display = source.slice(0, 2) in CLOSING;
    const sign = display || source.startsWith("\\") ? 2 : 1;
    const math = mathOf(source.slice(sign, -sign), display);
    if (!math) continue;
    const formula = document.createElement("span");
    formula.className = display ? "formula display" : "formula";
    formula.dataset.source = source;
    formula.append(math);
    code.replaceWith(formula);
  }
}

/** The formula as MathML; null when it cannot be set, or not safely. */
function mathOf(source, displayMode) {
  if (DEFINITIONS.test(source)) return null; // a few of them are enough to fill the memory
  const place = document.createElement("div");
  const options = { displayMode, trust: false, throwOnError: true, maxSize: LARGEST, wrap: displayMode ? "none" : "tex" };
  try {
    temml.render(source, place, options);
  } catch {
    return null; // no formula after all, or one with commands that it does not know
  }
  if (isDeeper(place, DEEPEST)) return null;
  DOMPurify.sanitize(place, { USE_PROFILES: { mathMl: true }, ADD_TAGS: ["div"], FORBID_ATTR: ["id", "href", "src"], IN_PLACE: true });
  return place.querySelector("math") && place.firstElementChild;
}

function isDeeper(root, depth) {
  let level = [root];
  for (; level.length; depth--) {
    if (depth < 0) return true;
    level = level.flatMap((element) => [...element.children]);
  }
  return false;
}
