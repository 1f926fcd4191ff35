// Markdown inside a block: emphasis, code, links, line breaks. Returns nodes and texts; whatever is not understood
// stays the text it was. Every search is bounded or remembered, so that no text takes more than about linear time.

import { el } from "./dom.js";

const PLAIN = /[^\\`*_~[\]!<$&h\n]+/y;
const URL_HERE = /https?:\/\/[^\s<>"`]+/y;
const DESTINATION = /\(\s*<?([^\s<>]{1,2000}?)>?(?:\s+["'(][^\n]{0,500}?["')])?\s*\)/y;
const ANGLE = /<(?:(https?:\/\/[^\s<>]{1,2000})|br\s?\/?)>/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', "#39": "'", apos: "'", nbsp: "\u00a0" };
const ENTITY = /&(#39|[a-z]{2,4});/y;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const MAX_OPEN = 50; // emphasis and brackets, one in the other
const MAX_MATH = 2000; // characters

/** The nodes and texts of a block's text. */
export function inline(text) {
  const scan = { text, at: 0, frames: [{ mark: "", nodes: [] }], missing: new Set() };
  while (scan.at < text.length) {
    const read = READERS[text[scan.at]];
    if (!read?.(scan)) plain(scan);
  }
  collapse(scan, 0);
  return scan.frames[0].nodes;
}

/** Append nodes and texts one by one: there may be more of them than a call takes arguments. */
export function appendAll(parent, nodes) {
  for (const node of nodes) parent.append(node);
  return parent;
}

const READERS = {
  "\\": escaped,
  "`": code,
  "*": emphasis,
  _: emphasis,
  "~": strike,
  "[": openBracket,
  "]": closeBracket,
  "!": image,
  "<": angle,
  $: dollars,
  "&": entity,
  h: bareUrl,
  "\n": lineBreak,
};

function plain(scan) {
  const match = here(scan, PLAIN) ?? [scan.text[scan.at]];
  put(scan, match[0]);
  scan.at += match[0].length;
}

function escaped(scan) {
  const next = scan.text[scan.at + 1];
  if (next === "(" || next === "[") return math(scan, 2, next === "(" ? "\\)" : "\\]");
  if (!next || !/[!-/:-@[-`{-~\n]/.test(next)) return false;
  put(scan, next === "\n" ? el("br") : next);
  scan.at += 2;
  return true;
}

function code(scan) {
  const { text, at, missing } = scan;
  const length = runLength(text, at);
  const end = missing.has(length) ? -1 : findRun(text, at + length, length);
  if (end < 0) {
    missing.add(length);
    put(scan, "`".repeat(length));
    scan.at += length;
    return true;
  }
  const inside = text.slice(at + length, end).replaceAll("\n", " ");
  const padded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim();
  put(scan, el("code", { dir: "ltr" }, padded ? inside.slice(1, -1) : inside));
  scan.at = end + length;
  return true;
}

/** Where the next run of exactly `length` backticks begins, or -1. */
function findRun(text, from, length) {
  for (let at = text.indexOf("`", from); at >= 0; ) {
    const found = runLength(text, at);
    if (found === length) return at;
    at = text.indexOf("`", at + found);
  }
  return -1;
}

function runLength(text, at) {
  let end = at;
  while (text[end] === text[at]) end++;
  return end - at;
}

function emphasis(scan) {
  const { text, at } = scan;
  const mark = text[at];
  let count = runLength(text, at);
  const { canOpen, canClose } = flanks(mark, text[at - 1], text[at + count]);
  scan.at += count;
  if (canClose) count = closeEmphasis(scan, mark, count);
  if (count && canOpen && scan.frames.length < MAX_OPEN) scan.frames.push({ mark, count, nodes: [] });
  else put(scan, mark.repeat(count));
  return true;
}

/** Whether a run of `mark` may open or close, by the characters around it (CommonMark 6.2, without its rule of three). */
function flanks(mark, before = " ", after = " ") {
  const spaceBefore = /\s/.test(before);
  const spaceAfter = /\s/.test(after);
  const punctuationBefore = PUNCTUATION.test(before);
  const punctuationAfter = PUNCTUATION.test(after);
  const left = !spaceAfter && (!punctuationAfter || spaceBefore || punctuationBefore);
  const right = !spaceBefore && (!punctuationBefore || spaceAfter || punctuationAfter);
  if (mark === "*") return { canOpen: left, canClose: right };
  return { canOpen: left && (!right || punctuationBefore), canClose: right && (!left || punctuationAfter) };
}

/** Close what is open with `mark`, the innermost first; returns how many of `count` are left. */
function closeEmphasis(scan, mark, count) {
  while (count > 0) {
    const index = lastFrame(scan, mark);
    if (index < 0) break;
    collapse(scan, index);
    const frame = scan.frames[index];
    const used = Math.min(2, count, frame.count);
    const node = appendAll(el(used === 2 ? "strong" : "em"), frame.nodes);
    count -= used;
    frame.count -= used;
    frame.nodes = [node];
    if (frame.count) continue;
    scan.frames.pop();
    put(scan, node);
  }
  return count;
}

function strike(scan) {
  if (runLength(scan.text, scan.at) !== 2) return false;
  const index = lastFrame(scan, "~");
  scan.at += 2;
  if (index < 0 && scan.frames.length < MAX_OPEN) {
    scan.frames.push({ mark: "~", count: 2, nodes: [] });
  } else if (index >= 0) {
    collapse(scan, index);
    put(scan, appendAll(el("del"), scan.frames.pop().nodes));
  } else {
    put(scan, "~~");
  }
  return true;
}

function openBracket(scan) {
  if (scan.frames.length >= MAX_OPEN) return false;
  scan.frames.push({ mark: "[", count: 1, nodes: [] });
  scan.at += 1;
  return true;
}

function closeBracket(scan) {
  const index = lastFrame(scan, "[");
  if (index < 0) return false;
  collapse(scan, index);
  scan.at += 1;
  const match = here(scan, DESTINATION);
  const url = match && safeUrl(match[1]);
  const { nodes, holdsLink } = scan.frames.pop();
  if (!url || holdsLink) {
    putAll(scan, ["[", ...nodes, "]"]);
    return true;
  }
  for (const frame of scan.frames) frame.holdsLink = true;
  put(scan, link(url, nodes));
  scan.at += match[0].length;
  return true;
}

/** Pictures are not fetched, from anywhere: what would be one is a link to it. */
function image(scan) {
  const match = /!\[([^\]\n]{0,500})\]/y;
  match.lastIndex = scan.at;
  const head = match.exec(scan.text);
  if (!head) return false;
  DESTINATION.lastIndex = scan.at + head[0].length;
  const destination = DESTINATION.exec(scan.text);
  if (!destination) return false;
  const url = safeUrl(destination[1]);
  const label = `Image: ${head[1] || "untitled"}`;
  put(scan, url ? link(url, [label]) : label);
  scan.at = DESTINATION.lastIndex;
  return true;
}

function angle(scan) {
  const match = here(scan, ANGLE);
  if (!match) return false;
  const url = match[1] && safeUrl(match[1]);
  put(scan, url ? link(url, [match[1]]) : match[1] ? match[0] : el("br"));
  scan.at += match[0].length;
  return true;
}

function dollars(scan) {
  const { text, at } = scan;
  if (text[at + 1] === "$") return math(scan, 2, "$$");
  const end = text.indexOf("$", at + 1);
  const inside = text.slice(at + 1, end);
  if (end < 0 || !inside || /^\s|\s$|\n\n/.test(inside) || /\d/.test(text[end + 1] ?? "")) return false;
  return math(scan, 1, "$");
}

/** Mathematics stays the text that it is; what looks like emphasis in it is none. */
function math(scan, skip, closing) {
  const window = scan.text.slice(scan.at, scan.at + MAX_MATH);
  const end = window.indexOf(closing, skip);
  if (end < 0) return false;
  put(scan, el("span", { class: "math", dir: "ltr" }, window.slice(0, end + closing.length)));
  scan.at += end + closing.length;
  return true;
}

function entity(scan) {
  const match = here(scan, ENTITY);
  if (!match || !Object.hasOwn(ENTITIES, match[1])) return false;
  put(scan, ENTITIES[match[1]]);
  scan.at += match[0].length;
  return true;
}

function bareUrl(scan) {
  if (!scan.text.startsWith("http", scan.at)) return false;
  if (/[\p{L}\p{N}_]/u.test(scan.text[scan.at - 1] ?? " ") || lastFrame(scan, "[") >= 0) return false;
  const match = here(scan, URL_HERE);
  if (!match) return false;
  let shown = match[0].replace(/[.,;:!?*_~'\]]{1,20}$/, "");
  if (shown.endsWith(")") && !shown.includes("(")) shown = shown.slice(0, -1);
  const url = safeUrl(shown);
  if (!url) return false;
  put(scan, link(url, [shown]));
  scan.at += shown.length;
  return true;
}

function lineBreak(scan) {
  put(scan, el("br"));
  scan.at += 1;
  return true;
}

function link(url, nodes) {
  return appendAll(el("a", { href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow" }), nodes);
}

/** An absolute address over http or https as the browser writes it; null for anything else. */
function safeUrl(text) {
  const url = URL.parse ? URL.parse(text) : URL.canParse(text) ? new URL(text) : null;
  return url && ["http:", "https:"].includes(url.protocol) ? url.href : null;
}

function here(scan, pattern) {
  pattern.lastIndex = scan.at;
  return pattern.exec(scan.text);
}

function lastFrame(scan, mark) {
  let index = scan.frames.length - 1;
  while (index > 0 && scan.frames[index].mark !== mark) index--;
  return index || -1;
}

/** What is open above a frame was never closed: its marks are text. */
function collapse(scan, index) {
  while (scan.frames.length > index + 1) {
    const { mark, count, nodes } = scan.frames.pop();
    putAll(scan, [mark.repeat(count), ...nodes]);
  }
}

function putAll(scan, nodes) {
  for (const node of nodes) put(scan, node);
}

/** Texts side by side become one. */
function put(scan, node) {
  const { nodes } = scan.frames.at(-1);
  if (typeof node === "string" && typeof nodes.at(-1) === "string") nodes[nodes.length - 1] += node;
  else nodes.push(node);
}
