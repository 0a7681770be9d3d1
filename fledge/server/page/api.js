// The server's routes: plain answers, answers piece by piece, and the key that it may ask for.

import { find } from "./dom.js";

/** What the server refused, as its own sentence. */
export class Refusal extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status;
  }
}

let waiting = null;

/** A key from the person; those who ask at the same time share one question. */
function key(wrong) {
  waiting ??= new Promise((resolve) => {
    const form = find("key"), field = find("key-text"), before = document.activeElement;
    find("waiting").hidden = form.hidden = false;
    find("waiting").textContent = "";
    find("key-note").textContent = wrong ? "The server does not know this key." : "";
    field.value = "";
    field.focus();
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem("fledge.key", field.value);
      form.hidden = true;
      waiting = null;
      before?.focus?.();
      resolve();
    };
  });
  return waiting;
}

async function send(path, body, signal) {
  for (;;) {
    const held = sessionStorage.getItem("fledge.key");
    const headers = { ...(held && { Authorization: `Bearer ${held}` }), ...(body && { "Content-Type": "application/json" }) };
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new Refusal("The server can't be reached: is it still running?");
    }
    if (response.ok) return response;
    const told = await response.json().catch(() => null);
    if (response.status === 401) {
      await key(Boolean(held));
      continue;
    }
    const pause = response.headers.get("Retry-After");
    const sentence = told?.error?.message ?? `The server answered ${response.status} ${response.statusText}.`;
    throw new Refusal(pause ? `${sentence} (Try again in ${pause} s.)` : sentence, response.status);
  }
}

/** The answer to a GET, or with a body to a POST. */
export const ask = async (path, body = null, signal = undefined) => (await send(path, body, signal)).json();

/** The events of a streamed answer, one object each. */
export async function* stream(path, body, signal) {
  const response = await send(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) throw new Refusal("The answer broke off.");
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const told = JSON.parse(data);
      if (told.error) throw new Refusal(told.error.message);
      yield told;
    }
  }
}

/** Every model with its kind and its own settings, in the server's order. */
export async function served() {
  const { data } = await ask("v1/models");
  return data.map(({ id, fledge }) => ({ id, ...fledge }));
}

const told = new Map();

/** The card, facts and curves of a model, asked for once. */
export function details(id) {
  if (!told.has(id)) {
    const asked = ask(`v1/models/${id.split("/").map(encodeURIComponent).join("/")}`).then(({ fledge }) => fledge);
    asked.catch(() => told.delete(id));
    told.set(id, asked);
  }
  return told.get(id);
}
