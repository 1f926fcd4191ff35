// What is said to those who hear the page: whole blocks, one after the other, never token by token.

import { byId, el } from "./dom.js";

const KEPT_MS = 20_000; // then it is gone, so that nobody finds the text twice
const MAX_CHARACTERS = 1000;

export function announce(text) {
  const words = text.trim();
  if (!words) return;
  const said = el("p", {}, words.length > MAX_CHARACTERS ? `${words.slice(0, MAX_CHARACTERS)} …` : words);
  byId("announcer").append(said);
  setTimeout(() => said.remove(), KEPT_MS);
}
