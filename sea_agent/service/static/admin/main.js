// Starts the view that the page is for.

const { view } = document.body.dataset;
const { start } = await import(`./${view}.js`);
start(document.getElementById("view"));
document.getElementById("stalled").remove();
