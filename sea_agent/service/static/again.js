// A page that waits for a run to begin looks again by itself, as long as somebody looks at it. It is asked for first:
// in place of a service that does not answer, a browser would show a page of its own, which never looks again.

const SECONDS = 10;

setInterval(async () => {
  if (document.hidden) return;
  const answer = await fetch(location.href, { method: "HEAD" }).catch(() => null);
  if (answer?.ok) location.reload();
}, SECONDS * 1000);
