"""Grammars for calls, held against llguidance: what a family writes is accepted, what breaks a schema is refused."""

import re

import pytest
from reply_families import ARGUMENTS, CLOCK, FAMILIES, FAMILY_IDS, TOOLS, WEATHER, Family

from freehold.errors import RequestError
from freehold.text.reply import ReplyFormat
from freehold.text.template import ChatTemplate
from freehold.text.tokenizer import Tokenizer
from freehold.weights.gguf import open_gguf

llguidance = pytest.importorskip("llguidance")
families = pytest.mark.parametrize("family", FAMILIES, ids=FAMILY_IDS)


class Bytes:
    """A vocabulary of all bytes, the given special tokens from id 256 on, and an end of reply."""

    bos_token_id = None

    def __init__(self, special: tuple[str, ...]):
        self.tokens = [*(bytes([byte]) for byte in range(256)), *(text.encode() for text in special), b"<end of reply>"]
        self.eos_token_id = len(self.tokens) - 1
        self.special_token_ids = list(range(256, len(self.tokens)))
        self._special = {text: 256 + at for at, text in enumerate(special)}

    def __call__(self, text) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())

    def encode(self, text: str) -> list[int]:
        pieces = re.split(f"({'|'.join(map(re.escape, self._special)) or '(?!)'})", text)
        return [i for piece in pieces for i in ([self._special[piece]] if piece in self._special else piece.encode())]


def accepts(grammar: str | None, special: tuple[str, ...], reply: str) -> bool:
    assert grammar is not None
    vocabulary = Bytes(special)
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary))
    assert llguidance.LLMatcher.validate_grammar(grammar, tokenizer) == ""
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    tokens = vocabulary.encode(reply)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def holds(family: Family, reply: str, tools=TOOLS, choice="auto", parallel=True, tail: str | None = "") -> bool:
    """Whether the family's grammar accepts its reply; `tail` "" stands for the end of the family's own prompt."""
    tail = family.header if tail == "" else tail
    grammar = family.detect().tool_grammar(tools, choice=choice, parallel=parallel, prompt_tail=tail)
    return accepts(grammar, family.special, reply)


def reasoning(family: Family) -> str:
    return "Hm.\n\nSo: <b>?" if family.reasons else ""


@families
@pytest.mark.parametrize("known", [True, False], ids=["prompt known", "prompt unknown"])
def test_what_a_family_writes_is_accepted(family, known):
    tail = "" if known else None
    one, thoughts = (("get_weather", ARGUMENTS),), reasoning(family)
    two = (("clock", {}), ("get_weather", {"city": "Oslo"}))
    assert holds(family, family.reply("Hello.\n\n- a", thoughts), tail=tail)
    assert holds(family, family.reply("", thoughts, one), tail=tail)
    assert holds(family, family.reply("", thoughts, one), choice="required", tail=tail)
    assert holds(family, family.reply("", thoughts, one), choice="get_weather", tail=tail)
    assert holds(family, family.reply("", thoughts, (("clock", {}),)), choice="required", tail=tail)
    if family.talks:
        assert holds(family, family.reply("Let me see.", thoughts, one), tail=tail)
    if family.parallel:
        assert holds(family, family.reply("", thoughts, two), tail=tail)


WRONG = [
    {"city": "x", "days": 99},
    {"city": "x", "days": "soon"},
    {"city": "x", "unit": "fahrenheit"},
    {"city": "x", "exact": 7},
    {"city": "x", "where": {}},
    {"city": "x", "tags": [1]},
    {"days": 3},
    {},
]


@families
@pytest.mark.parametrize("arguments", WRONG, ids=str)
def test_arguments_that_break_their_schema_are_refused(family, arguments):
    reply = family.reply("", reasoning(family), (("get_weather", arguments),))
    for choice in ("auto", "required"):
        assert not holds(family, reply, choice=choice)


@families
def test_unknown_tools_are_refused(family):
    reply = family.reply("", reasoning(family), (("delete_all", {}),))
    assert not holds(family, reply)
    assert not holds(family, family.reply("", reasoning(family), (("clock", {}),)), tools=[WEATHER])


@families
def test_the_choice_is_kept(family):
    thoughts = reasoning(family)
    clock, weather = (
        family.reply("", thoughts, (("clock", {}),)),
        family.reply("", thoughts, (("get_weather", ARGUMENTS),)),
    )
    assert not holds(family, family.reply("Hello.", thoughts), choice="required")
    assert not holds(family, clock, choice="get_weather")
    assert not holds(family, weather, choice="clock")


@families
def test_one_call_where_parallel_calls_are_off(family):
    if family.parallel:
        two = family.reply("", reasoning(family), (("clock", {}), ("clock", {})))
        assert holds(family, two) and not holds(family, two, parallel=False)
        assert not holds(family, two, choice="clock")


@families
def test_no_call_where_none_is_chosen(family):
    grammar = family.detect().tool_grammar(TOOLS, choice="none", parallel=True, prompt_tail=family.header)
    if family.name in ("llama3-json", "llama4-pythonic", "glm-4-0414"):
        assert grammar is None
        return
    assert accepts(grammar, family.special, family.reply("Hello. <b>", reasoning(family)))
    assert not accepts(grammar, family.special, family.reply("", reasoning(family), (("clock", {}),)))


@families
def test_an_answer_of_a_schema_beside_calls(family):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    how = {"choice": "auto", "parallel": True, "prompt_tail": family.header, "answer_schema": schema}
    grammar = family.detect().tool_grammar(TOOLS, **how)
    if family.name in ("llama3-json", "llama4-pythonic", "glm-4-0414"):
        assert grammar is None  # an answer in JSON looks like a call
        return
    thoughts = reasoning(family)
    assert accepts(grammar, family.special, family.reply('{"n": 5}', thoughts))
    assert accepts(grammar, family.special, family.reply("", thoughts, (("clock", {}),)))
    assert not accepts(grammar, family.special, family.reply("Five.", thoughts))
    assert not accepts(grammar, family.special, family.reply('{"n": "5"}', thoughts))


@families
def test_what_closes_the_reasoning_is_what_the_family_writes(family):
    format = family.detect()
    if not family.reasons:
        return
    written = family.reply('{"n": 5}', "Hm.")
    before, _, after = format.forced.partition(format.reasoning[1])
    assert before.strip() == "" and f"{format.reasoning[1]}{after}".rstrip("\n") in written
    assert (format.answer_opening or format.reasoning[1]) in format.forced


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.reasons and f.name != "harmony"], ids=lambda f: f.name)
def test_reasoning_that_the_prompt_closed_is_not_opened_again(family):
    closing = family.detect().reasoning[1]
    reply = family.reply("", "Hm.", (("clock", {}),))
    assert not holds(family, reply, choice="required", tail=f"x{closing}\n\n")


def test_a_reply_that_must_close_its_reasoning():
    family = next(family for family in FAMILIES if family.opens)
    assert not holds(family, "Hello.")
    assert holds(family, "Hm.</think>Hello.")


# Schemas, between tags and in JSON

XML = Family("qwen3-coder", "", "", hint="<tool_call> <function= <parameter=")
HERMES = Family("hermes", "", "", hint="<tool_call> </tool_call> arguments")


def tool(properties, **more):
    return [{"type": "function", "function": {"name": "f", "parameters": {"properties": properties, **more}}}]


def xml(value: str, key: str = "x") -> str:
    body = f"<parameter={key}>\n{value}\n</parameter>\n"
    return f"<tool_call>\n<function=f>\n{body}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "maxLength": 3}, "abc", "abcd"),
        ({"type": "string", "minLength": 2}, "ab", "a"),
        ({"type": "string", "pattern": "^[a-z/]+$"}, "a/b", "aB"),
        ({"type": "string", "pattern": "b+"}, "abbc", "ac"),
        ({"type": "string", "enum": ["a", "<b>"]}, "<b>", "c"),
        ({"const": "only"}, "only", "other"),
        ({"enum": [1, 2]}, "2", "3"),
        ({"type": "array", "items": {"$ref": "#/$defs/N"}}, "[1]", '["1"]'),
        ({"$ref": "#/$defs/N"}, "1", "x"),
        ({"enum": ["auto", 1, None]}, "1", "2"),
        ({"enum": ["auto", 1, None]}, "auto", "x"),
        ({"type": "boolean", "const": True}, "true", "false"),
        ({"type": "number", "exclusiveMinimum": 0}, "0.5", "-1"),
        ({"type": "boolean"}, "True", "yes"),
        ({"type": ["integer", "null"]}, "null", "x"),
        ({"type": "integer", "format": "int64"}, "5", "x"),
    ],
)
def test_values_between_tags_keep_to_their_schemas(schema, right, wrong):
    tools = tool({"x": schema}, **{"$defs": {"N": {"type": "integer"}}})
    assert holds(XML, xml(right), tools)
    assert not holds(XML, xml(wrong), tools)


def test_text_between_tags_ends_at_its_tag():
    tools = tool({"x": {"type": "string"}})
    assert holds(XML, xml("a\n</parameter\n<b>"), tools)
    assert not holds(XML, xml("a\n</parameter>\nb"), tools)


def test_other_arguments_where_the_schema_allows_them():
    assert holds(XML, xml("1", "anything"), tool({}, additionalProperties={"type": "integer"}))
    assert not holds(XML, xml("x", "anything"), tool({}, additionalProperties={"type": "integer"}))
    assert not holds(XML, xml("1", "anything"), tool({"x": {}}))


def test_unknown_string_formats_are_no_condition():
    tools = tool({"x": {"type": "string", "format": "local-path"}, "format": {"type": "integer"}})
    call = '<tool_call>\n{"name": "f", "arguments": {"x": "a", "format": 5}}\n</tool_call>'
    assert holds(HERMES, call, tools)
    assert not holds(HERMES, call.replace("5", '"5"'), tools)


def test_references_inside_a_tool_are_its_own():
    tools = tool({"x": {"$ref": "#/$defs/N"}}, **{"$defs": {"N": {"type": "integer"}}})
    call = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    assert holds(HERMES, call, tools)
    assert not holds(HERMES, call.replace("1", '"1"'), tools)


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"$ref": "#/$defs/T", "$defs": {"T": {"type": "object"}}},
        {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(?=a)"}}},
        {"type": "object", "properties": {"x": {"type": "string", "pattern": "a", "maxLength": 3}}},
        {"type": "object", "properties": {}, "required": ["x"]},
    ],
)
def test_schemas_that_arguments_between_tags_cannot_be_held_to(parameters):
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    assert XML.detect().tool_grammar(tools, choice="auto", parallel=True) is None


def test_formats_that_cannot_be_constrained():
    assert ReplyFormat.detect(None, []).tool_grammar(TOOLS, choice="auto", parallel=True) is None
    mistral = "[TOOL_CALLS] [ARGS]"
    assert ReplyFormat.detect(mistral, ["[TOOL_CALLS]"]).tool_grammar(TOOLS, choice="auto", parallel=True) is None
    assert ReplyFormat.detect(mistral, {"[TOOL_CALLS]": 5}).tool_grammar(TOOLS, choice="auto", parallel=True)


def test_special_tokens_are_named_by_their_texts_where_ids_are_unknown():
    format = ReplyFormat.detect(HERMES.source, ["<tool_call>", "</tool_call>"])
    grammar = format.tool_grammar([CLOCK], choice="required", parallel=False)
    assert accepts(
        grammar, ("<tool_call>", "</tool_call>"), '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    )


def test_a_tool_choice_that_is_no_tool():
    with pytest.raises(RequestError) as error:
        HERMES.detect().tool_grammar(TOOLS, choice="clok", parallel=False)
    assert str(error.value) == "tool_choice: expected one of the tools ['clock', 'get_weather'], got 'clok'"


class Real:
    """A real model's vocabulary as llguidance takes it; its user-defined tokens are special to it or not."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, special_token_ids: list[int]):
        self.tokens = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
        self.eos_token_id = tokenizer.id_of("<|im_end|>")
        self.special_token_ids = special_token_ids
        self._tokenizer = tokenizer

    def __call__(self, text) -> list[int]:
        return self._tokenizer.encode(text.decode() if isinstance(text, bytes) else text)


@pytest.mark.parametrize("is_special", [True, False], ids=["tags are special", "tags are text"])
def test_what_the_real_qwen_template_writes_is_accepted(qwen, is_special):
    metadata = open_gguf(qwen).metadata
    tokenizer = Tokenizer.from_gguf(metadata)
    template = ChatTemplate.from_gguf(metadata, tokenizer)
    user = {"role": "user", "content": "Hello"}
    function = {"name": "get_weather", "arguments": ARGUMENTS}
    turn = {"role": "assistant", "content": "One moment.", "tool_calls": [{"type": "function", "function": function}]}
    prompt = template.render([user], tools=TOOLS)
    reply = template.render([user, turn], tools=TOOLS, add_generation_prompt=False)[len(prompt) :]
    tokens = tokenizer.encode(reply.removesuffix("<|im_end|>\n"), special=True)
    special = [i for text, i in tokenizer.special_tokens.items() if is_special or "tool_call" not in text]
    format = ReplyFormat.detect(template.source, tokenizer.special_tokens)
    grammar = format.tool_grammar(TOOLS, choice="auto", parallel=True, prompt_tail=prompt)
    real = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Real(tokenizer, special)))
    matcher = llguidance.LLMatcher(real, grammar, log_level=0)
    assert matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
