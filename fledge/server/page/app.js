// The page: which tools are of use for the models that are served, the theme, and what stands in the address.

import { about } from "./about.js";
import { served } from "./api.js";
import { chat } from "./chat.js";
import { classify } from "./classify.js";
import { compare } from "./compare.js";
import { complete } from "./complete.js";
import { find, h } from "./dom.js";
import { keep, read } from "./store.js";

const TOOLS = { // what each is made by, and the kinds of models that it is of use for
  chat: [chat, ["assistant"]],
  complete: [complete, ["assistant", "base", "translator"]],
  classify: [classify, ["classifier"]],
  compare: [compare, ["assistant", "base", "translator", "classifier"]],
  about: [about, ["assistant", "base", "translator", "classifier", "encoder"]],
};

themed();
try {
  start(await ready());
} catch (problem) {
  find("waiting").textContent = problem.message;
  find("waiting").className = "problem";
}

/** The models, once the server has opened them. */
async function ready() {
  for (;;) {
    try {
      return await served();
    } catch (problem) {
      if (problem.status !== 503) throw problem;
      find("waiting").textContent = "The server is opening its models …";
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

function start(models) {
  find("waiting").hidden = true;
  if (!models.length) throw new Error("The server has no model.");
  const select = find("model"), usable = (name) => models.filter(({ kind }) => TOOLS[name][1].includes(kind));
  const names = Object.keys(TOOLS).filter((name) => usable(name).length), tabs = names.map((name) => find(`tab-${name}`));
  const shows = Object.fromEntries(names.map((name) => [name, TOOLS[name][0](models)]));
  for (const tab of tabs) tab.hidden = false;

  function open(name) {
    for (const other of names) {
      find(other).hidden = other !== name;
      find(`tab-${other}`).setAttribute("aria-selected", String(other === name));
      find(`tab-${other}`).tabIndex = other === name ? 0 : -1;
    }
    const fitting = usable(name), kept = read(`model.${name}`, null), model = fitting.find(({ id }) => id === kept) ?? fitting[0];
    select.replaceChildren(...fitting.map(({ id }) => h("option", { value: id, selected: id === model.id }, id)));
    select.hidden = name === "compare"; // which has two of its own
    shows[name](model);
    document.title = `${find(`tab-${name}`).textContent} · fledge`;
  }

  const wanted = () => names.find((name) => `#${name}` === location.hash) ?? names[0];
  const go = (name) => { history.replaceState(null, "", `#${name}`); open(name); };
  tabs.forEach((tab, i) => {
    tab.onclick = () => go(names[i]);
    tab.onkeydown = (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = (to + tabs.length) % tabs.length;
      go(names[next]);
      tabs[next].focus();
    };
  });
  select.onchange = () => { keep(`model.${wanted()}`, select.value); open(wanted()); };
  onhashchange = () => open(wanted());
  open(wanted());
}

function themed() {
  const button = find("theme"), system = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const tell = () => button.setAttribute("aria-pressed", String(dark()));
  button.onclick = () => { keep("theme", root.dataset.theme = dark() ? "light" : "dark"); tell(); };
  system.onchange = tell;
  tell();
}
