// The sampling settings of one tool: what is left empty is left to the model.

import { h } from "./dom.js";
import { keep, read } from "./store.js";

const FIELDS = [ // name, label, what it does, lowest, highest, step
  ["max_tokens", "Length", "tokens at most", 1, 100000, 1],
  ["temperature", "Temperature", "0: always the best", 0, 2, 0.05],
  ["top_p", "Top p", "best up to this share", 0, 1, 0.01],
  ["top_k", "Top k", "the best so many", 1, 100000, 1],
  ["min_p", "Min p", "share of the best", 0, 1, 0.01],
  ["repetition_penalty", "Repetition", "above 1: fewer repeats", 0.1, 10, 0.05],
  ["presence_penalty", "Presence", "for what was said", -2, 2, 0.1],
  ["frequency_penalty", "Frequency", "for each time it was", -2, 2, 0.1],
  ["seed", "Seed", "same seed, same text", 0, 2 ** 31 - 1, 1],
];

/**
 * Fields in `place`, kept under `name`; `.given()` is what a request carries, `.of(model)` shows the model's own as placeholders.
 * `otherwise` stands for what neither a person nor the model says.
 */
export function settings(place, name, otherwise = {}) {
  let own = otherwise;
  const kept = read(`settings.${name}`, {});
  const inputs = FIELDS.map(([key, label, meaning, min, max, step]) => {
    const input = h("input", { type: "number", name: key, inputmode: "decimal", min, max, step, value: kept[key] ?? null });
    place.append(h("label", {}, label, h("small", {}, meaning), input));
    return input;
  });
  const stop = h("input", { type: "text", name: "stop", value: kept.stop ?? null, spellcheck: "false", autocomplete: "off" });
  place.append(h("label", {}, "Stop", h("small", {}, "end before this text"), stop));
  const clear = () => { for (const input of [...inputs, stop]) input.value = ""; save(); };
  place.append(h("button.quiet", { type: "button", onclick: clear }, "As the model has them"));

  const values = () => Object.fromEntries([...inputs, stop].filter((input) => input.value !== "" && input.validity.valid)
    .map((input) => [input.name, input === stop ? input.value : Number(input.value)]));
  const save = () => keep(`settings.${name}`, values());
  place.addEventListener("change", save);

  return {
    given() {
      const { stop: text, ...numbers } = { ...own, ...values() };
      return text ? { ...numbers, stop: text.replaceAll("\\n", "\n") } : numbers;
    },
    of(model) {
      own = Object.fromEntries(Object.entries(otherwise).filter(([key]) => !(key in (model.settings ?? {}))));
      for (const input of inputs) input.placeholder = model.settings?.[input.name] ?? own[input.name] ?? "";
    },
  };
}
