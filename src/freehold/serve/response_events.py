"""A reply as the output items of a response, and the events by which they stream."""

from collections.abc import Iterator
from typing import Any

from freehold.serve.response_items import call_item, message_item, new_id, output_text, reasoning_item
from freehold.serve.sse import event
from freehold.text.deltas import Delta, Reasoning, Text, ToolCallArguments, ToolCallEnd, ToolCallStart


class Items:
    """Takes a reply's deltas; `output` holds the finished items. Its methods give the events of what they take."""

    def __init__(self) -> None:
        self.output: list[dict[str, Any]] = []
        self._open = ""  # the kind of the item that is being made: "text", "reasoning" or "call"
        self._id = self._text = ""
        self._call: tuple[str, str] = ("", "")  # its id and name
        self._logprobs: list[Any] = []
        self._number = -1  # of the last event

    def event(self, kind: str, **fields: Any) -> str:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **fields}, kind)

    def take(self, deltas: list[Delta], logprobs: list[Any]) -> Iterator[str]:
        """`logprobs`: of the tokens that the deltas come from."""
        for delta in deltas:
            match delta:
                case Text(text):
                    yield from self._in("text")
                    self._logprobs += logprobs
                    yield self._delta("output_text", text, content_index=0, logprobs=logprobs)
                    logprobs = []
                case Reasoning(text):
                    yield from self._in("reasoning")
                    yield self._delta("reasoning_text", text, content_index=0)
                case ToolCallStart(_, ident, name):
                    yield from self.close()
                    self._call = (ident, name)
                    yield from self._in("call")
                case ToolCallArguments(_, fragment):
                    yield self._delta("function_call_arguments", fragment)
                case ToolCallEnd(_, whole):
                    yield from self.close("completed" if whole else "incomplete")

    def close(self, status: str = "completed") -> Iterator[str]:
        """End the item that is open."""
        if not self._open:
            return
        place = {"item_id": self._id, "output_index": len(self.output)}
        match self._open:
            case "text":
                item = message_item(self._text, status, self._logprobs, self._id)
                text = {"text": self._text, "logprobs": self._logprobs}
                yield self.event("response.output_text.done", **place, content_index=0, **text)
                yield self.event("response.content_part.done", **place, content_index=0, part=item["content"][0])
            case "reasoning":
                item = reasoning_item(self._text, status, self._id)
                yield self.event("response.reasoning_text.done", **place, content_index=0, text=self._text)
                yield self.event("response.content_part.done", **place, content_index=0, part=item["content"][0])
            case _:
                item = call_item(*self._call, self._text or "{}", status, self._id)
                arguments = {"arguments": item["arguments"], "name": item["name"]}
                yield self.event("response.function_call_arguments.done", **place, **arguments)
        yield self.event("response.output_item.done", output_index=len(self.output), item=item)
        self.output.append(item)
        self._open = ""

    def _delta(self, kind: str, text: str, **fields: Any) -> str:
        self._text += text
        place = {"item_id": self._id, "output_index": len(self.output)}
        return self.event(f"response.{kind}.delta", **place, delta=text, **fields)

    def _in(self, kind: str) -> Iterator[str]:
        """Make sure that an item of this kind is open."""
        if self._open == kind:
            return
        yield from self.close()
        self._open, self._text, self._logprobs = kind, "", []
        self._id = new_id({"text": "msg", "reasoning": "rs", "call": "fc"}[kind])
        place = {"item_id": self._id, "output_index": len(self.output)}
        match kind:
            case "text":
                item, part = message_item("", "in_progress", ident=self._id) | {"content": []}, output_text("")
            case "reasoning":
                item, part = reasoning_item("", "in_progress", self._id), {"type": "reasoning_text", "text": ""}
            case _:
                item, part = call_item(*self._call, "", "in_progress", self._id), None
        yield self.event("response.output_item.added", output_index=len(self.output), item=item)
        if part is not None:
            yield self.event("response.content_part.added", **place, content_index=0, part=part)
