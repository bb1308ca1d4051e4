// Scripts of others and style sheets, which modules cannot import.

/** Run a script, or apply a style sheet, that lies beside this module. */
export function load(name) {
  const { href } = new URL(name, import.meta.url);
  const element = name.endsWith(".css")
    ? Object.assign(document.createElement("link"), { rel: "stylesheet", href })
    : Object.assign(document.createElement("script"), { src: href });
  return new Promise((resolve, reject) => {
    element.onload = resolve;
    element.onerror = () => reject(new Error(`${name} could not be loaded.`));
    document.head.append(element);
  });
}
