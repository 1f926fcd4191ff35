"""Items of OpenAI's responses: to the messages of a conversation, and from a reply's deltas."""

import secrets
from typing import Any

from freehold.serve.chat import text_of
from freehold.serve.errors import ServeError


def input_items(given: Any) -> list[dict[str, Any]]:
    """A request's input as items."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return given


def messages_of(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, in OpenAI's shape, of input items; what an assistant did in one turn is one message."""
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        match item:
            case {"role": "user" | "system" | "developer" as role, "content": content}:
                messages.append({"role": role, "content": text_of(content)})
            case {"role": "assistant", "content": content}:
                message = _assistant(messages)
                message["content"] = (message["content"] or "") + text_of(content)
            case {"type": "reasoning"}:
                thoughts = text_of_parts(item.get("content") or item.get("summary"))
                if thoughts:
                    _assistant(messages)["reasoning_content"] = thoughts
            case {"type": "function_call", "call_id": str(ident), "name": str(name), "arguments": str(arguments)}:
                function = {"name": name, "arguments": arguments}
                calls = _assistant(messages).setdefault("tool_calls", [])
                calls.append({"id": ident, "type": "function", "function": function})
            case {"type": "function_call_output", "call_id": str(ident), "output": output}:
                messages.append({"role": "tool", "tool_call_id": ident, "content": text_of(output)})
            case _:
                kind = str(item.get("type", item.get("role")))[:50]
                raise ServeError(400, f"input[{index}]: item {kind!r} cannot be read", "invalid_value", "input")
    return messages


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message that is being made."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def text_of_parts(parts: Any) -> str:
    """Of thoughts, which a client sends back as they came; what is none of these is passed over."""
    found = parts if isinstance(parts, list) else ()
    return "".join(str(part.get("text", "")) for part in found if isinstance(part, dict))


def message_item(text: str, status: str, logprobs: list[Any] | None = None, ident: str = "") -> dict[str, Any]:
    part = output_text(text, logprobs)
    ident = ident or new_id("msg")
    return {"id": ident, "type": "message", "status": status, "role": "assistant", "content": [part]}


def output_text(text: str, logprobs: list[Any] | None = None) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def reasoning_item(text: str, status: str, ident: str = "") -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    head = {"id": ident or new_id("rs"), "type": "reasoning", "status": status}
    return head | {"summary": [], "content": content, "encrypted_content": None}


def call_item(call_id: str, name: str, arguments: str, status: str, ident: str = "") -> dict[str, Any]:
    head = {"id": ident or new_id("fc"), "type": "function_call", "status": status}
    return head | {"call_id": call_id, "name": name, "arguments": arguments}


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
