// A reply's Markdown as elements that grow with it: settled blocks are never touched again, and of the last block only
// the part that has changed is made anew.

import { parseBlocks } from "./blocks.js";
import { copyButton, el } from "./dom.js";
import { appendAll, inline } from "./inline.js";

const drawn = new WeakMap(); // element → the block that it shows

export class Markdown {
  /** `onSettled(text)` hears the plain text of each block that is final. */
  constructor(root, onSettled = () => {}) {
    this.root = root;
    this.onSettled = onSettled;
    this.tail = ""; // the source from the first block that may still change
    this.settled = 0; // elements before it
  }

  append(text) {
    this.tail += text.replaceAll("\t", "    ").replaceAll("\r\n", "\n");
  }

  draw() {
    const lines = this.tail.split("\n");
    const blocks = parseBlocks(lines);
    patch(this.root, blocks, this.settled, true);
    // An unfinished line may yet turn out to belong to the block before it.
    const last = blocks.at(-1);
    const final = blocks.length - (last && last.start === lines.length - 1 ? 2 : 1);
    if (final <= 0) return;
    this.tail = lines.slice(blocks[final].start).join("\n");
    this.settle(final);
  }

  /** Nothing more comes. */
  finish() {
    this.draw();
    this.settle(this.root.childElementCount - this.settled);
    this.tail = "";
  }

  settle(count) {
    for (const element of [...this.root.children].slice(this.settled, this.settled + count)) {
      this.onSettled(drawn.get(element).type === "code" ? "Code." : element.textContent);
    }
    this.settled += count;
  }
}

/** Make the children of `parent` from `first` on show `blocks`. Only outermost blocks choose their direction. */
function patch(parent, blocks, first = 0, isOutermost = false) {
  blocks.forEach((block, index) => {
    const element = parent.children[first + index];
    const before = element && drawn.get(element);
    if (before?.source === block.source && before.type === block.type) return;
    const updated = before?.type === block.type && UPDATE[block.type]?.(element, block, before);
    const shown = updated ? element : BUILD[block.type](block);
    drawn.set(shown, block);
    if (updated) return;
    if (isOutermost) shown.setAttribute("dir", block.type === "code" ? "ltr" : "auto");
    if (element) element.replaceWith(shown);
    else parent.append(shown);
  });
  while (parent.children.length > first + blocks.length) parent.lastElementChild.remove();
}

const BUILD = {
  paragraph: ({ text }) => appendAll(el("p"), inline(text)),
  heading: ({ level, text }) => appendAll(el(`h${Math.min(level + 1, 6)}`), inline(text)), // under the page's own
  rule: () => el("hr"),
  math: ({ text }) => el("p", { class: "math block" }, text),
  code: ({ language, text }) => {
    const source = el("code", {}, text);
    const head = el("div", { class: "code-head" }, el("span", {}, language || "text"));
    head.append(copyButton("Copy code", () => source.textContent));
    return el("div", { class: "code-block" }, head, el("pre", { tabindex: "0", dir: "ltr" }, source));
  },
  quote: (block) => {
    const quote = el("blockquote");
    patch(quote, block.blocks);
    return quote;
  },
  list: (block) => {
    const list = el(block.ordered ? "ol" : "ul", { start: block.ordered && block.first !== 1 ? block.first : null });
    UPDATE.list(list, block);
    return list;
  },
  table: (block) => {
    const head = el("tr", {}, ...block.head.map((cell, i) => tableCell("th", cell, block.aligns[i])));
    const table = el("table", {}, el("thead", {}, head), el("tbody"));
    const wrapper = el("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, table);
    UPDATE.table(wrapper, block, { ...block, rows: [] });
    return wrapper;
  },
};

/** Each changes an element that shows `before` to show `block`; false when that takes a new element. */
const UPDATE = {
  paragraph: (element, { text }) => {
    element.replaceChildren();
    appendAll(element, inline(text));
    return true;
  },
  code: (element, block, before) => {
    if (before.language !== block.language || !block.text.startsWith(before.text)) return false;
    const source = element.querySelector("code");
    source.firstChild.appendData(block.text.slice(before.text.length));
    return true;
  },
  quote: (element, block) => {
    patch(element, block.blocks);
    return true;
  },
  list: (element, block, before = block) => {
    if (before.ordered !== block.ordered || before.first !== block.first) return false;
    element.classList.toggle("tight", block.isTight);
    block.items.forEach((item, index) => {
      if (!element.children[index]) element.append(el("li"));
      patch(element.children[index], item.blocks);
    });
    while (element.children.length > block.items.length) element.lastElementChild.remove();
    return true;
  },
  table: (element, block, before) => {
    if (before.head.join("|") !== block.head.join("|") || before.aligns.join() !== block.aligns.join()) return false;
    const body = element.querySelector("tbody");
    block.rows.forEach((row, index) => {
      if (before.rows[index]?.source === row.source) return;
      const shown = el("tr", {}, ...row.cells.map((cell, i) => tableCell("td", cell, block.aligns[i])));
      if (body.children[index]) body.children[index].replaceWith(shown);
      else body.append(shown);
    });
    while (body.children.length > block.rows.length) body.lastElementChild.remove();
    return true;
  },
};

const tableCell = (tag, text, align) => appendAll(el(tag, { class: align }), inline(text));
