// A link brings its key behind the #, which a browser sends nowhere: it leaves the address and the history, and signs in.

function enter() {
  const [, key] = location.hash.match(/^#key=(.+)$/) ?? [];
  if (!key) return;
  history.replaceState(null, "", location.pathname + location.search);
  const field = document.getElementById("key");
  field.value = decodeURIComponent(key);
  field.form.querySelector("button").click();
}

addEventListener("hashchange", enter); // the link of somebody else, opened in the same tab
enter();
