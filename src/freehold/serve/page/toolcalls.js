// Calls of tools: what the model asks for, and the answers that the reader gives by hand.

import { el } from "./dom.js";

export class CallCards {
  constructor(reply) {
    this.reply = reply;
    this.element = el("div", { class: "calls" });
    this.cards = [];
  }

  draw() {
    this.reply.tool_calls.forEach((call, index) => {
      const card = (this.cards[index] ??= this.add());
      card.name.textContent = call.function.name;
      const text = pretty(call.function.arguments);
      if (card.source.textContent !== text) card.source.textContent = text;
    });
  }

  add() {
    const card = { name: el("code", { class: "call-name" }), source: el("code"), element: null };
    card.element = el(
      "div",
      { class: "call", role: "group", "aria-label": "Call of a tool" },
      el("p", { class: "call-head" }, "Calls ", card.name),
      el("pre", { tabindex: "0", dir: "ltr" }, card.source),
    );
    this.element.append(card.element);
    return card;
  }

  /** Ask for what the tools return; `onAnswer` gets a message of the role "tool" for each call. */
  ask(onAnswer) {
    const fields = this.reply.tool_calls.map((call, index) => {
      const field = el("textarea", { rows: "2", class: "code", dir: "auto", spellcheck: "false", required: true });
      this.cards[index].element.append(el("label", {}, `Result of ${call.function.name}`, field));
      return field;
    });
    const submit = (event) => {
      event.preventDefault();
      const results = fields.map((field, index) => {
        return { role: "tool", tool_call_id: this.reply.tool_calls[index].id, content: field.value };
      });
      this.settle();
      onAnswer(results);
    };
    this.form = el("form", { class: "call-form", onsubmit: submit });
    this.form.append(...this.element.childNodes, el("button", { class: "primary" }, "Send results"));
    this.element.append(this.form);
  }

  /** What was answered stays to be read; no more is asked. */
  settle() {
    for (const field of this.element.querySelectorAll("textarea")) {
      field.readOnly = true;
      if (!field.value) field.closest("label").remove();
    }
    this.form?.querySelector(".primary")?.remove();
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not whole yet
  }
}
