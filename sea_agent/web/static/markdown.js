// Markdown of models and people as elements that do nothing: none of the text's own markup, no link, nothing fetched.

import { formulas, setFormulas } from "./formulas.js";
import { load } from "./load.js";

await Promise.all([load("vendor/markdown-it.umd.min.js"), load("vendor/purify.min.js"), load("text.css"), load("sideways.css")]);
const { DOMPurify, markdownit } = globalThis;

const LONGEST = 30_000; // characters: more would keep the page busy for too long
const MOST = 12_000; // parts, such as the beginnings and ends of cells
const DEEPEST = 40; // lists and quotes in each other
const LONGEST_ADDRESS = 200;
const TOO_LONG = "Too long to be rendered, so shown as it was written.";
const TOO_DEEP = "Nested too deeply to be rendered, so shown as it was written.";
const PURE = {
  ALLOWED_TAGS: "p div h3 h4 h5 h6 strong em s code pre blockquote ul ol li table thead tbody tr th td hr span".split(" "),
  ALLOWED_ATTR: ["class", "dir", "start"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const markdown = markdownit({ html: false, linkify: false, maxNesting: DEEPEST });
markdown.use(formulas);
markdown.inline.ruler.at("newline", newline);
markdown.core.ruler.push("tight", tight);
Object.assign(markdown.renderer.rules, {
  softbreak: () => "\n", // white-space: pre-wrap makes it a line
  hardbreak: () => "\n",
  heading_open: (tokens, k) => `<${heading(tokens[k])}>`,
  heading_close: (tokens, k) => `</${heading(tokens[k])}>\n`,
  fence: (tokens, k) => preformatted(tokens[k].content),
  code_block: (tokens, k) => preformatted(tokens[k].content),
  table_open: () => '<div class="wide"><table>',
  table_close: () => "</table></div>",
  th_open: cell,
  td_open: cell,
  link_open: () => "<span>",
  link_close: (tokens, k) => `</span>${address(tokens, k)}`,
  image: (tokens, k) => `<span>[image: ${escape(tokens[k].content)}]</span>${shortened(tokens[k].attrGet("src"))}`,
});

/** A text as elements {content}, or why it is not rendered: {note}. */
export function render(text) {
  if (text.length > LONGEST) return { note: TOO_LONG };
  const environment = {};
  const tokens = markdown.parse(text, environment);
  if (tokens.length > MOST) return { note: TOO_LONG };
  if (tokens.some(({ level }) => level >= DEEPEST - 1)) return { note: TOO_DEEP }; // what is deeper was left out
  const content = DOMPurify.sanitize(markdown.renderer.render(tokens, markdown.options, environment), PURE);
  setFormulas(content);
  return { content };
}

const escape = (text) => markdown.utils.escapeHtml(text);

/** The end of a line, and what the next one begins with: code without a fence keeps its indentation. */
function newline(state, silent) {
  if (state.src[state.pos] !== "\n") return false;
  if (!silent) state.push("softbreak", "br", 0);
  state.pos++;
  return true;
}

/** Items of a list without lines between them: their paragraphs are elements too, which keep lines and spaces. */
function tight({ tokens }) {
  for (const token of tokens) {
    if (token.hidden) Object.assign(token, { hidden: false, tag: "div" });
  }
}

const heading = ({ tag }) => `h${Math.min(6, Number(tag[1]) + 2)}`; // below the headings of the page

const preformatted = (text) => `<pre dir="ltr"><code>${escape(text)}</code></pre>\n`;

function cell(tokens, k) {
  const side = /(left|right|center)/.exec(tokens[k].attrGet("style"))?.[0];
  return `<${tokens[k].tag}${side ? ` class="${side}"` : ""}>`;
}

/** Where a link leads, unless its text says so: nothing on the page goes there, neither by a stray tap. */
function address(tokens, close) {
  let open = close;
  while (tokens[open].type !== "link_open") open--;
  return tokens[open].info === "auto" ? "" : shortened(tokens[open].attrGet("href"));
}

function shortened(url) {
  const shown = url.length > LONGEST_ADDRESS ? `${url.slice(0, LONGEST_ADDRESS)}…` : url;
  return ` <span class="address">(${escape(shown)})</span>`;
}
