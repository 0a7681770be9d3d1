// What the browser keeps: each thing under a name of its own, so that two windows don't undo each other's.

import { toast } from "./dom.js";

const PREFIX = "fledge.";

export function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function keep(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    toast("The browser keeps no more: save conversations as files, then delete some.");
  }
}

export function forget(name) {
  try {
    localStorage.removeItem(PREFIX + name);
  } catch { /* nothing was kept */ }
}

/** Everything that is kept under names with this beginning. */
export function all(beginning) {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX + beginning))
      .map((key) => read(key.slice(PREFIX.length), null)).filter(Boolean);
  } catch {
    return [];
  }
}
