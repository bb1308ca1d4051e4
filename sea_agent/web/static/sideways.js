// Parts of texts that go on to the side: the keyboard reaches those that do not fit, and a screen reader names them.

const NAMES = [
  [".wide", "Table"],
  ["pre", "Code"],
  [".formula.display, .formula.long", "Formula"],
];

const watched = new ResizeObserver((entries) => {
  for (const { target } of entries) reach(target);
});

/** Watch the parts below an element that may be too wide. */
export function watch(root) {
  for (const [parts] of NAMES) for (const part of root.querySelectorAll(parts)) watched.observe(part);
}

function reach(part) {
  const [, name] = NAMES.find(([parts]) => part.matches(parts));
  const attributes = { tabindex: 0, role: "region", "aria-label": `${name}, scrolls sideways` };
  const isWide = part.scrollWidth > part.clientWidth;
  for (const [key, value] of Object.entries(attributes)) {
    if (isWide) part.setAttribute(key, value);
    else part.removeAttribute(key);
  }
}
