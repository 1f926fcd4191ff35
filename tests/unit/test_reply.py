"""Replies of every family read back: what a template writes for an assistant's turn is what the parser finds in it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reply_families import ARGUMENTS, FAMILIES, FAMILY_IDS, TOOLS, Family, Reply, parse

from freehold.text.reply import ReplyFormat, Text, ToolCallArguments, ToolCallStart
from freehold.text.tokenizer import Tokenizer
from freehold.weights.gguf import open_gguf

families = pytest.mark.parametrize("family", FAMILIES, ids=FAMILY_IDS)
HERMES = ReplyFormat.detect("<think></think><tool_call></tool_call> arguments", [])
PLAIN = ReplyFormat.detect("{{ messages }}", [])


def turns(family: Family):
    """(content, reasoning, calls) of turns that the family can write."""
    calls = (("get_weather", ARGUMENTS),)
    two = (("clock", {}), ("get_weather", {"city": "Oslo"}))
    reasoning = "Hm.\n\nSo: <b>?" if family.reasons else ""
    yield "Hello.\n\n- a\n- b", reasoning, ()
    yield "", reasoning, calls
    yield "", reasoning, (("clock", {}),)
    if family.talks:
        yield "Let me see.", reasoning, calls
    if family.parallel:
        yield "", reasoning, two


def read(family: Family, reply: str, cuts=(), **options):
    return parse(family.detect(), reply, list(cuts), tools=TOOLS, prompt_tail=family.header, **options)


@families
def test_a_family_is_known_by_its_template(family):
    assert family.detect().name == family.name
    assert (family.detect().reasoning is not None) >= family.reasons


@families
@pytest.mark.parametrize("constrained", [False, True])
def test_what_the_template_writes_is_read_back(family, constrained):
    for content, reasoning, calls in turns(family):
        found = read(family, family.reply(content, reasoning, calls), constrained=constrained)
        assert found.text == content
        assert found.reasoning == reasoning
        assert [(name, json.loads(arguments)) for name, arguments in found.calls] == list(calls)


@families
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_how_the_reply_is_cut_changes_nothing(family, data):
    content, reasoning, calls = data.draw(st.sampled_from(list(turns(family))))
    reply = family.reply(content, reasoning, calls)
    constrained = data.draw(st.booleans())
    whole = read(family, reply, constrained=constrained)
    assert read(family, reply, data.draw(st.lists(st.integers(0, len(reply)))), constrained=constrained) == whole
    assert read(family, reply, range(len(reply)), constrained=constrained) == whole


@families
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_reply_raises_or_depends_on_its_cuts(family, data):
    """Replies that are cut off, or have pieces of markup where they should not."""
    _, _, calls = data.draw(st.sampled_from(list(turns(family))))
    reply = family.reply("", "Hm." if family.reasons else "", calls)
    words = [*family.special, "<tool_call>", "{", "}", '"name"', '"', "</", "<", "\n", "x", "[", "(", "=", ",", "\\"]
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(reply)))
        reply = reply[:at] + data.draw(st.sampled_from(["", *words])) + reply[at + data.draw(st.integers(0, 3)) :]
    else:
        reply = "".join(data.draw(st.lists(st.sampled_from([*words, reply]), max_size=8)))
    reply = reply[: data.draw(st.integers(0, len(reply)))]
    constrained = data.draw(st.booleans())
    whole = read(family, reply, constrained=constrained)
    assert read(family, reply, range(len(reply)), constrained=constrained) == whole
    if not constrained:
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in whole.calls)


@families
def test_calls_of_unknown_tools_are_text(family):
    reply = family.reply("", "", (("get_weather", ARGUMENTS),)).replace("get_weather", "delete_all")
    found = read(family, reply)
    assert found.calls == []
    assert "delete_all" in found.text and "São" in found.text


@families
def test_without_tools_calls_are_text(family):
    reply = family.reply("", "", (("clock", {}),))
    found = parse(family.detect(), reply, prompt_tail=family.header)
    assert found.calls == [] and "clock" in found.text


@families
def test_what_only_begins_like_a_marker_is_text(family):
    for text in ("a < b", "if x <to", "[TOOL", "<|", "see <tool_", "<", "{1}", "x</thin", "[x](y)"):
        answer = family.reply(text)
        assert read(family, answer).text == text


@pytest.mark.parametrize(
    "broken",
    [
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": }}\n</tool_call>",
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"x\"\n</tool_call>",
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": NaN}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": 1,}}\n</tool_call>",
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": [1]}\n</tool_call>",
        "<tool_call>\n{\"name\": \"get_weather\", \"name\": \"clock\", \"arguments\": {}}\n</tool_call>",
        "<tool_call>\n{\"arguments\": {\"city\": \"x\"}}\n</tool_call>",
        "<tool_call>\n{\"tool\": \"get_weather\"}\n</tool_call>",
        "<tool_call>\nget_weather(city=1)\n</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>",
        "Use the <tool_call> tag.",
    ],
)  # fmt: skip
def test_malformed_calls_come_out_unchanged(broken):
    found = parse(HERMES, f"Look:\n{broken}  \nthen", tools=TOOLS)
    assert found == Reply(text=f"Look:\n{broken}  \nthen", order="t")


def test_a_call_after_a_malformed_one_is_read():
    sound = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    found = parse(HERMES, f"The <tool_call> tag:\n{sound}", tools=TOOLS)
    assert found.text == "The <tool_call> tag:"
    assert found.calls == [["clock", "{}"]]


def test_a_call_inside_an_argument_is_data():
    inner = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    outer = json.dumps({"name": "get_weather", "arguments": {"city": inner}})
    found = parse(HERMES, f"<tool_call>\n{outer}\n</tool_call>", tools=TOOLS)
    assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [("get_weather", {"city": inner})]


def test_a_call_within_a_broken_one_is_not_made():
    """A quote that the model forgot to escape must not set free the call that the argument quotes."""
    broken = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>"}}'
    found = parse(HERMES, broken, tools=TOOLS)
    assert found.calls == [] and found.text == broken


def test_arguments_may_come_before_the_name():
    call = '<tool_call>{"id": 7, "arguments": {"city": "x"}, "type": "function", "name": "get_weather"}</tool_call>'
    assert parse(HERMES, call, tools=TOOLS).calls == [["get_weather", '{"city": "x"}']]


def test_a_call_without_arguments_or_closing_tag():
    assert parse(HERMES, '<tool_call>{"name": "clock"}', tools=TOOLS) == Reply(calls=[["clock", "{}"]], order="c")


def test_arguments_stream_while_they_come_when_a_grammar_holds_the_reply():
    parser = HERMES.parser(tools=TOOLS, constrained=True)
    assert parser.push('<tool_call>\n{"name": "get_weather", "argum') != []
    assert parser.push('ents": {"ci') == [ToolCallArguments(0, '{"ci')]
    assert parser.push('ty": "Pa') == [ToolCallArguments(0, 'ty": "Pa')]


def test_unconstrained_calls_are_held_until_they_are_sound():
    parser = HERMES.parser(tools=TOOLS)
    assert parser.push('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa"') == []
    start, arguments, _ = parser.push("}}")
    assert isinstance(start, ToolCallStart)
    assert arguments == ToolCallArguments(0, '{"city": "Pa"}')


def test_a_constrained_call_that_is_cut_off_is_ended():
    found = parse(
        HERMES, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa', tools=TOOLS, constrained=True
    )
    assert found == Reply(calls=[["get_weather", '{"city": "Pa']], order="c")


def test_an_unconstrained_call_that_is_cut_off_is_text():
    text = 'Now\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa'
    assert parse(HERMES, text, tools=TOOLS) == Reply(text=text, order="t")


# Reasoning


@pytest.mark.parametrize("reply", ["<think>\nA\n\nB\n</think>\n\nC\nD", "<think>A\n\nB</think>C\nD"])
def test_reasoning_is_set_apart(reply):
    assert parse(HERMES, reply) == Reply(text="C\nD", reasoning="A\n\nB", order="rt")


def test_reasoning_that_the_prompt_opened():
    parser = HERMES.parser(prompt_tail="<|im_start|>assistant\n<think>\n")
    assert parser.reasoning_open
    parser.push("A</think>B")
    assert not parser.reasoning_open
    assert parse(HERMES, "A</think>B", prompt_tail="<think>\n") == Reply("B", "A", order="rt")
    assert parse(HERMES, "<think>\nA</think>B", prompt_tail="<think>\n") == Reply("B", "A", order="rt")


def test_reasoning_that_the_prompt_closed():
    assert parse(HERMES, "\n\nB", prompt_tail="<think>\n\n</think>\n\n") == Reply("B", order="t")
    assert not HERMES.parser(prompt_tail="<think>\n\n</think>\n\n").reasoning_open


def test_reasoning_that_is_closed_but_never_opened():
    """Families whose template only ever cuts at the closing tag begin inside the reasoning."""
    format = ReplyFormat.detect("{{ m.content.split('</think>')[-1] }}", ["<think>", "</think>"])
    assert parse(format, "A</think>B") == Reply("B", "A", order="rt")
    assert parse(format, "<think>A</think>B") == Reply("B", "A", order="rt")


def test_reasoning_that_is_never_closed():
    assert parse(HERMES, "<think>\nA\n") == Reply(reasoning="A\n", order="r")


def test_a_closing_tag_alone_is_no_reasoning():
    assert parse(HERMES, "</think>\n\nB") == Reply("B", order="t")


def test_tags_in_the_answer_are_text():
    assert parse(HERMES, "The <think> tag ends with </think>.") == Reply(
        "The <think> tag ends with </think>.", order="t"
    )


def test_calls_in_the_reasoning_are_reasoning():
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    found = parse(HERMES, f"<think>I could write {call}.</think>No.", tools=TOOLS)
    assert found == Reply("No.", f"I could write {call}.", order="rt")


def test_a_call_at_once_ends_the_reasoning_that_was_expected():
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    assert parse(HERMES, call, tools=TOOLS, prompt_tail="<think>\n") == Reply(calls=[["clock", "{}"]], order="c")
    broken = call.replace("clock", "clok")
    assert parse(HERMES, broken, tools=TOOLS, prompt_tail="<think>\n") == Reply(broken, order="t")


# Harmony

HARMONY = ReplyFormat.detect("<|channel|><|message|>", [])


def test_harmony_in_the_words_that_the_model_itself_uses():
    reply = (
        "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>commentary<|message|>One moment."
        "<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Oslo"}<|call|>'
    )
    found = parse(HARMONY, reply, tools=TOOLS, prompt_tail="<|start|>assistant")
    assert found == Reply("One moment.", "Think.", [["get_weather", '{"city": "Oslo"}']], order="rtc")


def test_harmony_sets_messages_of_one_kind_apart():
    reply = "<|channel|>commentary<|message|>A<|end|><|start|>assistant<|channel|>final<|message|>B<|return|>"
    assert parse(HARMONY, reply).text == "A\n\nB"


def test_harmony_goes_on_where_the_prompt_ends():
    tail = "<|start|>assistant<|channel|>analysis<|message|>"
    assert HARMONY.parser(prompt_tail=tail).reasoning_open
    assert parse(HARMONY, "A<|end|>", prompt_tail=tail) == Reply(reasoning="A", order="r")


def test_harmony_calls_of_other_recipients_are_text():
    reply = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
    assert parse(HARMONY, reply, tools=TOOLS).text == "<|channel|>analysis to=python code<|message|>print(1)"


# Values between tags

XML = ReplyFormat.detect("<tool_call><function=<parameter=", [])


@pytest.mark.parametrize(
    ("schema", "written", "value"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, '"5"', '"5"'),
        ({"type": "string"}, "", ""),
        ({"type": "string"}, "a\n", "a\n"),
        ({"type": "integer"}, "5", 5),
        ({"type": "integer"}, "five", "five"),
        ({"type": "number"}, "5", 5),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "false", False),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "None", None),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "7", 7),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "x7", "x7"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"const": "true"}, "true", "true"),
        ({"type": "array"}, '["a", 1]', ["a", 1]),
        ({"type": "array"}, "[1,", "[1,"),
        ({"type": "object"}, '{"a": {"b": null}}', {"a": {"b": None}}),
        ({"$ref": "#/$defs/Name"}, "12", "12"),
        ({"$ref": "#/nowhere"}, "12", 12),
        ({}, "12", 12),
        ({}, "twelve", "twelve"),
        (True, "[]", []),
        ({"type": "integer"}, "9" * 5000, "9" * 5000),
        ({}, "[" * 100_000, "[" * 100_000),
    ],
)
@pytest.mark.parametrize("constrained", [False, True])
def test_values_take_the_types_of_the_schema(schema, written, value, constrained):
    parameters = {"type": "object", "properties": {"x": schema}, "$defs": {"Name": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    reply = f"<tool_call>\n<function=f>\n<parameter=x>\n{written}\n</parameter>\n</function>\n</tool_call>"
    found = parse(XML, reply, range(0, len(reply), 7), tools=tools, constrained=constrained)
    assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [("f", {"x": value})]


def test_a_key_that_comes_twice_is_malformed():
    one = "<parameter=city>\nx\n</parameter>\n"
    reply = f"<tool_call>\n<function=get_weather>\n{one}{one}</function>\n</tool_call>"
    assert parse(XML, reply, tools=TOOLS) == Reply(text=reply, order="t")


def test_a_call_may_lack_its_outer_tag():
    reply = "<function=get_weather>\n<parameter=city>\nx\n</parameter>\n</function>"
    assert parse(XML, reply, tools=TOOLS).calls == [["get_weather", '{"city": "x"}']]


LLAMA = ReplyFormat.detect('<|start_header_id|>"parameters": ', [])
PYTHONIC = ReplyFormat.detect("<|header_start|> tools", [])


@pytest.mark.parametrize(
    ("format", "reply"),
    [
        (LLAMA, '<|python_tag|>{"name": "get_weather", "parameters": {"city": "x"}}'),
        (LLAMA, '{"type": "function", "name": "get_weather", "parameters": {"city": "x"}}'),
        (PYTHONIC, '{"name": "get_weather", "parameters": {"city": "x"}}'),
        (PYTHONIC, "<|python_start|>[get_weather(city='x')]<|python_end|>"),
        (PYTHONIC, '[ get_weather( city = "x", ) ]'),
    ],
)
def test_other_ways_in_which_llama_calls(format, reply):
    ((name, arguments),) = parse(format, reply, range(len(reply)), tools=TOOLS).calls
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "x"})


def test_several_calls_of_llama():
    one = '{"name": "clock", "parameters": {}}'
    assert len(parse(LLAMA, f"{one}; {one}", tools=TOOLS).calls) == 2


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("'it\\'s, (\"x\"]'", 'it\'s, ("x"]'),
        ("[1, (2, 3), {'a': None}]", [1, [2, 3], {"a": None}]),
        ('{"a": true, "b": null}', {"a": True, "b": None}),
        ("-1.5e3", -1500.0),
        ("'\\\\'", "\\"),
    ],
)
def test_python_values(written, value):
    found = parse(PYTHONIC, f"[get_weather(city={written})]", tools=TOOLS)
    assert [json.loads(arguments) for _, arguments in found.calls] == [{"city": value}]


@pytest.mark.parametrize(
    "reply",
    [
        "[get_weather(city=open('x'))]",
        "[get_weather(city=1e999j)]",
        "[get_weather(city={1, 2})]",
        "[get_weather('x')]",
        "[get_weather(city='\\d')]",
        "[get_weather(city=1, city=2)]",
        "[get_weather(city=]",
        "[get_weather(city=" + "(" * 5000 + ")]",
        "[1, 2](x)",
        '{"city": "x"}',
        '<|python_tag|>print("x")',
    ],
)
def test_answers_that_only_look_like_calls_of_llama(reply):
    format = LLAMA if reply[0] in "{<" else PYTHONIC
    assert parse(format, reply, tools=TOOLS) == Reply(text=reply, order="t")


# Detection


@pytest.mark.parametrize("template", [None, "", "{{ messages }}", "<tool_call>", "]<]minimax[>[<tool_call> arguments"])
def test_templates_of_no_known_family_are_plain(template):
    format = ReplyFormat.detect(template, [])
    assert (format.name, format.reasoning, format.tools) == ("plain", None, None)


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet='<>/think|tool_call{}" \n', max_size=40), cuts=st.lists(st.integers(0, 40)))
def test_plain_replies_pass_unchanged(text, cuts):
    parser = PLAIN.parser(tools=TOOLS)
    assert parse(PLAIN, text, cuts, tools=TOOLS).text == text
    assert parser.push(text + "x") == [Text(text + "x")]


def test_reasoning_without_tools_is_named_so():
    format = ReplyFormat.detect("{{ '<think>\\n' }} {{ '</think>' }}", [])
    assert (format.name, format.tools) == ("reasoning", None)


def test_reasoning_may_be_known_by_the_vocabulary():
    assert ReplyFormat.detect("{{ messages }}", ["<think>", "</think>"]).reasoning == ("<think>", "</think>")


def test_the_real_qwen_writes_hermes(qwen):
    metadata = open_gguf(qwen).metadata
    tokenizer = Tokenizer.from_gguf(metadata)
    format = ReplyFormat.detect(metadata["tokenizer.chat_template"], tokenizer.special_tokens)
    assert (format.name, format.reasoning) == ("hermes", None)


def test_the_real_smollm_is_plain(smollm):
    metadata = open_gguf(smollm).metadata
    tokenizer = Tokenizer.from_gguf(metadata)
    assert ReplyFormat.detect(metadata["tokenizer.chat_template"], tokenizer.special_tokens).name == "plain"
