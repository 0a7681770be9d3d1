// Every element of the page is made here: strings become text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const find = (id) => document.getElementById(id);

/** An element `tag.class.class`; properties that begin with `on` are listeners, null or false leaves an attribute out. */
export function h(tag, attributes = {}, ...children) {
  return filled((name) => document.createElement(name), tag, attributes, children);
}

/** The same for a part of a picture. */
export function svg(tag, attributes = {}, ...children) {
  return filled((name) => document.createElementNS(SVG, name), tag, attributes, children);
}

function filled(create, tag, attributes, children) {
  const [name, ...classes] = tag.split(".");
  const element = create(name);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  return element;
}

/** `change` at the next frame, however often it is asked for until then. */
export function framed(change) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; change(); });
  };
}

/** A textarea that is as tall as its text, up to what its style allows. */
export function growing(area) {
  const fit = () => { area.style.height = "auto"; area.style.height = `${area.scrollHeight + 2}px`; };
  area.addEventListener("input", fit);
  return fit;
}

/** Enter sends the form, Shift+Enter begins a line; not while a word is being composed. */
export function sends(area, form) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
}

/** Ctrl+Enter sends the form of a text in which Enter begins a line. */
export function sendsWith(area, form) {
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

/** Shows one of two buttons in the place of the other; the focus goes along. */
export function swap(shown, other) {
  const focused = document.activeElement === other;
  shown.hidden = false;
  other.hidden = true;
  if (focused) shown.focus();
}

let hiding;

/** A short word at the foot of the page, with one thing that may be done about it. */
export function toast(text, action = null, act = null) {
  const place = find("toast");
  const close = () => place.replaceChildren();
  place.replaceChildren(h("span", {}, text, action && h("button", { type: "button", onclick: () => { close(); act(); } }, action)));
  clearTimeout(hiding);
  hiding = setTimeout(close, action ? 8000 : 2500);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no secure context: a page over plain HTTP in the local network
    const area = h("textarea.unseen", { "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied.");
}

export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** A share of one, as precise as a person reads it. */
export function percent(share) {
  if (share < 0.001) return "< 0.1 %";
  return `${share >= 0.1 ? (share * 100).toFixed(0) : (share * 100).toPrecision(2)} %`;
}

/** A number as the reports show it: thousands apart, fewer decimals the larger it is. */
export function number(value) {
  if (!Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size && size < 1e-3) return value.toExponential(2);
  return value.toLocaleString("en", { maximumFractionDigits: size < 10 ? 3 : size < 100 ? 2 : 1 });
}

/** What a model took for an answer. */
export function pace(tokens, seconds) {
  if (!tokens) return "";
  const rate = Math.round(tokens / Math.max(seconds, 1e-3));
  return `${number(tokens)} token${tokens === 1 ? "" : "s"} · ${seconds.toFixed(1)} s · ${number(rate)} tokens/s`;
}
