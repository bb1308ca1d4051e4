// Where the service is: at the top of its host, or below a path of it. This file is in its static/.

const ROOT = new URL("..", import.meta.url).pathname.slice(0, -1); // "" or "/feedback"

/** The address of a path of the service. */
export const at = (path) => ROOT + path;

/** The name of what is kept in this browser: other services of the host keep theirs in the same place. */
export const own = (name) => `sea-agent${ROOT && `:${encodeURIComponent(ROOT)}`}/${name}`;
