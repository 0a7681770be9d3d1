// About: what a model is, what it learned from, how good it is, how it learned.

import { details } from "./api.js";
import { lines } from "./charts.js";
import { code, show } from "./markdown.js";
import { find, h, number } from "./dom.js";

const KINDS = {
  assistant: "An assistant: it answers messages.",
  base: "A language model: it goes on from a text.",
  classifier: "A classifier: it chooses among labels.",
  encoder: "An encoder: it turns texts into vectors.",
  translator: "An encoder with a decoder: it reads a text and writes another.",
};
const CURVES = [ // what is drawn over the steps, and in which unit
  ["loss", "Loss: less is better", "nats per token"],
  ["bits_per_byte", "Bits per byte: less is better", "bits"],
  ["accuracy", "Accuracy", "share"],
  ["learning_rate", "Learning rate", ""],
  ["gradient_norm", "Norm of the gradient", ""],
  ["tokens_per_second", "Speed", "tokens/s"],
];

export function about() {
  let wanted = null;
  return async (model) => {
    wanted = model;
    find("about").replaceChildren(h("h2.title", {}, model.id));
    try {
      const more = await details(model.id);
      if (wanted === model) tell({ ...model, ...more });
    } catch (problem) {
      find("about").append(h("p.problem", { role: "alert" }, problem.message));
    }
  };
}

function tell(model) {
  const card = h("div.body.card-text");
  show(card, model.card?.replace(/^---\n[\s\S]*?\n---\n/, "") ?? "");
  const { trained_to: lesson, ...facts } = model.facts ?? {};
  find("about").replaceChildren(
    h("h2.title", {}, model.id), h("p.lead", {}, KINDS[model.kind] ?? model.kind, lesson?.task && ` It was trained to ${lesson.task}.`),
    ...groups(facts),
    ...drawn(model.curves ?? []),
    ...(card.childElementCount ? [h("h3", {}, "Model card"), card] : []),
    h("h3", {}, "From a program"), code(program(model), "python"));
}

/** Facts of one kind side by side; those that have a name together stand under it. */
function groups(facts) {
  const named = ([, value]) => value !== null && typeof value === "object" && !Array.isArray(value);
  const all = Object.entries(facts), alone = Object.fromEntries(all.filter((pair) => !named(pair)));
  return [["", alone], ...all.filter(named)].flatMap(([name, some]) => {
    const cards = plain(some).map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", { dir: "auto" }, value)));
    const title = name && h("h3.group", {}, name[0].toUpperCase() + name.slice(1).replaceAll("_", " "));
    return cards.length ? [title, h("dl", {}, ...cards)].filter(Boolean) : [];
  });
}

/** Facts as pairs of strings; those within others by both names. */
function plain(facts, before = "") {
  return Object.entries(facts).flatMap(([key, value]) => {
    const name = `${before}${key.replaceAll("_", " ")}`;
    if (value === null || value === undefined || value === "") return [];
    if (Array.isArray(value)) return value.some((one) => typeof one === "object") ? [] : [[name, value.map(told).join(", ")]];
    if (typeof value !== "object") return [[name, told(value)]];
    const { value: middle, low, high } = value;
    if (typeof middle === "number" && low !== undefined) return [[name, `${number(middle)} (${number(low)} to ${number(high)})`]];
    return plain(value, `${name}: `);
  });
}

function told(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? number(value) : String(value);
}

/** The curves of training, beside each the one of held-out text where it was measured. */
function drawn(rows) {
  const figures = CURVES.flatMap(([key, title, unit]) => {
    const points = (of) => rows.map((row) => [row.step, of(row)]).filter((pair) => pair.every(Number.isFinite));
    const training = { name: "training", points: points((row) => row[key]) };
    const heldOut = { name: "held-out", points: points((row) => row.validation?.[key]) };
    const curves = [training, heldOut].filter((curve) => curve.points.length > 1);
    return curves.length ? [lines(title, curves, "step", unit)] : [];
  });
  const [first, ...rest] = figures;
  const more = rest.length ? [h("details", {}, h("summary", {}, "More curves"), ...rest)] : [];
  return first ? [h("h3", {}, "How it learned"), first, ...more] : [];
}

/** How another program asks this model. */
function program({ id, kind }) {
  const name = JSON.stringify(id), place = location.origin;
  const open = `from openai import OpenAI\n\nclient = OpenAI(base_url="${place}/v1", api_key="none")\n`;
  switch (kind) {
    case "assistant":
      return `${open}asked = [{"role": "user", "content": "Hello"}]
answer = client.chat.completions.create(model=${name}, messages=asked)
print(answer.choices[0].message.content)`;
    case "classifier":
      return `import json, urllib.request

body = json.dumps({"model": ${name}, "input": "a text to judge"}).encode()
asked = urllib.request.Request("${place}/v1/classify", body, {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(asked))["data"][0])`;
    case "encoder":
      return `${open}found = client.embeddings.create(model=${name}, input=["one text", "another"])
print(len(found.data[0].embedding))`;
    default:
      return `${open}answer = client.completions.create(model=${name}, prompt="Once upon a time", max_tokens=50)
print(answer.choices[0].text)`;
  }
}
