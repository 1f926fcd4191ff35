// Puts the page together: the keyboard, the buttons, and what they do.

import { Chat } from "./chat.js";
import { byId, el } from "./dom.js";
import { Models } from "./models.js";
import { Settings } from "./settings.js";

const message = byId("message");
const settings = new Settings();
const models = new Models(() => fit());
const chat = new Chat(models, settings, showRunning);

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!chat.send(message.value)) return;
  message.value = "";
  grow();
  message.focus();
});

message.addEventListener("keydown", (event) => {
  const isComposing = event.isComposing || event.keyCode === 229; // Safari ends a composition before it says so
  if (event.key !== "Enter" || event.shiftKey || isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
message.addEventListener("input", grow);

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !chat.running.size || document.querySelector("dialog[open]")) return;
  chat.stop();
  message.focus();
});

byId("stop").addEventListener("click", () => {
  chat.stop();
  message.focus();
});
byId("new-chat").addEventListener("click", () => {
  chat.clear();
  message.focus();
});
byId("compare").addEventListener("click", () => compare(chat.numLanes === 1));
byId("export").addEventListener("click", download);

models.refresh();
message.focus();

function compare(isComparing) {
  chat.numLanes = isComparing ? 2 : 1;
  byId("compare").setAttribute("aria-pressed", String(isComparing));
  document.body.classList.toggle("comparing", isComparing);
  models.showSecond(isComparing);
  fit();
}

function fit() {
  settings.fit([models.of(0), models.of(1)], chat.numLanes > 1);
}

function showRunning(isRunning) {
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
}

/** As high as what is written in it, up to what the style sheet allows. */
function grow() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight}px`;
}

function download() {
  const file = new Blob([JSON.stringify(chat.export(), null, 2)], { type: "application/json" });
  const link = el("a", { href: URL.createObjectURL(file), download: "conversation.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
