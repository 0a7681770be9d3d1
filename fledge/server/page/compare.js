// Compare: the same text to two models, or to one with two settings, side by side.

import { ask, stream } from "./api.js";
import { judged } from "./classify.js";
import { find, framed, growing, h, pace, sendsWith, swap } from "./dom.js";
import { show } from "./markdown.js";
import { settings } from "./settings.js";
import { keep, read } from "./store.js";

const LENGTH = 200; // tokens, where neither the model nor a person says how many

export function compare(models) {
  const form = find("compare-form"), field = find("same"), fit = growing(field);
  const fitting = models.filter(({ kind }) => kind !== "encoder");
  const sides = ["a", "b"].map((name, i) => side(name, fitting, fitting[i] ?? fitting[0]));
  let running = null;
  field.value = read("same", "");
  find("sides").replaceChildren(...sides.map(({ place }) => place));
  find("compare-stop").onclick = () => running?.abort();
  sendsWith(field, form);
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (!field.value.trim() || running) return;
    keep("same", field.value);
    running = new AbortController();
    buttons();
    await Promise.all(sides.map((one) => one.run(field.value, running.signal)));
    running = null;
    buttons();
  };
  function buttons() {
    const [go, stop] = [find("compare-go"), find("compare-stop")];
    if (running) swap(stop, go);
    else swap(go, stop);
  }
  return () => fit();
}

/** One half: a model, its settings, and what it says. */
function side(name, models, first) {
  const kept = models.find(({ id }) => id === read(`compare.${name}`, null)) ?? first;
  const select = h("select", { "aria-label": `Model ${name.toUpperCase()}` },
    ...models.map(({ id }) => h("option", { value: id, selected: id === kept.id }, id)));
  const fields = h("div.settings"), system = h("textarea", { rows: 2 });
  fields.append(h("label.whole", {}, "Told to the assistant beforehand ", h("span", {}, "(system prompt)"), system));
  const sampling = settings(fields, `compare.${name}`, { max_tokens: LENGTH });
  const box = h("details", {}, h("summary", {}, "Settings"), fields), out = h("div.body");
  const note = h("p.note.soft"), problem = h("p.problem", { role: "alert" });
  const model = () => models.find(({ id }) => id === select.value);
  const fit = () => {
    box.hidden = model().kind === "classifier";
    system.closest("label").hidden = model().kind !== "assistant";
    sampling.of(model());
  };
  select.onchange = () => { keep(`compare.${name}`, select.value); fit(); };
  fit();

  /** Asks in the way that suits the model's kind. */
  async function run(text, signal) {
    const { id, kind } = model(), start = performance.now();
    let said = "", tokens = 0;
    const paint = framed(() => {
      if (kind === "assistant") show(out, said);
      else out.replaceChildren(h("p.written", { dir: "auto" }, kind === "base" && h("span.given", {}, text), said));
    });
    out.replaceChildren();
    note.textContent = "asking …";
    problem.textContent = "";
    try {
      if (kind === "classifier") {
        const { data: [found] } = await ask("v1/classify", { model: id, input: text }, signal);
        out.replaceChildren(...judged(found));
        note.textContent = `${(performance.now() - start).toFixed(0)} ms`;
        return;
      }
      const chat = kind === "assistant", told = system.value.trim() ? [{ role: "system", content: system.value }] : [];
      const asked = chat ? { messages: [...told, { role: "user", content: text }] } : { prompt: text };
      const body = { model: id, ...asked, ...sampling.given() };
      for await (const { choices: [choice], usage } of stream(chat ? "v1/chat/completions" : "v1/completions", body, signal)) {
        said += (chat ? choice?.delta?.content : choice?.text) ?? "";
        tokens = usage?.completion_tokens ?? tokens;
        paint();
      }
      note.textContent = pace(tokens, (performance.now() - start) / 1000);
    } catch (trouble) {
      note.textContent = trouble.name === "AbortError" ? "stopped by you" : "";
      if (trouble.name !== "AbortError") problem.textContent = trouble.message;
    }
  }

  const heard = h("div", { "aria-live": "polite" }, out);
  const place = h("section.card", { "aria-label": `Side ${name.toUpperCase()}` }, select, box, heard, note, problem);
  return { place, run };
}
