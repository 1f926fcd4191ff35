"""What OpenAI's endpoints share: heads of answers, usage, log-probabilities."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from freehold.serve.chat import Reply
from freehold.serve.errors import ServeError
from freehold.serve.pool import Served
from freehold.serve.sse import encode

DONE = "data: [DONE]\n\n"


def head(kind: str, served: Served, prefix: str) -> dict[str, Any]:
    ident = f"{prefix}-{secrets.token_hex(12)}"
    return {"id": ident, "object": kind, "created": int(time.time()), "model": served.name}


class Chunks:
    """Events of one streamed answer; what all of them share is written once. `field` is what a choice brings."""

    def __init__(self, top: dict[str, Any], field: str):
        self._start, self._field = f'data: {encode(top)[:-1]},"choices":[{{"index":', field

    def chunk(self, index: int, value: Any, finish_reason: str | None = None, logprobs: Any = None) -> str:
        reason = f'"{finish_reason}"' if finish_reason else "null"
        found = encode(logprobs) if logprobs else "null"
        choice = f'"{self._field}":{encode(value)},"logprobs":{found},"finish_reason":{reason}'
        return f"{self._start}{index},{choice}}}]}}\n\n"


def usage_of(replies: Sequence[Reply], num_prompt: int) -> dict[str, Any]:
    done = [reply.completion for reply in replies if reply.completion]
    generated = sum(completion.usage.completion_tokens for completion in done)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": generated,
        "total_tokens": num_prompt + generated,
        "prompt_tokens_details": {"cached_tokens": max((c.usage.cached_tokens for c in done), default=0)},
        "completion_tokens_details": {"reasoning_tokens": sum(reply.reasoning_tokens for reply in replies)},
    }


def token_entries(tokenizer: Any, tokens: Sequence[Any]) -> list[dict[str, Any]]:
    """Tokens with their log-probabilities and likeliest alternatives."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.piece(token)
        return {"token": data.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(data)}

    return [entry(token, logprob) | {"top_logprobs": [entry(*pair) for pair in top]} for token, logprob, top in tokens]


def finite(logprob: float) -> float:
    return max(logprob, -9999.0)  # JSON has no infinity


def chosen_tool(choice: Any) -> str:
    """ "auto", "none", "required" or a tool's name."""
    return choice or "auto" if choice is None or isinstance(choice, str) else _name_of(choice)


def _name_of(choice: Any) -> str:
    name: str = getattr(choice, "name", None) or choice.function.name
    if name in ("auto", "none", "required"):
        raise ServeError(400, f"tool_choice: no tool may be called {name!r}", "invalid_value", "tool_choice")
    return name
