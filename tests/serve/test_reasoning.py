"""Reasoning, switched on and off and bounded, in each protocol: the small model under a template that knows it."""

import anthropic
import ollama
import pytest
from gguf_files import with_template
from server_process import Server
from test_openai import client_of

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}</think>\n\n{% endif %}{% endif %}"
)
KNOWS_NO_SWITCH = TEMPLATE.replace("enable_thinking", "other")
QUESTION = [{"role": "user", "content": "Name three colours."}]
NUMBER = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture(scope="module")
def thinker(smollm, tmp_path_factory):
    """Two models: one whose template has a switch, and one that always thinks."""
    folder = tmp_path_factory.mktemp("thinking")
    switch = with_template(smollm, folder / "switch.gguf", TEMPLATE)
    always = with_template(smollm, folder / "always.gguf", KNOWS_NO_SWITCH)
    with Server(switch, always, "--context", 512) as server:
        yield server


def chat(server, **options):
    body = {"model": "switch", "messages": QUESTION, "temperature": 0, "max_tokens": 40} | options
    answer = server.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    reply = answer.json()
    message = reply["choices"][0]["message"]
    return message.get("reasoning_content", ""), message["content"], reply


def test_a_budget_is_kept_and_the_closing_tag_forced(thinker):
    reasoning, answer, reply = chat(thinker, reasoning_budget=8)
    assert reasoning and answer and "</think>" not in reasoning + answer
    assert 8 <= reply["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 16  # the tag's own tokens count
    counted = thinker.http.post("/tokenize", json={"prompt": reasoning}).json()["count"]
    assert counted <= 9
    longer, _, _ = chat(thinker, reasoning_budget=12)
    assert longer.startswith(reasoning)
    free, answer, _ = chat(thinker)
    assert free.startswith(reasoning) and len(free) > len(longer)
    assert chat(thinker, thinking={"type": "enabled", "budget_tokens": 8})[0] == reasoning


@pytest.mark.parametrize("model", ["switch", "always"])
@pytest.mark.parametrize(
    "off",
    [
        {"reasoning_effort": "none"},
        {"enable_thinking": False},
        {"thinking": {"type": "disabled"}},
        {"reasoning_budget": 0},
    ],
)
def test_off(thinker, model, off):
    reasoning, answer, reply = chat(thinker, model=model, **off)
    assert not reasoning and answer and "</think>" not in answer
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_an_answer_of_a_schema_comes_after_the_reasoning(thinker):
    import json

    format = {"type": "json_schema", "json_schema": {"name": "n", "schema": NUMBER}}
    reasoning, answer, _ = chat(thinker, reasoning_budget=8, response_format=format, max_tokens=60)
    assert reasoning and json.loads(answer)["n"] in (1, 2)
    reasoning, answer, _ = chat(thinker, enable_thinking=False, response_format=format, max_tokens=60)
    assert not reasoning and json.loads(answer)["n"] in (1, 2)


def test_streams_keep_the_two_apart(thinker):
    reasoning, answer, _ = chat(thinker, reasoning_budget=8)
    client = client_of(thinker)
    chunks = client.chat.completions.create(
        model="switch", messages=QUESTION, temperature=0, max_tokens=40, stream=True, extra_body={"reasoning_budget": 8}
    )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == reasoning
    assert "".join(delta.content or "" for delta in deltas) == answer


def test_responses(thinker):
    reasoning, answer, _ = chat(thinker, reasoning_budget=8)
    client = client_of(thinker)
    asked = {"model": "switch", "input": "Name three colours.", "temperature": 0, "max_output_tokens": 40}
    events = list(client.responses.create(**asked, stream=True, extra_body={"reasoning": {"max_tokens": 8}}))
    thought, message = events[-1].response.output
    assert thought.type == "reasoning" and thought.content[0].text == reasoning
    assert message.content[0].text == answer
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == reasoning
    turns = [{"role": "user", "content": "Name three colours."}, thought.model_dump(), message.model_dump()]
    going_on = client.responses.create(**asked | {"input": [*turns, {"role": "user", "content": "More."}]})
    without = [turns[0], turns[2], {"role": "user", "content": "More."}]
    assert going_on.usage.input_tokens > client.responses.create(**asked | {"input": without}).usage.input_tokens


def test_anthropic_blocks(thinker):
    reasoning, answer, _ = chat(thinker, reasoning_budget=8)
    client = anthropic.Anthropic(
        base_url=thinker.url, api_key="none", max_retries=0, timeout=60, _strict_response_validation=True
    )
    asked = {"model": "switch", "messages": QUESTION, "max_tokens": 40, "extra_body": {"temperature": 0}}
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 8}}
    thought, text = client.messages.create(**asked, **thinking).content
    assert (thought.type, thought.thinking, text.text) == ("thinking", reasoning, answer)
    with client.messages.stream(**asked, **thinking) as stream:
        thought, text = stream.get_final_message().content
    assert (thought.thinking, text.text) == (reasoning, answer)
    (text,) = client.messages.create(**asked, thinking={"type": "disabled"}).content
    assert text.type == "text"

    def counted(*blocks):
        turns = [*QUESTION, {"role": "assistant", "content": blocks}, {"role": "user", "content": "More."}]
        return client.messages.count_tokens(model="switch", messages=turns).input_tokens

    assert counted(thought, text) > counted(text)  # thoughts go back to the template, which decides about them


def test_ollama_thinking(thinker):
    client = ollama.Client(thinker.url)
    options = {"temperature": 0, "num_predict": 40}
    reply = client.chat("switch", QUESTION, think=True, options=options)
    assert reply.message.thinking and "</think>" not in reply.message.thinking
    parts = list(client.chat("switch", QUESTION, think=True, options=options, stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == reply.message.thinking
    reply = client.chat("always", QUESTION, think=False, options=options)
    assert reply.message.content and not reply.message.thinking
    assert "thinking" in client.show("switch").capabilities
