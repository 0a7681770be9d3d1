// Chat: conversations that the browser keeps, answered by an assistant.

import { details, stream } from "./api.js";
import { copy, download, find, framed, growing, h, pace, sends, swap, toast } from "./dom.js";
import { show } from "./markdown.js";
import { settings } from "./settings.js";
import { all, forget, keep, read } from "./store.js";

const UNNAMED = "New conversation";

export function chat() {
  const list = find("messages"), field = find("say"), system = find("system"), form = find("composer");
  const sampling = settings(find("chat-settings").querySelector(".settings"), "chat");
  const fit = growing(field);
  let model = null, lesson = null, running = null; // what stops the answer that is being written
  let talks = all("talk.").sort((one, other) => other.when - one.when);
  let talk = talks.find(({ id }) => id === read("talk", null)) ?? fresh();

  find("talks-box").open = matchMedia("(min-width: 60rem)").matches;
  find("talk-new").onclick = () => open(talk.messages.length ? fresh() : talk);
  find("stop").onclick = () => running?.abort();
  find("export-markdown").onclick = () => download(`${named(talk)}.md`, "text/markdown", written(talk));
  find("export-json").onclick = () => {
    const { title, system: told, messages } = talk;
    download(`${named(talk)}.json`, "application/json", JSON.stringify({ title, system: told, messages }, null, 1));
  };
  system.oninput = () => { talk.system = system.value; save(); };
  sends(field, form);
  form.onsubmit = (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text || running) return;
    field.value = "";
    fit();
    if (failed(talk.messages.at(-1))) talk.messages.splice(-2); // a question that got no answer is asked anew
    ask(talk, text);
  };

  function fresh() {
    return { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), title: UNNAMED, system: "", when: Date.now(), messages: [] };
  }

  function save(one = talk) {
    if (!one.messages.length) return;
    one.when = Date.now();
    if (!talks.includes(one)) talks = [one, ...talks];
    keep(`talk.${one.id}`, one);
    keep("talk", talk.id);
    side();
  }

  function open(one) {
    talk = one;
    keep("talk", one.id);
    draw();
    back();
  }

  /** The focus goes where one types, unless that brings up a keyboard on the screen. */
  function back() {
    if (matchMedia("(hover: hover)").matches) field.focus({ preventScroll: true });
  }

  function remove(one) {
    if (one === talk) running?.abort();
    talks = talks.filter((other) => other !== one);
    forget(`talk.${one.id}`);
    if (one === talk) open(fresh());
    side();
    toast("The conversation is deleted.", "Undo", () => { talks = [one, ...talks]; keep(`talk.${one.id}`, one); open(one); });
  }

  function side() {
    find("talks-count").textContent = talks.length || "";
    find("talks-export").hidden = !talk.messages.length;
    find("talks").replaceChildren(...talks.map((one) => h("li", {},
      h("button.quiet.name", { type: "button", "aria-current": one === talk ? "true" : null, onclick: () => open(one) }, one.title),
      h("button.quiet", { type: "button", "aria-label": `Delete: ${one.title}`, title: "Delete", onclick: () => remove(one) }, "×"))));
  }

  function draw() {
    system.value = talk.system;
    list.replaceChildren(...talk.messages.map(item));
    greet();
    side();
    scrollTo(0, document.body.scrollHeight);
  }

  function example() {
    field.value = lesson.example;
    fit();
    field.focus();
  }

  function greet() {
    const empty = !talk.messages.length && model;
    find("greeting").replaceChildren(...(empty ? [
      h("p.hello", {}, `This is ${model.id}.`),
      h("p.soft", {}, lesson?.task ? `It was trained to ${lesson.task}.` : "What is said stays on the machine that this page comes from."),
      lesson?.example && h("button.example", { type: "button", onclick: example },
        h("small", {}, "Try, for example"), h("span", { dir: "auto" }, lesson.example)),
    ].filter(Boolean) : []));
  }

  /** One message with what can be done about it; an answer under way shows what there is of it. */
  function item(message) {
    const body = h("div.body"), place = h(`li.${message.role === "user" ? "user" : "answer"}`, {},
      h("h3.unseen", {}, message.role === "user" ? "You" : message.model ?? "Assistant"), body, h("div.under"));
    place.paint = () => {
      const last = talk.messages.at(-1) === message, busy = running && last && message.role !== "user";
      if (message.role === "user") body.replaceChildren(h("p", { dir: "auto" }, message.content));
      else show(body, message.content);
      place.setAttribute("aria-busy", String(Boolean(busy)));
      place.lastChild.replaceChildren(...(busy ? [h("span.writing", {}, message.content ? "" : "reading")] : [
        message.problem && h("span.problem", { role: "alert" }, message.problem),
        message.note && h("span.soft", {}, message.note),
        message.content && h("button.quiet", { type: "button", onclick: () => copy(message.content) }, "Copy"),
        h("button.quiet", { type: "button", onclick: () => edit(place, message) }, "Edit"),
        last && message.role !== "user"
          && h("button.quiet", { type: "button", onclick: again }, failed(message) ? "Try again" : "Regenerate"),
      ].filter(Boolean)));
    };
    place.paint();
    return place;
  }

  function paintAll() {
    for (const place of list.children) place.paint();
  }

  function edit(place, message) {
    if (running) return;
    const area = h("textarea", { "aria-label": "Message, edited", rows: 1 }), grow = growing(area);
    area.value = message.content;
    const change = h("form.box", {}, area,
      h("button", { type: "button", onclick: () => place.replaceWith(item(message)) }, "Cancel"),
      h("button.main", { type: "submit" }, message.role === "user" ? "Send" : "Save"));
    change.onsubmit = (event) => {
      event.preventDefault();
      if (message.role === "user") {
        talk.messages.splice(talk.messages.indexOf(message)); // what followed answered another question
        list.replaceChildren(...talk.messages.map(item));
        back();
        ask(talk, area.value.trim());
      } else {
        message.content = area.value;
        message.note = "edited by you";
        save();
        place.replaceWith(item(message));
      }
    };
    change.addEventListener("keydown", (event) => { if (event.key === "Escape") place.replaceWith(item(message)); });
    sends(area, change);
    place.querySelector(".body").replaceChildren(change);
    place.querySelector(".under").replaceChildren();
    grow();
    area.focus();
  }

  function ask(one, text) {
    if (!text) return draw();
    one.messages.push({ role: "user", content: text });
    if (one.title === UNNAMED) one.title = text.split("\n", 1)[0].slice(0, 60);
    list.append(item(one.messages.at(-1)));
    answer(one);
  }

  function again() {
    if (running) return;
    talk.messages.pop();
    list.lastChild.remove();
    back();
    answer(talk);
  }

  async function answer(one) {
    const message = { role: "assistant", content: "", model: model.id };
    const asked = one.messages.map(({ role, content }) => ({ role, content }));
    const start = performance.now(), control = new AbortController();
    running = control;
    one.messages.push(message);
    save(one);
    greet();
    let place = item(message), tokens = 0, reason = null;
    list.append(place);
    paintAll();
    buttons();
    scrollTo(0, document.body.scrollHeight);
    const paint = framed(() => {
      if (one !== talk) return;
      if (!place.isConnected) place = list.children[one.messages.indexOf(message)];
      const below = document.documentElement.scrollHeight - innerHeight - scrollY;
      place?.paint();
      if (below < 80) scrollTo(0, document.body.scrollHeight); // a person who reads further up is left there
    });
    try {
      const messages = one.system.trim() ? [{ role: "system", content: one.system }, ...asked] : asked;
      const body = { model: model.id, messages, ...sampling.given() };
      for await (const { choices: [choice], usage } of stream("v1/chat/completions", body, control.signal)) {
        message.content += choice?.delta?.content ?? "";
        reason = choice?.finish_reason ?? reason;
        tokens = usage?.completion_tokens ?? tokens;
        paint();
      }
      const told = pace(tokens, (performance.now() - start) / 1000);
      message.note = [told, reason === "length" && "cut off at this length"].filter(Boolean).join(" · ");
      if (!message.content) message.note ||= "The model said nothing.";
    } catch (problem) {
      if (problem.name === "AbortError") message.note = "stopped by you";
      else message.problem = problem.message;
    }
    running = null;
    if (talks.includes(one)) save(one); // it may have been deleted meanwhile
    buttons();
    if (one === talk) paintAll();
    paint();
  }

  function buttons() {
    if (running) swap(find("stop"), find("send"));
    else swap(find("send"), find("stop"));
  }

  return (chosen) => {
    const first = model === null;
    if (model !== chosen) {
      lesson = null;
      details(chosen.id).then(({ facts }) => { if (model === chosen) { lesson = facts?.trained_to ?? null; greet(); } }, () => {});
    }
    model = chosen;
    sampling.of(chosen);
    if (first) draw();
    else greet();
    fit();
  };
}

const failed = (message) => message?.role === "assistant" && !message.content;

const named = (talk) => talk.title.replace(/[^\p{L}\p{N} _-]+/gu, "").trim().slice(0, 40) || "conversation";

/** A conversation as one Markdown text. */
function written(talk) {
  const parts = talk.messages.map(({ role, content, model }) => `## ${role === "user" ? "You" : model ?? "Assistant"}\n\n${content}\n`);
  const system = talk.system.trim() ? [`## System\n\n${talk.system}\n`] : [];
  return [`# ${talk.title}\n`, ...system, ...parts].join("\n");
}
