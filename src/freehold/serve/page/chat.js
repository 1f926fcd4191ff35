// The conversation at work: sending, stopping, answering again, editing, comparing.

import { ApiError, streamChat } from "./api.js";
import { announce } from "./announce.js";
import { Conversation } from "./conversation.js";
import { byId } from "./dom.js";
import { toEnd } from "./follow.js";
import { askKey } from "./key.js";
import { ReplyView } from "./reply.js";
import { TurnView } from "./turn.js";

export class Chat {
  /** `onRunning(isRunning)` hears whether any reply is running. */
  constructor(models, settings, onRunning) {
    Object.assign(this, { models, settings, onRunning });
    this.conversation = new Conversation();
    this.turnViews = [];
    this.running = new Map(); // view → its AbortController
    this.numLanes = 1;
  }

  /** Whether it was sent. */
  send(text) {
    if (!text.trim() || this.running.size || !this.canAsk()) return false;
    this.turnViews.at(-1)?.settle();
    const view = new TurnView(this.conversation.add(text), this.numLanes, (edited) => this.resend(view, edited));
    this.turnViews.push(view);
    byId("turns").append(view.element);
    byId("empty").hidden = true;
    for (let lane = 0; lane < this.numLanes; lane++) this.ask(view, lane);
    toEnd();
    return true;
  }

  canAsk() {
    const isKnown = Array.from({ length: this.numLanes }, (_, lane) => this.models.of(lane)).every(Boolean);
    if (!isKnown) this.models.refresh();
    return isKnown && this.settings.check(this.numLanes);
  }

  /** Let a lane's model go on with the turn. */
  async ask(turnView, lane) {
    const { turn } = turnView;
    const answers = (turn.lanes[lane] ??= []);
    const model = this.models.of(lane).id;
    const { tools, system } = this.settings;
    const messages = this.conversation.messages(lane, turn, system);
    const body = { model, messages, ...this.settings.lanes[lane].values, ...(tools.length && { tools }) };
    const view = new ReplyView(model, `${"AB"[lane]} · ${model}`, {
      stop: () => this.running.get(view)?.abort(),
      again: () => this.again(turnView, lane),
      answer: (results) => {
        view.settle();
        answers.push(...results);
        this.ask(turnView, lane);
        byId("message").focus();
      },
    });
    answers.push(view.reply);
    turnView.add(lane, view);
    const controller = new AbortController();
    this.setRunning(view, controller);
    announce(`${model} answers.`);
    const ended = await run(view, body, controller.signal);
    this.setRunning(view, null);
    view.end(ended);
    if (ended.error) await this.afterError(ended.error, turnView, lane, view);
    else if (this.models.of(lane)?.loaded === false) this.models.refresh();
  }

  async afterError(error, turnView, lane, view) {
    const isLast = () => turnView.lanes[lane].views.at(-1) === view && this.turnViews.at(-1) === turnView;
    if (error.status === 401 && (await askKey(error.message)) && isLast()) this.again(turnView, lane);
  }

  /** Answer the last turn again. */
  again(turnView, lane) {
    if (!this.canAsk()) return;
    turnView.turn.lanes[lane].pop();
    turnView.drop(lane);
    this.ask(turnView, lane);
    byId("message").focus();
  }

  /** Say something else instead of what was said in a turn; what came after is forgotten. */
  resend(turnView, text) {
    if (!text.trim() || !this.canAsk()) return;
    this.stop();
    this.forget(this.turnViews.indexOf(turnView));
    this.send(text);
    byId("message").focus();
  }

  stop() {
    for (const [view, controller] of this.running) {
      controller.abort();
      this.running.delete(view);
    }
    this.onRunning(false);
  }

  clear() {
    this.stop();
    this.forget(0);
    byId("empty").hidden = false;
  }

  export() {
    const lanes = Array.from({ length: this.numLanes }, (_, lane) => {
      return { model: this.models.of(lane)?.id ?? null, ...this.settings.lanes[lane].values };
    });
    return this.conversation.exported(this.settings.system, this.settings.tools ?? [], lanes);
  }

  forget(index) {
    for (const { element } of this.turnViews.splice(index)) element.remove();
    this.conversation.turns.splice(index);
  }

  setRunning(view, controller) {
    if (controller) this.running.set(view, controller);
    else this.running.delete(view);
    this.onRunning(this.running.size > 0);
  }
}

/** Stream a reply into its view; how it ended. */
async function run(view, body, signal) {
  try {
    for await (const chunk of streamChat(body, signal)) view.push(chunk);
    return {};
  } catch (error) {
    if (error.name === "AbortError") return { isStopped: true };
    if (error instanceof ApiError) return { error };
    throw error;
  }
}
