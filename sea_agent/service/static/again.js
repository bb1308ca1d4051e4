// A page that waits for a run to begin looks again by itself, as long as somebody looks at it.

const SECONDS = 10;

setInterval(() => document.hidden || location.reload(), SECONDS * 1000);
