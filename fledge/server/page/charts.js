// Curves as pictures, drawn as the reports draw theirs.

import { h, number, svg } from "./dom.js";

const WIDTH = 760, CHARACTER = 7.6, TOP = 26, BOTTOM = 260, HEIGHT = 304;
const SPOTS = 11; // spots with tooltips stand at least so far apart

/** About `count` round numbers from below `low` to above `high`. */
export function ticks(low, high, count = 5) {
  if (high <= low) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const far = (step) => Math.abs(Math.log(step / rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).reduce((best, one) => (far(one) < far(best) ? one : best));
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toFixed(Math.min(places, 20))));
}

function short(value) {
  for (const [size, by, suffix] of [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${Number((value / by).toPrecision(6))}${suffix}`;
  }
  return Math.abs(value) >= 1e-4 || value === 0 ? value.toLocaleString("en", { maximumSignificantDigits: 6 }) : value.toExponential(0);
}

/** A figure of curves `{name, points: [[x, y]]}` over common axes. */
export function lines(title, curves, x, y) {
  const all = curves.flatMap((curve) => curve.points);
  const xs = all.map(([px]) => px), [low, high] = [Math.min(...xs), Math.max(...xs)];
  const marks = ticks(Math.min(...all.map(([, py]) => py)), Math.max(...all.map(([, py]) => py)));
  const left = 24 + CHARACTER * Math.max(...marks.map((mark) => short(mark).length)), right = WIDTH - 28;
  const across = (px) => left + ((px - low) / (high - low || 1)) * (right - left);
  const up = (py) => BOTTOM - ((py - marks[0]) / (marks.at(-1) - marks[0])) * (BOTTOM - TOP);
  const parts = [svg("text", { x: 0, y: 12 }, y), svg("text", { x: right, y: HEIGHT - 4, "text-anchor": "end" }, x)];
  for (const mark of marks) {
    parts.push(svg("line.grid", { x1: left, x2: right, y1: up(mark), y2: up(mark) }));
    parts.push(svg("text", { x: left - 8, y: up(mark) + 4.5, "text-anchor": "end" }, short(mark)));
  }
  parts.push(svg("line.axis", { x1: left, x2: right, y1: BOTTOM, y2: BOTTOM }));
  for (const mark of ticks(low, high, 7).filter((one) => one >= low && one <= high)) {
    parts.push(svg("line.axis", { x1: across(mark), x2: across(mark), y1: BOTTOM, y2: BOTTOM + 5 }));
    parts.push(svg("text", { x: across(mark), y: BOTTOM + 20, "text-anchor": "middle" }, short(mark)));
  }
  curves.forEach(({ name, points }, i) => {
    const path = points.map(([px, py], j) => `${j ? "L" : "M"}${across(px).toFixed(1)} ${up(py).toFixed(1)}`).join("");
    parts.push(svg(`path.line.s${i}`, { d: path }));
    let last = -Infinity;
    for (const [px, py] of points) {
      if (across(px) - last < SPOTS) continue;
      last = across(px);
      parts.push(svg("circle.spot", { cx: across(px), cy: up(py), r: 7 }, svg("title", {}, `${name}: ${number(py)} at ${x} ${short(px)}`)));
    }
  });
  const told = curves.map(({ name, points }) => `${name} from ${number(points[0][1])} to ${number(points.at(-1)[1])}`).join("; ");
  const legend = curves.length > 1 && h("ul.legend", {}, ...curves.map(({ name }, i) => h("li", {},
    svg("svg", { viewBox: "0 0 28 10", "aria-hidden": "true" }, svg(`line.line.s${i}`, { x1: 1, x2: 27, y1: 5, y2: 5 })), name)));
  return h("figure", {}, h("figcaption", {}, title), legend,
    h("div.wide", { tabindex: 0, role: "group", "aria-label": title },
      svg("svg.chart", { role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}` }, svg("title", {}, title), svg("desc", {}, told), ...parts)));
}

/** Named shares of one, each as a bar; `chosen` names those that stand out. */
export function bars(rows, chosen = []) {
  return h("ul.bars", {}, ...rows.map(([name, share, told]) => h(chosen.includes(name) ? "li.chosen" : "li", {},
    h("span.name", { dir: "auto" }, name),
    svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { width: Math.max(0.4, Math.min(1, share) * 100), height: 10 })),
    h("span.share", {}, told))));
}
