// A list that is shown again and again: only what has changed is made anew, so that the focus, what is selected and
// what is being typed stay where they are.

export class List {
  #element;
  #key;
  #make;
  #shown = new Map(); // key -> {json, node}

  /** `make` turns an item into an element; `key` tells items apart. */
  constructor(element, key, make) {
    [this.#element, this.#key, this.#make] = [element, key, make];
  }

  /** Show these items in this order. While the reader selects text in the list it stays as it is, until the next time. */
  show(items) {
    if (this.#isBeingRead()) return;
    const before = this.#shown;
    this.#shown = new Map(items.map((item) => this.#entry(item, before.get(this.#key(item)))));
    for (const [key, { node }] of before) if (this.#shown.get(key)?.node !== node) this.#drop(node, key);
    let place = this.#element.firstChild;
    for (const { node } of this.#shown.values()) {
      if (node === place) place = place.nextSibling;
      else this.#element.insertBefore(node, place);
    }
  }

  #entry(item, old) {
    const json = JSON.stringify(item);
    return [this.#key(item), old?.json === json ? old : { json, node: this.#make(item) }];
  }

  /** Take an element out; where its successor is, the focus goes there. */
  #drop(node, key) {
    const focused = node.contains(document.activeElement) ? document.activeElement : null;
    const successor = this.#shown.get(key)?.node;
    if (successor) node.replaceWith(successor);
    else node.remove();
    if (!focused || !successor) return;
    const same = focused === node ? successor : successor.querySelector(`[data-action="${focused.dataset.action}"]`);
    same?.focus();
  }

  #isBeingRead() {
    const selection = document.getSelection();
    return !selection.isCollapsed && selection.containsNode(this.#element, true);
  }
}
