// What a page leaves in this browser. A browser may be full, or keep nothing for this address: that is told, not thrown.

/** Keep a value for good, under a name; whether the browser does. */
export const keep = (name, value) => guarded(() => localStorage.setItem(name, value));

/** Keep a value for as long as this tab is there; whether the browser does. */
export const keepInTab = (name, value) => guarded(() => sessionStorage.setItem(name, value));

function guarded(work) {
  try {
    work();
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    return false;
  }
  return true;
}
