// Formulas in LaTeX: found in Markdown, and set as MathML. One that cannot be set stays as it was written.

import { load } from "./load.js";

await Promise.all([load("vendor/temml.min.js"), load("vendor/purify.min.js")]);
const { temml, DOMPurify } = globalThis;

const LONGEST = 2000; // characters of a formula
const MOST_LINES = 40;
const DEEPEST = 100; // elements in each other, so that laying them out cannot exhaust the browser
const MOST = 10_000; // characters of the formulas of a text: setting more would keep the page busy for too long
const EACH = 20; // characters that a formula counts for besides its own
const LONG = 48; // characters; a longer one in a line may need to be scrolled
const LARGEST = { em: 20, ex: 40, px: 300, pt: 225, mm: 80, cm: 8, in: 3 }; // what a formula may ask for, either way

const INLINE = new RegExp(
  [
    String.raw`\$\$(?:[^$\\]|\\[^]){1,${LONGEST}}?\$\$`,
    // "$5 and $10" is none: as in Pandoc, no space within the signs, and no letter or digit beside them
    String.raw`\$(?![\s$])(?:[^$\\\n]|\\[^\n]){0,${LONGEST}}?(?:[^\s$\\]|\\[^\n])\$(?![\p{L}\p{N}$])`,
    String.raw`\\\([^]{1,${LONGEST}}?\\\)`,
    String.raw`\\\[[^]{1,${LONGEST}}?\\\]`,
  ].join("|"),
  "yu",
);
const BESIDE = /[\p{L}\p{N}$]/u;
const CLOSING = { "$$": "$$", "\\[": "\\]" };
// A few definitions are enough to fill the memory; the others set styles in a way that the page's policy refuses.
const REFUSED = /\\(?:[egx]?def|let|futurelet|global|long|(?:re)?newcommand|providecommand|sideset|prescript)(?![a-zA-Z@])/;
const MACROS = { "\\pmb": "\\boldsymbol" }; // as here
const PURE = {
  USE_PROFILES: { mathMl: true },
  ADD_TAGS: ["div"], // the place of the formula
  ADD_ATTR: ["class", "form", "style"],
  FORBID_ATTR: ["href", "id", "src"],
  IN_PLACE: true,
};

/** A plugin of markdown-it: formulas become <code class="formula">, for `setFormulas`. */
export function formulas(markdown) {
  markdown.inline.ruler.before("escape", "formula", inline);
  markdown.block.ruler.before("fence", "formula", block, { alt: ["paragraph", "reference", "blockquote", "list"] });
  markdown.renderer.rules.formula = (tokens, k) =>
    `<code class="formula">${markdown.utils.escapeHtml(tokens[k].content)}</code>`;
}

function inline(state, silent) {
  const { src, pos } = state;
  if (src[pos] === "$" && src[pos + 1] !== "$" && BESIDE.test(src[pos - 1] ?? "")) return false;
  INLINE.lastIndex = pos;
  const found = INLINE.exec(src)?.[0];
  if (!found?.replace(/[$\\()[\]]/g, "").trim() || state.pos + found.length > state.posMax) return false;
  if (!silent) state.push("formula", "code", 0).content = found;
  state.pos += found.length;
  return true;
}

/** A formula on lines of its own, so that nothing in it is taken for a list or a heading. */
function block(state, first, end, silent) {
  const start = state.bMarks[first] + state.tShift[first];
  const closing = CLOSING[state.src.slice(start, start + 2)];
  if (!closing || state.sCount[first] - state.blkIndent >= 4) return false;
  const lines = [state.src.slice(start, state.eMarks[first])];
  let line = first;
  while (!lines.at(-1).includes(closing, line === first ? 2 : 0)) {
    line++;
    const isOutside = line < end && state.sCount[line] < state.blkIndent && !state.isEmpty(line);
    if (line === end || isOutside || lines.length === MOST_LINES) return false;
    lines.push(state.getLines(line, line + 1, state.blkIndent, false));
  }
  const content = lines.join("\n").trim();
  if (content.length > LONGEST || !content.slice(2, -2).trim() || content.indexOf(closing, 2) !== content.length - 2) return false;
  if (!silent) Object.assign(state.push("formula", "code", 0), { content, block: true, map: [first, line + 1] });
  state.line = line + 1;
  return true;
}

/** Set the formulas below an element. Each keeps how it was written in `data-source`. */
export function setFormulas(root) {
  if (!globalThis.MathMLElement) return; // an older browser would show letters without what joins them
  let characters = 0;
  for (const code of root.querySelectorAll("code.formula")) {
    const source = code.textContent;
    characters += source.length + EACH;
    if (characters > MOST) return;
    const display = source.slice(0, 2) in CLOSING;
    const sign = display || source.startsWith("\\") ? 2 : 1;
    const math = mathOf(source.slice(sign, -sign), display);
    if (!math) continue;
    const formula = document.createElement("span");
    formula.className = `formula ${display ? "display" : source.length > LONG ? "long" : "short"}`;
    formula.dataset.source = source;
    formula.append(math);
    code.replaceWith(formula);
  }
}

/** The formula as MathML; null when it cannot be set, or not safely. */
function mathOf(source, displayMode) {
  if (REFUSED.test(source)) return null;
  const place = document.createElement("div");
  try {
    temml.render(source, place, { displayMode, macros: { ...MACROS }, throwOnError: true, trust: false });
  } catch {
    return null; // no formula after all, or one with commands that it does not know
  }
  if (isDeeper(place, DEEPEST) || [...place.querySelectorAll("*")].some(isLarge)) return null;
  DOMPurify.sanitize(place, PURE);
  return place.querySelector("math");
}

function isLarge({ attributes }) {
  return [...attributes].some(({ value }) =>
    [...value.matchAll(/(-?[\d.]+)(em|ex|px|pt|mm|cm|in)\b/g)].some(([, number, unit]) => !(Math.abs(number) <= LARGEST[unit])),
  );
}

function isDeeper(root, depth) {
  let level = [root];
  for (; level.length; depth--) {
    if (depth < 0) return true;
    level = level.flatMap((element) => [...element.children]);
  }
  return false;
}
