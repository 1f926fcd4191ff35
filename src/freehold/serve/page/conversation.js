// What was said. A turn is a user's text and, for each lane, the messages that answered it: the assistant's, and those
// of tools. There are two lanes while two models are compared, else one.

/** An assistant's message while it grows, and what is known about it beside its text. */
export function newReply(model) {
  return { role: "assistant", model, content: "", reasoning_content: "", tool_calls: [], figures: null, error: null };
}

export class Conversation {
  constructor() {
    this.turns = [];
  }

  add(text) {
    const turn = { text, lanes: [] };
    this.turns.push(turn);
    return turn;
  }

  /** The messages that a lane's model is sent to go on after the last of `turn`'s. */
  messages(lane, turn, system) {
    const messages = system.trim() ? [{ role: "system", content: system }] : [];
    for (const said of this.turns.slice(0, this.turns.indexOf(turn) + 1)) {
      const answers = said.lanes[lane] ?? said.lanes[0] ?? [];
      if (said !== turn && hasFailed(answers)) continue;
      messages.push({ role: "user", content: said.text }, ...answers.map(sent));
    }
    return messages;
  }

  /** Everything, as it is written into a file. */
  exported(system, tools, lanes) {
    return {
      format: "freehold-conversation",
      exported_at: new Date().toISOString(),
      system: system || null,
      tools,
      lanes,
      turns: this.turns.map(({ text, lanes: answers }) => ({ user: text, replies: answers })),
    };
  }
}

/** A turn that has no answer is not sent again: templates want user and assistant to alternate. */
const hasFailed = (answers) => !answers.some((message) => message.role === "tool" || isAnswer(message));

const isAnswer = (message) => Boolean(message.content || message.tool_calls?.length || !message.error);

/** A message with the fields that the API knows, those that are empty left out. */
function sent(message) {
  if (message.role === "tool") return message;
  const { role, content, reasoning_content, tool_calls } = message;
  return { role, content, ...(reasoning_content && { reasoning_content }), ...(tool_calls.length && { tool_calls }) };
}

/** Take up what a chunk of the stream brings: [answer, reasoning] that are new. */
export function takeDelta(reply, delta) {
  reply.content += delta.content ?? "";
  reply.reasoning_content += delta.reasoning_content ?? "";
  for (const { index, id, function: named } of delta.tool_calls ?? []) {
    reply.tool_calls[index] ??= { id, type: "function", function: { name: "", arguments: "" } };
    reply.tool_calls[index].function.name += named?.name ?? "";
    reply.tool_calls[index].function.arguments += named?.arguments ?? "";
  }
  return [delta.content ?? "", delta.reasoning_content ?? ""];
}
