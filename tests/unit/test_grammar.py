"""Constraints that a reply is held to, over a real vocabulary."""

import json

import pytest

from freehold.errors import RequestError
from freehold.text import grammar
from freehold.text.grammar import AfterReasoning, Grammars
from freehold.text.tokenizer import Tokenizer
from freehold.weights.gguf import open_gguf


@pytest.fixture(scope="module")
def tokenizer(smollm):
    return Tokenizer.from_gguf(open_gguf(smollm).metadata)


@pytest.fixture(scope="module")
def grammars(tokenizer):
    return Grammars(tokenizer, 49152)


def allows(constraint, token):
    mask = constraint.mask()
    return mask is None or bool(mask[token // 8] >> token % 8 & 1)


def accepts(constraint, tokens):
    for token in tokens:
        if constraint.finished or not allows(constraint, token):
            return False
        constraint.accept(token)
    return True


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("made", "good", "bad"),
    [
        (grammar.json_schema(SCHEMA), ['{"n": 5}', '{"n":-12}'], ['{"n": "5"}', '{"m": 5}', "[1]"]),
        (grammar.json_object(), ['{"a": [1, {"b": null}]}'], ["[]", "5"]),
        (grammar.regex("[0-9]{3}"), ["123"], ["12a", "x"]),
        (grammar.lark('start: "a" ("b" | "c")+'), ["abcb"], ["b", "ad"]),
        (grammar.choice(["yes", "no.", "n*"]), ["yes", "no.", "n*"], ["nox", "maybe"]),
    ],
)
def test_what_is_allowed(grammars, tokenizer, made, good, bad):
    for text in good:
        assert accepts(grammars.matcher(made), tokenizer.encode(text)), text
    for text in bad:
        assert not accepts(grammars.matcher(made), tokenizer.encode(text)), text


def test_a_reply_that_can_only_end_is_finished(grammars, tokenizer):
    matcher = grammars.matcher(grammar.regex("[0-9]{3}"))
    assert accepts(matcher, tokenizer.encode("123")) and matcher.finished
    open_ended = grammars.matcher(grammar.regex("[0-9]+"))
    assert accepts(open_ended, tokenizer.encode("12")) and not open_ended.finished
    assert allows(open_ended, min(tokenizer.eos_ids))


def after(tokenizer, **options):
    tags = {"opening": None, "closing": "</think>", "forced": "\n</think>\n\n"}
    return AfterReasoning(tokenizer, **tags | options)


def test_a_budget_forces_the_closing_tag(tokenizer):
    constraint = after(tokenizer, budget=3)
    for token in tokenizer.encode("one two"):
        constraint.accept(token)
        assert constraint.forced() == []
    constraint.accept(tokenizer.encode(" three")[0])
    assert tokenizer.decode(constraint.forced()) == "\n</think>\n\n"
    constraint.accept(tokenizer.encode("four")[0])
    assert constraint.forced() == []


def test_reasoning_that_closes_itself_is_not_closed_again(tokenizer):
    constraint = after(tokenizer, budget=50)
    for token in tokenizer.encode("Hm.</think>" + "word " * 60):
        constraint.accept(token)
        assert constraint.forced() == []


def test_only_what_stands_after_the_opening_counts(tokenizer):
    constraint = after(tokenizer, opening="<think>", budget=2)
    for token in tokenizer.encode("No thought at all, only an answer."):
        constraint.accept(token)
        assert constraint.forced() == []
    for token in tokenizer.encode("<think>"):
        constraint.accept(token)
    constraint.accept(50)
    constraint.accept(51)
    assert constraint.forced()


def test_the_answer_is_held_to_its_grammar_after_the_reasoning(grammars, tokenizer):
    constraint = after(tokenizer, answer=grammars.matcher(grammar.json_schema(SCHEMA)), budget=2)
    assert constraint.mask() is None
    for token in tokenizer.encode("x y"):
        constraint.accept(token)
    constraint.forced()
    assert not allows(constraint, tokenizer.encode("z")[0])
    assert accepts(constraint, tokenizer.encode(json.dumps({"n": 1}))) and constraint.finished


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grammar.json_schema({"a": "x" * 300_000}), "the JSON schema: longer than 256 KiB"),
        (lambda: grammar.choice([]), "choice: expected 1 to 1000 texts that are not empty"),
        (lambda: grammar.choice([""]), "choice: expected 1 to 1000 texts that are not empty"),
        (lambda: grammar.regex("x" * 300_000), "the regular expression: longer than 256 KiB"),
        (lambda: grammar.lark("x" * 300_000), "the grammar: longer than 256 KiB"),
    ],
)
def test_what_is_refused_before_it_is_compiled(make, message):
    with pytest.raises(RequestError, match=message):
        make()


def test_what_cannot_be_compiled(grammars):
    for made in (grammar.regex("("), grammar.lark("start: nowhere"), grammar.json_schema({"type": "wizard"})):
        with pytest.raises(RequestError, match="the grammar: "):
            grammars.matcher(made)
