// Markdown's blocks, as models write them: headings, paragraphs, lists, quotes, code, tables, rules, mathematics.
// A block is settled by the whole lines after it: what comes later never changes a block before the last.

const HEADING = /^ {0,3}(#{1,6})[ \t]+(\S.*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const FENCE = /^( *)(`{3,}|~{3,})([^`]*)$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)(.*))?$/;
const MATH = /^ {0,3}(\$\$|\\\[)/;
const TASK = /^\[([ xX])\] /;
const MAX_DEPTH = 16; // blocks in blocks; what is deeper is text

/** The blocks of lines: each has a `type`, its `source`, the index `start` of its first line, and what its type needs. */
export function parseBlocks(lines, depth = 0) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const [block, end] = readBlock(lines, at, depth);
    blocks.push({ ...block, start: at, source: lines.slice(at, end).join("\n") });
    at = end;
  }
  return blocks;
}

/** [block, index of the line after it] */
function readBlock(lines, at, depth) {
  const line = lines[at];
  if (depth < MAX_DEPTH) {
    if (FENCE.test(line)) return readCode(lines, at);
    if (QUOTE.test(line)) return readQuote(lines, at, depth);
    if (RULE.test(line)) return [{ type: "rule" }, at + 1];
    if (ITEM.test(line)) return readList(lines, at, depth);
    if (HEADING.test(line)) return [heading(line), at + 1];
    if (MATH.test(line)) return readMath(lines, at);
    if (isTable(lines, at)) return readTable(lines, at);
  }
  return readParagraph(lines, at);
}

/** Whether a line ends the paragraph before it. */
function interrupts(lines, at) {
  const line = lines[at];
  const item = ITEM.exec(line);
  return (
    FENCE.test(line) ||
    QUOTE.test(line) ||
    RULE.test(line) ||
    HEADING.test(line) ||
    MATH.test(line) ||
    Boolean(item?.[4] && (!/\d/.test(item[2]) || /^1[.)]/.test(item[2])))
  );
}

function heading(line) {
  const [, marks, rest] = HEADING.exec(line);
  const words = rest.trimEnd();
  let end = words.length;
  while (words[end - 1] === "#") end--;
  const isClosed = end < words.length && /\s/.test(words[end - 1] ?? " ");
  return { type: "heading", level: marks.length, text: isClosed ? words.slice(0, end).trimEnd() : words };
}

function readCode(lines, at) {
  const [, indent, fence, info] = FENCE.exec(lines[at]);
  const isEnd = (line) => {
    const rest = line.trim();
    return rest.length >= fence.length && rest === fence[0].repeat(rest.length);
  };
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end])) end++;
  const inside = lines.slice(at + 1, end).map((line) => dedent(line, indent.length));
  return [{ type: "code", language: info.trim().split(/\s/)[0], text: inside.join("\n") }, Math.min(end + 1, lines.length)];
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ type: "quote", blocks: parseBlocks(inside, depth + 1) }, end];
}

function readList(lines, at, depth) {
  const first = marker(lines[at]);
  const items = [];
  let isTight = true;
  let next = at;
  while (next < lines.length) {
    const item = marker(lines[next]);
    if (!item || item.ordered !== first.ordered || item.indent > first.indent + 1) break;
    const [inside, end] = itemLines(lines, next, item);
    items.push(listItem(inside, depth));
    next = end;
    if (next < lines.length && !lines[next - 1].trim() && marker(lines[next])?.ordered === first.ordered) isTight = false;
  }
  isTight &&= items.every((item) => item.isTight);
  return [{ type: "list", ordered: first.ordered, first: first.number, isTight, items }, next];
}

function marker(line) {
  const match = ITEM.exec(line);
  if (!match || RULE.test(line)) return null;
  const [, indent, mark, gap = " ", rest = ""] = match;
  const width = indent.length + mark.length + (gap.length > 4 ? 1 : gap.length);
  const ordered = /\d/.test(mark);
  return { indent: indent.length, width, ordered, number: ordered ? Number.parseInt(mark, 10) : 0, rest };
}

/** The lines of an item without its marker and indent. Two columns of indent are enough to belong to it. */
function itemLines(lines, at, item) {
  const inside = [item.rest];
  let end = at + 1;
  for (; end < lines.length; end++) {
    const line = lines[end];
    const indent = line.length - line.trimStart().length;
    const isInside = indent >= Math.min(item.width, item.indent + 2);
    const isLazy = lines[end - 1].trim() && !marker(line) && !interrupts(lines, end);
    if (line.trim() && !isInside && !isLazy) break;
    inside.push(isInside ? dedent(line, item.width) : line.trimStart());
  }
  return [inside, end];
}

function listItem(lines, depth) {
  const task = TASK.exec(lines[0]);
  if (task) lines[0] = `${task[1] === " " ? "☐" : "☑"} ${lines[0].slice(4)}`;
  const blocks = parseBlocks(lines, depth + 1);
  return { blocks, isTight: blocks.every(({ start }) => start === 0 || lines[start - 1].trim()) };
}

function isTable(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length) return false;
  const rule = cells(lines[at + 1]);
  return rule.every((cell) => /^:?-+:?$/.test(cell)) && rule.length === cells(lines[at]).length;
}

function readTable(lines, at) {
  const aligns = cells(lines[at + 1]).map((cell) => {
    if (cell.endsWith(":")) return cell.startsWith(":") ? "center" : "end";
    return "start";
  });
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end++;
  const rows = lines.slice(at + 2, end).map((line) => ({ source: line, cells: cells(line).slice(0, aligns.length) }));
  return [{ type: "table", head: cells(lines[at]), aligns, rows }, end];
}

function cells(line) {
  const row = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function readMath(lines, at) {
  const [, opening] = MATH.exec(lines[at]);
  const closing = opening === "$$" ? "$$" : "\\]";
  let end = at;
  let rest = lines[at].replace(opening, "");
  while (!rest.trimEnd().endsWith(closing) && end + 1 < lines.length && lines[end + 1].trim()) rest = lines[++end];
  return [{ type: "math", text: lines.slice(at, end + 1).join("\n") }, end + 1];
}

function readParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines, end) && !isTable(lines, end)) end++;
  const text = lines.slice(at, end).map((line) => line.trim());
  return [{ type: "paragraph", text: text.join("\n") }, end];
}

/** A line without its first `columns` spaces, or as many as it has. */
function dedent(line, columns) {
  let at = 0;
  while (at < columns && line[at] === " ") at++;
  return line.slice(at);
}
