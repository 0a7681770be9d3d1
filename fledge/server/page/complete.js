// Complete: a text goes on token by token, each coloured by its probability; another choice at any of them begins a branch.

import { stream } from "./api.js";
import { find, framed, growing, h, pace, percent, sendsWith, svg, swap } from "./dom.js";
import { settings } from "./settings.js";
import { keep, read } from "./store.js";

const ALTERNATIVES = 6;
const LENGTH = 100; // tokens, where neither the model nor a person says how many
const ENDS = { length: "cut off at this length", stop: "the model ended here" };
const UNSAID = /^(bytes:|<\|.*\|>$|<\/?s>$)/; // parts of characters and tokens that end a text: nobody can write them
const LEVELS = [[0.9, "sure"], [0.5, ""], [0.2, ""], [0.05, ""], [0.01, ""], [0, "surprising"]]; // from this probability on, and its name

export function complete() {
  const form = find("complete-form"), field = find("prompt"), place = find("tokens"), aside = find("alternatives"), echo = find("echo");
  const sampling = settings(form.querySelector(".settings"), "complete", { max_tokens: LENGTH });
  const fit = growing(field);
  let model = null, running = null, branches = [], shown = null, at = 0;

  field.value = read("prompt", "");
  find("scale").replaceChildren(...LEVELS.map(([from, name], i) => h("li", {},
    h(`span.p${i}`, {}, from ? `≥ ${from * 100} %` : "less"), name && h("small", {}, name))));
  form.onsubmit = (event) => {
    event.preventDefault();
    keep("prompt", field.value);
    if (running) return;
    branches = [];
    const scores = echo.checked && continues(); // the text comes back as tokens, with their probabilities
    write({ given: scores || !continues() ? "" : field.value, asked: field.value, tokens: [], fixed: 0, echo: scores });
  };
  find("complete-stop").onclick = () => running?.abort();
  sendsWith(field, form);

  const continues = () => model.kind !== "translator"; // which writes another text than it reads

  /** Let the model go on from a branch's tokens. */
  async function write(branch) {
    const start = performance.now(), control = new AbortController();
    const paint = framed(() => shown === branch && draw());
    const begun = branch.tokens.length;
    running = control;
    branches.push(branch);
    look(branch);
    buttons();
    find("complete-problem").textContent = "";
    let reason = null;
    try {
      const body = { model: model.id, prompt: branch.asked, logprobs: ALTERNATIVES, ...(branch.echo && { echo: true }), ...sampling.given() };
      for await (const { choices: [choice] } of stream("v1/completions", body, control.signal)) {
        for (const token of scored(choice?.logprobs)) branch.tokens.push(spelled(token, branch.tokens.at(-1)));
        reason = choice?.finish_reason ?? reason;
        paint();
      }
      const told = !branch.echo && pace(branch.tokens.length - begun, (performance.now() - start) / 1000);
      branch.note = [told, ENDS[reason]].filter(Boolean).join(" · ");
    } catch (problem) {
      if (problem.name === "AbortError") branch.note = "stopped by you";
      else find("complete-problem").textContent = problem.message;
    }
    running = null;
    buttons();
    if (shown === branch) look(branch);
  }

  function look(branch) {
    shown = branch;
    at = Math.max(0, branch.fixed - 1);
    find("written").hidden = false;
    const more = continues() ? ", and to go on from it" : "";
    aside.replaceChildren(branch.tokens.length ? h("p.soft", {}, `Choose a token to see what else could have stood there${more}.`) : "");
    find("branches").replaceChildren(...branches.map((one, i) => h("button.quiet", {
      type: "button", "aria-pressed": String(one === branch), onclick: () => look(one),
    }, one.name ?? `Text ${i + 1}`)));
    find("branches").hidden = branches.length < 2;
    draw();
  }

  function draw() {
    const { given, tokens, fixed, note } = shown;
    place.replaceChildren(h("span.given", { dir: "auto" }, given), ...tokens.map((token, i) => {
      const told = token.share === null ? "given" : percent(token.share);
      const level = token.share === null ? "given" : `p${LEVELS.findIndex(([from]) => token.share >= from)}`;
      const rather = token.others.length && token.others[0][0] !== token.name;
      return h(`span.token.${level}${rather ? ".rather" : ""}${i === fixed - 1 ? ".chosen" : ""}`, {
        role: "button", tabindex: i === at ? 0 : -1, title: told, "aria-label": `${seen(token.name)}, ${told}`,
      }, ...(token.text ? visible(token.text) : [h("i", {}, token.name.replace("bytes:", ""))]));
    }));
    find("complete-note").textContent = note ?? (running ? "writing …" : "");
  }

  place.addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    if (token) choose(token);
  });
  place.addEventListener("keydown", (event) => {
    const spans = [...place.querySelectorAll(".token")], i = spans.indexOf(event.target);
    if (i < 0) return;
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to !== undefined && spans[to]) {
      event.preventDefault();
      focus(to);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(spans[i]);
      aside.querySelector("button")?.focus();
    }
  });
  aside.addEventListener("keydown", (event) => { if (event.key === "Escape") focus(at); });

  function focus(to) {
    at = to;
    const spans = [...place.querySelectorAll(".token")];
    spans.forEach((span, i) => { span.tabIndex = i === at ? 0 : -1; });
    spans[at]?.focus();
  }

  /** What else could have stood where this token stands. */
  function choose(span) {
    const branch = shown, i = [...place.querySelectorAll(".token")].indexOf(span), token = branch.tokens[i];
    at = i;
    for (const one of place.querySelectorAll(".token")) {
      one.tabIndex = one === span ? 0 : -1;
      one.classList.toggle("open", one === span);
    }
    if (token.share === null) return aside.replaceChildren(h("p.soft", {}, "The first token is given: the model held nothing of it."));
    const among = token.others.some(([name]) => name === token.name);
    const others = among ? token.others : [...token.others, [token.name, token.share]];
    const rest = 1 - others.reduce((sum, [, share]) => sum + share, 0);
    const last = before(branch, i).slice(-24);
    const fixed = (name) => !continues() || Boolean(running) || UNSAID.test(name) || branch.tokens[i - 1]?.open.length > 0;
    return aside.replaceChildren(
      h("h3", {}, "After ", h("q", { dir: "auto" }, (last.length === 24 ? "…" : "") + seen(last)), " it could have been"),
      h("ol.others", {}, ...others.map(([name, share]) => h("li", {}, h("button", {
        type: "button", disabled: fixed(name), "aria-current": name === token.name ? "true" : null,
        "aria-label": `${seen(name)}, ${percent(share)}${name === token.name ? ", which stands there" : ""}`,
        onclick: () => fork(branch, i, name, share),
      }, h("span.tokens", {}, ...visible(name)), meter(share), h("span.share", {}, percent(share)))))),
      rest > 0.0005 && h("p.soft", {}, `anything else: ${percent(rest)}`));
  }

  function fork(branch, i, text, share) {
    const tokens = [...branch.tokens.slice(0, i), { ...branch.tokens[i], name: text, text, share, open: [] }];
    write({ given: branch.given, asked: before(branch, i) + text, tokens, fixed: i + 1, echo: false, name: `from ${seen(text)}` });
  }

  function buttons() {
    const [go, stop] = [find("complete-go"), find("complete-stop")];
    if (running) swap(stop, go);
    else swap(go, stop);
  }

  return (chosen) => {
    if (model && model.kind !== chosen.kind) {
      branches = [];
      find("written").hidden = find("branches").hidden = true;
    }
    model = chosen;
    sampling.of(chosen);
    find("prompt-label").textContent = continues() ? "Text to continue" : "Text to translate or to sum up";
    find("complete-go").textContent = continues() ? "Continue" : "Write";
    echo.closest("label").hidden = !continues();
    fit();
  };
}

/** Tokens of OpenAI's form of log-probabilities: what stands there, its probability, and the best that could have. */
function scored(logprobs) {
  return (logprobs?.tokens ?? []).map((name, i) => ({
    name,
    share: logprobs.token_logprobs[i] === null ? null : Math.exp(logprobs.token_logprobs[i]),
    others: Object.entries(logprobs.top_logprobs?.[i] ?? {}).map(([other, value]) => [other, Math.exp(value)])
      .sort((one, two) => two[1] - one[1]),
  }));
}

/** The token with its `text`: of a character in several tokens the last one has it, and `open` holds the bytes up to there. */
function spelled(token, before) {
  if (!token.name.startsWith("bytes:")) return { ...token, text: token.name, open: [] };
  const open = [...(before?.open ?? []), ...[...token.name.matchAll(/\\x([0-9a-f]{2})/g)].map(([, byte]) => Number.parseInt(byte, 16))];
  try {
    return { ...token, text: new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(open)), open: [] };
  } catch {
    return { ...token, text: "", open };
  }
}

/** The text before a token of a branch. */
const before = ({ given, tokens }, i) => given + tokens.slice(0, i).map(({ text }) => text).join("");

/** A token as text in which spaces and the ends of lines can be seen. */
const seen = (text) => text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "→");

/** The same as elements: the marks stand beside what they mark. */
function visible(text) {
  return text.split(/(\n|\t)/).flatMap((part) => (/^[\n\t]$/.test(part) ? [h("i", {}, seen(part)), part] : [part]));
}

const meter = (share) => svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
  svg("rect", { width: Math.max(0.6, share * 100), height: 10 }));
