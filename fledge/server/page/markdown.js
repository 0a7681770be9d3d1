// Markdown as elements: the part of CommonMark and GitHub's tables that models write. Markup in a text is shown, never read.

import { copy, h } from "./dom.js";

const DEPTH = 8; // of lists, quotes and emphasis in each other; what lies deeper is plain text
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*))?$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( +|\t)(?=\S)|[ \t]*$)/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const INDENTED = /^(?: {4}|\t)/;

/** Shows `text` in `place`; blocks that stand there already are left as they are, so that a growing answer is cheap. */
export function show(place, text) {
  const found = levelled(blocks(text.replace(/\r\n?/g, "\n").split("\n")));
  found.forEach((block, i) => {
    const signature = `${block.kind} ${block.level ?? ""} ${block.lines.join("\n")}`;
    const old = place.children[i];
    if (old?.signature === signature) return;
    const made = element(block, 0);
    made.signature = signature;
    if (old) old.replaceWith(made);
    else place.append(made);
  });
  while (place.children.length > found.length) place.lastChild.remove();
}

/** A block of code with a button that copies it. */
export function code(text, language = "") {
  return h("figure.code", {},
    h("figcaption", {}, h("span", {}, language || "text"), h("button.quiet", { type: "button", onclick: () => copy(text) }, "Copy")),
    h("pre", { tabindex: 0, "aria-label": `Code: ${language || "text"}`, role: "group" }, h("code", {}, ...lit(text, language))));
}

/** Headings begin below those of the page, and none is more than one below the last. */
function levelled(found) {
  let last = 2;
  for (const block of found) if (block.kind === "heading") last = block.level = Math.min(block.marks + 2, last + 1, 6);
  return found;
}

function blocks(lines) {
  const found = [];
  for (let i = 0; i < lines.length;) {
    const line = lines[i], start = i;
    let match;
    if (!line.trim()) { i += 1; continue; }
    if ((match = FENCE.exec(line))) {
      const [, fence, language] = match;
      const closes = (text) => text.trim().length >= fence.length && [...text.trim()].every((mark) => mark === fence[0]);
      for (i += 1; i < lines.length && !closes(lines[i]);) i += 1;
      found.push({ kind: "code", language, inside: lines.slice(start + 1, i), lines: lines.slice(start, i + 1) });
      i += 1;
    } else if ((match = HEADING.exec(line))) {
      found.push({ kind: "heading", marks: match[1].length, inside: (match[2] ?? "").replace(/(^|\s)#+\s*$/, ""), lines: [line] });
      i += 1;
    } else if (RULE.test(line)) {
      found.push({ kind: "rule", lines: [line] });
      i += 1;
    } else if (QUOTE.test(line)) {
      while (i < lines.length && QUOTE.test(lines[i])) i += 1;
      found.push({ kind: "quote", inside: lines.slice(start, i).map((one) => one.replace(QUOTE, "")), lines: lines.slice(start, i) });
    } else if ((match = ITEM.exec(line))) {
      const ordered = /\d/.test(match[2]), items = [];
      while (i < lines.length && (match = ITEM.exec(lines[i])) && /\d/.test(match[2]) === ordered && !RULE.test(lines[i])) {
        const indent = match[0].length, item = [lines[i].slice(indent)];
        for (i += 1; i < lines.length; i += 1) {
          const inside = /^\s*/.exec(lines[i])[0].length >= Math.min(indent, 2);
          if (lines[i].trim() ? !inside : !(i + 1 < lines.length && /^ {2,}\S|^\t/.test(lines[i + 1]))) break;
          item.push(lines[i].replace(new RegExp(`^(?: {1,${indent}}|\t)`), ""));
        }
        items.push(item);
        if (i + 1 < lines.length && !lines[i].trim() && ITEM.test(lines[i + 1])) i += 1; // a loose list
      }
      found.push({ kind: "list", ordered, from: ordered ? Number.parseInt(line.trim(), 10) : 1, items, lines: lines.slice(start, i) });
    } else if (line.includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") && DIVIDER.test(lines[i + 1])) {
      for (i += 2; i < lines.length && lines[i].trim() && lines[i].includes("|");) i += 1;
      found.push({ kind: "table", rows: lines.slice(start, i).map(cells), lines: lines.slice(start, i) });
    } else if (INDENTED.test(line)) {
      while (i < lines.length && (INDENTED.test(lines[i]) || !lines[i].trim())) i += 1;
      const inside = lines.slice(start, i).join("\n").trimEnd().split("\n").map((one) => one.replace(INDENTED, ""));
      found.push({ kind: "code", language: "", inside, lines: lines.slice(start, i) });
    } else {
      for (i += 1; i < lines.length && lines[i].trim() && !begins(lines[i]);) i += 1;
      found.push({ kind: "text", lines: lines.slice(start, i) });
    }
  }
  return found;
}

const begins = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

function cells(line) {
  const inside = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function element(block, depth) {
  switch (block.kind) {
    case "code": return code(block.inside.join("\n"), block.language);
    case "heading": return h(`h${block.level ?? 6}`, { dir: "auto" }, ...inline(block.inside));
    case "rule": return h("hr");
    case "quote": return h("blockquote", {}, ...inside(block.inside, depth));
    case "list": return h(block.ordered ? "ol" : "ul", { start: block.ordered && block.from !== 1 ? block.from : null },
      ...block.items.map((item) => h("li", { dir: "auto" }, ...tight(inside(ticked(item), depth)))));
    case "table": return table(block.rows);
    default: return h("p", { dir: "auto" }, ...inline(block.lines.map((line) => line.trimStart()).join("\n")));
  }
}

function inside(lines, depth) {
  if (depth >= DEPTH) return [h("p", {}, lines.join("\n"))];
  return blocks(lines).map((block) => element(block, depth + 1));
}

const ticked = ([first, ...rest]) => [first.replace(/^\[([ xX])\] /, (_, mark) => (mark === " " ? "☐ " : "☑ ")), ...rest];

/** An item of one paragraph needs none. */
const tight = (found) => (found[0]?.localName === "p" ? [...found[0].childNodes, ...found.slice(1)] : found);

function table([head, divider, ...rows]) {
  const side = divider.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : null));
  const cell = (tag, text, i) => h(tag, { class: side[i], scope: tag === "th" ? "col" : null, dir: "auto" }, ...inline(text ?? ""));
  return h("div.wide", { tabindex: 0, role: "group", "aria-label": "Table" }, h("table", {},
    h("thead", {}, h("tr", {}, ...head.map((text, i) => cell("th", text, i)))),
    h("tbody", {}, ...rows.map((row) => h("tr", {}, ...head.map((_, i) => cell("td", row[i], i)))))));
}

const SPECIAL = /\\[!-/:-@[-`{-~]|`+|!?\[|<(?:https?:\/\/|mailto:)[^\s<>]+>|https?:\/\/[^\s<>]+|\*{1,3}|_{1,3}|~~|\\?\n/g;

/** The nodes of a line of text: emphasis, code, links. A mark that nothing closes is itself. */
function inline(text, depth = 0) {
  if (depth >= DEPTH) return [text];
  const nodes = [], missing = new Set(); // closing marks that are not there: looked for once, so that no text takes long
  const word = (at) => at >= 0 && at < text.length && /[\p{L}\p{N}]/u.test(text[at]);
  const scan = new RegExp(SPECIAL);
  let done = 0;
  for (let match; (match = scan.exec(text));) {
    const [mark] = match, at = match.index, after = at + mark.length;
    let made = null, until = after;
    if (mark.endsWith("\n")) made = h("br");
    else if (mark[0] === "\\") made = mark[1];
    else if (mark[0] === "<") made = link(mark.slice(1, -1), mark.slice(1, -1));
    else if (mark[0] === "h") {
      const bare = mark.replace(/[.,:;!?'"*_~)\]]+$/, (tail) => (tail[0] === ")" && mark.includes("(") ? ")" : ""));
      made = link(bare, bare);
      until = at + bare.length;
    } else if (mark.endsWith("[")) {
      const found = linked(text, after);
      if (found) {
        const name = text.slice(after, found.middle), picture = mark[0] === "!"; // a picture would be fetched: it is a link
        made = link(found.address, ...(picture ? [`picture: ${name || found.address}`] : inline(name, depth + 1)));
        until = found.end;
      }
    } else {
      const end = mark[0] === "`" ? fence(text, mark, after, missing) : closing(text, mark, after, missing, word);
      if (end > 0) {
        const inner = text.slice(after, end);
        const code = () => h("code", {}, inner.replace(/^ (.*\S.*) $/s, "$1").replaceAll("\n", " "));
        made = mark[0] === "`" ? code() : emphasis(mark, inline(inner, depth + 1));
        until = end + mark.length;
      }
    }
    if (made === null) continue;
    nodes.push(text.slice(done, at), made);
    done = scan.lastIndex = until;
  }
  return [...nodes, text.slice(done)];
}

/** Where code that `mark` begins ends, or -1. */
const fence = (text, mark, from, missing) =>
  search(text, mark, from, missing, (at) => text[at - 1] !== "`" && text[at + mark.length] !== "`");

/** Where emphasis that `mark` begins ends, or -1; underscores within a word are none. */
function closing(text, mark, from, missing, word) {
  if (!/\S/.test(text[from] ?? " ") || (mark[0] === "_" && word(from - mark.length - 1))) return -1;
  return search(text, mark, from, missing, (at) => {
    const after = at + mark.length;
    let run = mark.length; // of three, the inner emphasis ends with the first ones and the outer with the rest
    while (text[after - run - 1] === mark[0]) run += 1;
    const length = run === mark.length || run === 3, before = text[after - run - 1] ?? " ";
    return text[after] !== mark[0] && length && /\S/.test(before) && before !== "\\" && (mark[0] !== "_" || !word(after));
  });
}

function search(text, mark, from, missing, fits) {
  if (missing.has(mark)) return -1;
  for (let at = text.indexOf(mark, from); at >= 0; at = text.indexOf(mark, at + 1)) if (at > from && fits(at)) return at;
  missing.add(mark);
  return -1;
}

function emphasis(mark, nodes) {
  if (mark === "~~") return h("del", {}, ...nodes);
  if (mark.length === 3) return h("strong", {}, h("em", {}, ...nodes));
  return h(mark.length === 2 ? "strong" : "em", {}, ...nodes);
}

/** The rest of `[name](address)` from after its first bracket on. */
function linked(text, from) {
  let open = 1, middle = from;
  for (const end = Math.min(text.length, from + 1000); middle < end; middle += 1) {
    if (text[middle] === "\\") middle += 1;
    else if (text[middle] === "[") open += 1;
    else if (text[middle] === "]" && (open -= 1) === 0) break;
  }
  const rest = open === 0 && /^\]\(\s*<?((?:[^\s()<>]|\([^\s()<>]*\))*)>?(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/.exec(text.slice(middle, middle + 2100));
  return rest ? { middle, address: rest[1], end: middle + rest[0].length } : null;
}

/** A link that leads where it says; any other address than of the web or of mail is only text. */
function link(address, ...name) {
  let url;
  try { url = new URL(address); } catch { url = null; }
  if (!["http:", "https:", "mailto:"].includes(url?.protocol)) return h("span", {}, ...name, ` (${address})`);
  return h("a", { href: url.href, title: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...name);
}

const WORDS = new Set(("and as assert async await break case catch class const continue def default del do elif else enum except export "
  + "extends false False finally fn for from func function global if impl import in interface is lambda let match mut new nil None "
  + "nonlocal not null or package pass private public raise return self static struct super switch this throw trait true True try type "
  + "typeof undefined use var void while with yield "
  + "SELECT FROM WHERE JOIN ON GROUP ORDER BY INSERT INTO VALUES UPDATE SET DELETE CREATE TABLE AND OR NOT NULL AS").split(" "));
const SLASHES = new Set("c cc cpp cs css go h java javascript js json jsx kotlin php rs rust scala swift ts tsx typescript".split(" "));
const PROSE = new Set(["", "text", "txt", "plain", "output", "console", "markdown", "md"]);
const STRINGS = String.raw`"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?|` + "`(?:[^`\\\\]|\\\\[\\s\\S])*`?";

/** Code with its comments, strings, numbers and keywords marked, without knowing any language well. */
function lit(text, language) {
  const named = language.toLowerCase();
  if (PROSE.has(named) || text.length > 50_000) return [text];
  const comments = SLASHES.has(named) ? String.raw`\/\/.*|\/\*[\s\S]*?(?:\*\/|$)` : named === "sql" ? "--.*" : "#.*";
  const nodes = [];
  let done = 0;
  for (const match of text.matchAll(new RegExp(String.raw`(${comments})|(${STRINGS})|\b(\d[\w.]*)|([A-Za-z_]\w*)`, "g"))) {
    const kind = match[1] ? "comment" : match[2] ? "string" : match[3] ? "count" : WORDS.has(match[4]) ? "word" : null;
    if (!kind) continue;
    nodes.push(text.slice(done, match.index), h(`span.${kind}`, {}, match[0]));
    done = match.index + match[0].length;
  }
  return [...nodes, text.slice(done)];
}
