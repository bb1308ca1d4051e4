// Where the page is and who reads it, as the service wrote it into the page.

const { dataset } = document.body;

/** The run of a run's page. */
export const run = dataset.run;

/** Whether the reader may do everything with their runs; else only what a key with the scope `experiment` may. */
export const isAdmin = dataset.admin === "true";

/** Whether the reader may also see and change people and keys: an admin of every run. */
export const governs = dataset.governs === "true";

/** The address of something about a run. */
export const ofRun = (what = "", id = run) => `/v1/runs/${encodeURIComponent(id)}${what}`;

/** The address of something about a duel. */
export const ofDuel = (id, what = "") => `/v1/queries/${encodeURIComponent(id)}${what}`;

/** The address of something about a person. */
export const ofPerson = (name, what) => `/v1/people/${encodeURIComponent(name)}${what}`;

/** How many names the address of a request holds. */
export const MOST_IN_URL = 20;

/** For how many people a duel can be, and to how many duels are handed out at once. */
export const MOST_NAMED = 100;

/** How long to wait for what makes the service write its files anew. */
export const WRITTEN_ANEW = { seconds: 900 };

/** Whether a key can be used now. */
export const holds = ({ revoked_at, expires_at }) => !revoked_at && !(expires_at && new Date(expires_at) < new Date());

/** Whether a key is for answering only, as that of a link is. */
export const isLink = ({ scopes }) => String(scopes) === "annotate";

/** `?a=1&b=2`; what is empty is left out, lists are repeated. */
export function query(values) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const each of [value].flat())
      if (each !== "" && each !== null && each !== undefined) parameters.append(name, each);
  }
  const text = String(parameters); // URLSearchParams.size is younger than the browsers that the pages are for
  return text && `?${text}`;
}
