// News from the server: which runs changed. The browser reconnects by itself.

/** `onNews({version})` after every change; `onState("live" | "lost")`. */
export function listen(onNews, onState) {
  const source = new EventSource("api/events");
  source.addEventListener("open", () => onState("live"));
  source.addEventListener("change", (event) => {
    onState("live");
    onNews(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    onState("lost");
    // A refusal (a session that ended, a server that starts) closes the source for good: try again.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => listen(onNews, onState), 3000);
  });
}
