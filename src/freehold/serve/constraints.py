"""What a reply is held to: a format of its answer, the grammar of its tool calls, a budget of its reasoning."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from freehold.serve.errors import ServeError
from freehold.serve.pool import Served

if TYPE_CHECKING:
    from freehold.serve.chat import Options


def constraint_of(served: Served, options: "Options", tools: list[dict[str, Any]], tail: str) -> tuple[Any, bool]:
    """(the reply's constraint or None, whether it is the grammar of the family's tool calls).

    `tail` is the end of the prompt. Raises RequestError or ServeError for what cannot be held to.
    """
    from freehold.text.grammar import AfterReasoning

    if not tools and options.tool_choice not in ("auto", "none"):
        raise ServeError(400, "tool_choice: there are no tools to choose from", None, "tool_choice")
    whole = _tool_grammar(served, options, tools, tail) if tools else None
    grammar = whole or options.grammar
    matcher = served.matcher(grammar) if grammar else None
    reasoning = served.format.reasoning
    if reasoning is None:
        return matcher, whole is not None
    thinks = served.format.parser(prompt_tail=tail).reasoning_open
    is_harmony = served.format.name == "harmony"
    waits = matcher is not None and whole is None and (thinks or is_harmony)  # for the answer to begin
    if options.reasoning_budget is None and not waits:
        return matcher, whole is not None
    if matcher is not None and whole is None and not waits:
        return matcher, False  # an answer in this format has no reasoning before it
    opening, closing = reasoning
    return (
        AfterReasoning(
            served.model.tokenizer,
            opening=None if thinks else opening,
            closing=served.format.answer_opening or closing,
            forced=served.format.forced,
            budget=options.reasoning_budget,
            answer=matcher,
            whole=whole is not None,
        ),
        whole is not None,
    )


def _tool_grammar(served: Served, options: "Options", tools: list[dict[str, Any]], tail: str) -> str | None:
    """None where the family's calls are not constrained."""
    if options.grammar is not None and options.answer_schema is None:
        raise ServeError(400, "response_format: with tools only JSON can be asked for", None, "response_format")
    whole = served.format.tool_grammar(
        tools,
        choice=options.tool_choice,
        parallel=options.parallel_tools,
        prompt_tail=tail,
        answer_schema=options.answer_schema,
    )
    if whole is None and options.tool_choice not in ("auto", "none"):
        raise ServeError(400, "tool_choice: calls of this model or schema cannot be required", None, "tool_choice")
    if whole is None and options.grammar is not None:
        raise ServeError(400, "response_format: not together with tools for this model", None, "response_format")
    return whole


def effort_variables(effort: str | None) -> dict[str, Any]:
    """Variables by which chat templates of the families switch reasoning on and off."""
    if effort is None:
        return {}
    return {"reasoning_effort": effort} | thinking_variables(effort != "none")


def thinking_variables(thinks: bool | None) -> dict[str, Any]:
    return {} if thinks is None else {"enable_thinking": thinks, "thinking": thinks}


def response_grammar(format: Mapping[str, Any] | None) -> tuple[str | None, Any]:
    """(the grammar of a `response_format` in OpenAI's shape, its JSON schema if it has one).

    Raises RequestError for a schema that cannot be.
    """
    from freehold.text import grammar

    match format:
        case None | {"type": "text"}:
            return None, None
        case {"type": "json_object"}:
            return grammar.json_object(), {"type": "object"}
        case {"type": "json_schema", "json_schema": {"schema": schema}} if isinstance(schema, (dict, bool)):
            return grammar.json_schema(schema), schema
        case {"type": "json_schema", "schema": schema} if isinstance(schema, (dict, bool)):
            return grammar.json_schema(schema), schema
        case {"type": "regex", "pattern": str(pattern)}:
            return grammar.regex(pattern), None
        case {"type": "lark" | "grammar", "grammar": str(text)}:
            return grammar.lark(text), None
        case {"type": "choice", "choices": list(choices)}:
            return grammar.choice(choices), None
    kind = re.sub(r"[^\w-]", "?", str(format.get("type")))[:50]
    raise ServeError(400, f"response_format: type {kind!r} is unknown or lacks its schema", None, "response_format")
