// Asking the server. What has not changed since the last time is not sent again (ETag).

const kept = new Map();
const MOST_KEPT = 60;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The address of data, or of the service where `path` begins with /. Empty `parameters` are left out. */
export function url(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== "" && item !== null && item !== undefined) query.append(key, item);
    }
  }
  const text = query.toString();
  return path.startsWith("/") ? `..${path}` : `api/${path}${text ? `?${text}` : ""}`;
}

/** Data as JSON. Raises Refused with what the server says is wrong. */
export async function get(path, parameters) {
  const address = url(path, parameters);
  const before = kept.get(address);
  let response;
  try {
    response = await fetch(address, { headers: before ? { "If-None-Match": before.tag } : {} });
  } catch {
    throw new Refused(0, "The dashboard does not answer. It is asked again as soon as it is back.");
  }
  if (response.status === 304) return before.data;
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Refused(response.status, problem.detail ?? `The server answered ${response.status}.`);
  }
  const data = await response.json();
  const tag = response.headers.get("ETag");
  if (tag) {
    kept.delete(address);
    kept.set(address, { tag, data });
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
  }
  return data;
}
