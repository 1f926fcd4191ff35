// One assistant's message on the page, from its first token to its figures.

import { announce } from "./announce.js";
import { newReply, takeDelta } from "./conversation.js";
import { copyButton, el, icon, iconButton } from "./dom.js";
import { count, describe, seconds, Stopwatch } from "./figures.js";
import { grown } from "./follow.js";
import { Markdown } from "./markdown.js";
import { CallCards } from "./toolcalls.js";

const FIGURES_MS = 250; // between two looks at the speed

export class ReplyView {
  /** `title` is shown where two replies stand side by side. `on`: what its buttons do: stop(), again(), answer(results). */
  constructor(model, title, on) {
    this.reply = newReply(model);
    this.on = on;
    this.watch = new Stopwatch();
    this.text = el("div", { class: "markdown" });
    this.markdown = new Markdown(this.text, announce);
    this.calls = new CallCards(this.reply);
    this.status = el("span", { class: "figures" }, "waiting");
    this.actions = el("span", { class: "actions" }, this.stopButton());
    this.footer = el("footer", { class: "reply-foot" }, this.status, this.actions);
    this.element = el(
      "article",
      { class: "reply running", "aria-label": `Reply of ${model}`, "aria-busy": "true" },
      el("p", { class: "reply-model", dir: "auto" }, title),
      this.text,
      this.calls.element,
      this.footer,
    );
    this.thoughts = null; // the element of the reasoning, once there is any
    this.isThinking = false;
    this.frame = 0;
    this.restUntil = 0;
    this.shownAt = 0; // when the figures were
  }

  /** Take up a chunk of the stream. */
  push(chunk) {
    const choice = chunk.choices?.[0];
    this.usage = chunk.usage ?? this.usage;
    this.timings = chunk.timings?.[0] ?? this.timings;
    this.finishReason = choice?.finish_reason ?? this.finishReason;
    if (!choice?.delta) return;
    const [answer, reasoning] = takeDelta(this.reply, choice.delta);
    if (!answer && !reasoning && !choice.delta.tool_calls) return;
    this.watch.piece(Boolean(reasoning));
    this.markdown.append(answer);
    if (reasoning) this.think(reasoning);
    else if (this.isThinking) this.summarize(this.watch.reasoningSeconds);
    this.frame ||= requestAnimationFrame(() => this.tick());
  }

  /** A draw that took long is followed by as long a rest, so that the page answers its reader meanwhile. */
  tick() {
    const began = performance.now();
    this.frame = 0;
    if (began < this.restUntil) {
      this.frame = requestAnimationFrame(() => this.tick());
      return;
    }
    this.draw();
    const now = performance.now();
    this.restUntil = now + (now - began);
    if (now < this.shownAt + FIGURES_MS) return;
    this.shownAt = now;
    this.status.textContent = this.watch.running;
  }

  draw() {
    this.markdown.draw();
    this.calls.draw();
    grown();
  }

  /** The stream is over: whole, stopped by the reader, or by an error. */
  end({ error = null, isStopped = false } = {}) {
    cancelAnimationFrame(this.frame);
    this.markdown.finish();
    this.calls.draw();
    const reason = error ? "failed" : isStopped ? "stopped" : this.finishReason;
    const figures = this.watch.figures(this.usage, this.timings, reason);
    Object.assign(this.reply, { figures, error: error?.message ?? null });
    this.element.classList.remove("running");
    this.element.setAttribute("aria-busy", "false");
    this.status.textContent = describe(figures);
    this.summarize(figures.reasoning_s, figures.reasoning_tokens);
    if (error) this.fail(error);
    this.actions.replaceChildren();
    if (this.reply.content) this.actions.append(copyButton("Copy reply", () => this.reply.content));
    if (!error) this.actions.append(iconButton("again", "Answer again", () => this.on.again()));
    if (reason === "tool_calls") this.calls.ask((results) => this.on.answer(results));
    grown();
  }

  /** A later message stands below: this one cannot be answered again. */
  settle() {
    this.actions.querySelector("[aria-label='Answer again']")?.remove();
    this.calls.settle();
    this.element.querySelector(".retry")?.remove();
  }

  think(text) {
    if (!this.thoughts) {
      this.thoughts = el("div", { class: "thoughts", dir: "auto" }, "");
      this.summary = el("summary", {}, "Thinking …");
      this.text.before(el("details", { class: "reasoning" }, this.summary, this.thoughts));
    }
    this.isThinking = true;
    this.thoughts.firstChild.appendData(text);
  }

  summarize(took, tokens = null) {
    if (!this.thoughts) return;
    this.isThinking = false;
    this.summary.textContent = `Thought for ${seconds(took)}${tokens ? ` · ${count(tokens)}` : ""}`;
  }

  fail(error) {
    const notes = [];
    if (error.retryAfter) notes.push(`The server asks to wait ${error.retryAfter} s.`);
    if (!this.reply.content && !this.reply.tool_calls.length) notes.push("This turn is left out of what is sent next.");
    const again = el("button", { type: "button", class: "retry", onclick: () => this.on.again() }, icon("again"), "Try again");
    this.footer.before(
      el("div", { class: "error", role: "alert" }, el("p", { dir: "auto" }, error.message), el("p", { class: "note" }, notes.join(" ")), again),
    );
  }

  stopButton() {
    return el("button", { type: "button", class: "quiet stop-one", onclick: () => this.on.stop() }, icon("stop"), "Stop");
  }
}
