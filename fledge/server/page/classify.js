// Classify: what a classifier says of a text, how sure it is, and which words decided.

import { ask } from "./api.js";
import { bars } from "./charts.js";
import { find, growing, h, percent, sendsWith } from "./dom.js";
import { keep, read } from "./store.js";

const SHOWN = 8; // labels before the rest is folded away
const DEPTHS = 5; // of the colour behind a word

export function classify() {
  const form = find("classify-form"), field = find("text"), go = find("classify-go"), fit = growing(field);
  let model = null;
  field.value = read("text", "");
  sendsWith(field, form);
  form.onsubmit = async (event) => {
    event.preventDefault();
    const text = field.value;
    if (!text.trim() || go.disabled) return;
    keep("text", text);
    go.disabled = true;
    find("classify-problem").textContent = "";
    try {
      const { data: [found] } = await ask("v1/classify", { model: model.id, input: text, explain: find("explain").checked });
      const [label] = [found.labels ?? found.label].flat();
      find("judgement").replaceChildren(...judged(found), ...(found.words ? decided(text, found.words, label) : []));
    } catch (problem) {
      find("classify-problem").textContent = problem.message;
    }
    go.disabled = false;
  };
  return (chosen) => {
    if (model && chosen !== model) find("judgement").replaceChildren();
    model = chosen;
    fit();
  };
}

/** The label and the score of each. */
export function judged(found) {
  const labels = [found.labels ?? found.label].flat();
  const scores = Object.entries(found.scores).sort((one, other) => other[1] - one[1]);
  const rows = scores.map(([label, share]) => [label, share, percent(share)]), rest = rows.slice(SHOWN);
  const said = h("p.verdict", {}, h("b", { dir: "auto" }, labels.join(", ") || "none of its labels"),
    labels.length && h("span.soft", {}, percent(found.scores[labels[0]] ?? 0)));
  const more = rest.length ? [h("details", {}, h("summary", {}, `${rest.length} more`), bars(rest, labels))] : [];
  return [said, bars(rows.slice(0, SHOWN), labels), ...more];
}

/** The text with the words that spoke for what was said and against it. */
function decided(text, words, label) {
  const most = Math.max(1e-9, ...words.map(({ weight }) => Math.abs(weight)));
  const parts = [];
  let done = 0;
  for (const { text: word, weight } of words) {
    const at = text.indexOf(word, done);
    if (at < 0) continue;
    const depth = Math.round((Math.abs(weight) / most) * DEPTHS), side = weight > 0 ? "for" : "against";
    const title = `${side}: ${Math.abs(weight).toFixed(2)} nats`;
    parts.push(text.slice(done, at), depth ? h(`span.${side}${depth}`, { title }, word) : word);
    done = at + word.length;
  }
  const strongest = [...words].sort((one, other) => Math.abs(other.weight) - Math.abs(one.weight)).slice(0, SHOWN);
  return [
    h("h3", {}, "Words that decided"),
    h("ul.legend", {}, h("li", {}, h("span.for3", {}, `for ${label ?? "it"}`)), h("li", {}, h("span.against3", {}, "against"))),
    h("div.tokens", { dir: "auto" }, ...parts, text.slice(done)),
    h("details", {}, h("summary", {}, "In numbers"), h("table", {},
      h("caption.unseen", {}, "The strongest words"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "word"), h("th.number", { scope: "col" }, "adds to the log-odds, in nats"))),
      h("tbody", {}, ...strongest.map(({ text: word, weight }) => h("tr", {},
        h("th", { scope: "row", dir: "auto" }, word.trim()),
        h("td.number", {}, (weight > 0 ? "+" : "−") + Math.abs(weight).toFixed(3))))))),
  ];
}
