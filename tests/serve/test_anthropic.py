"""Anthropic's own client, checking every answer against its types, against a server process."""

import anthropic
import pytest

MODEL = "smollm2-135m-q4_1"
QUESTION = [{"role": "user", "content": "Name three colours."}]
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]},
}


def client_of(server):
    return anthropic.Anthropic(
        base_url=server.url, api_key="none", max_retries=0, timeout=60, _strict_response_validation=True
    )


@pytest.fixture(scope="module")
def client(server):
    return client_of(server)


def create(client, **options):
    return client.messages.create(
        **{"model": MODEL, "messages": QUESTION, "max_tokens": 12, "extra_body": {"temperature": 0}} | options
    )


def test_a_message(client):
    message = create(client)
    assert message.role == "assistant" and message.stop_reason == "max_tokens" and message.model == MODEL
    assert len(message.content[0].text.split()) > 3
    usage = message.usage
    assert usage.output_tokens == 12
    counted = client.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens
    assert usage.input_tokens + usage.cache_read_input_tokens == counted
    again = create(client).usage
    assert again.cache_read_input_tokens > 0
    assert again.input_tokens + again.cache_read_input_tokens == counted


def test_a_stream_says_the_same(client):
    with client.messages.stream(model=MODEL, messages=QUESTION, max_tokens=12, extra_body={"temperature": 0}) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert message.content[0].text == create(client).content[0].text
    assert message.stop_reason == "max_tokens" and message.usage.output_tokens == 12
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert "content_block_start" in kinds and "content_block_stop" in kinds


def test_system_and_earlier_turns(client):
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Hello. "}, {"type": "text", "text": "I am Ada."}]},
        {"role": "assistant", "content": "Hello Ada."},
        *QUESTION,
    ]
    plain = client.messages.count_tokens(model=MODEL, messages=turns).input_tokens
    told = client.messages.count_tokens(model=MODEL, messages=turns, system="Answer in one word, in capitals.")
    assert told.input_tokens != plain
    assert create(client, messages=turns, system=[{"type": "text", "text": "Be brief."}]).content[0].text


def test_stop_sequences(client):
    whole = create(client, max_tokens=40).content[0].text
    stop = whole.split()[4]
    message = create(client, max_tokens=40, stop_sequences=["never", stop])
    assert message.stop_reason == "stop_sequence" and message.stop_sequence == stop
    assert message.content[0].text == whole[: whole.index(stop)]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_tools(tool_server, choice):
    client = client_of(tool_server)
    options = {
        "model": "qwen2.5-coder-0.5b-q4_k_m",
        "messages": [{"role": "user", "content": "How warm is it in Oslo?"}],
        "tools": [TOOL],
        "max_tokens": 60,
        "tool_choice": choice | {"disable_parallel_tool_use": True},
    }
    message = client.messages.create(**options)
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert call.name == "get_weather" and call.input["city"] in ("Oslo", "Rome")
    with client.messages.stream(**options) as stream:
        streamed = stream.get_final_message()
    assert [block.type for block in streamed.content] == ["tool_use"]
    assert streamed.content[0].input["city"] in ("Oslo", "Rome")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "21 degrees"}]}
    options["messages"] += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result, {"type": "text", "text": "So how warm is it?"}]},
    ]
    options["tool_choice"] = {"type": "none"}
    assert client.messages.create(**options).content[0].type == "text"


def test_a_call_that_is_cut_short(tool_server):
    """By the limit or a stop sequence, whole or as a stream: the arguments that are there, and why there are no more."""
    client = client_of(tool_server)
    options = {
        "model": "qwen2.5-coder-0.5b-q4_k_m",
        "messages": [{"role": "user", "content": "How warm is it in Oslo?"}],
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
        "extra_body": {"temperature": 0},
    }
    for limit in range(10, 26, 2):
        message = client.messages.create(**options, max_tokens=limit)
        assert message.stop_reason in ("max_tokens", "tool_use")
    options |= {"max_tokens": 60, "stop_sequences": ["city"]}
    message = client.messages.create(**options)
    assert message.stop_reason == "stop_sequence" and message.content[-1].input == {}
    with client.messages.stream(**options) as stream:
        assert stream.get_final_message().stop_reason == "stop_sequence"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "claude"}, anthropic.NotFoundError, "model 'claude': not served here"),
        (
            {"extra_body": {"temperature": 1.5}},
            anthropic.BadRequestError,
            "temperature: Input should be less than or equal to 1",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]}
                ]
            },
            anthropic.BadRequestError,
            "block 'image' cannot be read",
        ),
        (
            {"tool_choice": {"type": "tool", "name": "x"}, "tools": [TOOL]},
            anthropic.BadRequestError,
            "expected one of the tools",
        ),
        ({"tool_choice": {"type": "any"}, "tools": [TOOL]}, anthropic.BadRequestError, "cannot be required"),
        (
            {"messages": [{"role": "user", "content": "word " * 9000}]},
            anthropic.BadRequestError,
            "the context holds 8192",
        ),
    ],
)
def test_errors(client, change, error, message):
    with pytest.raises(error) as caught:
        create(client, **change)
    assert caught.value.body["type"] == "error"
    assert message in caught.value.body["error"]["message"]
