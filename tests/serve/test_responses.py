"""OpenAI's responses by OpenAI's own client, checking every answer against its types."""

import json

import openai
import pytest
from test_openai import WEATHER, client_of

MODEL = "smollm2-135m-q4_1"
TOOL = {"type": "function", "strict": True, **WEATHER["function"]}


@pytest.fixture(scope="module")
def client(server):
    return client_of(server)


def create(client, **options):
    return client.responses.create(
        **{"model": MODEL, "input": "Name three colours.", "max_output_tokens": 12, "temperature": 0} | options
    )


def test_a_response(client):
    response = create(client, instructions="Be brief.", metadata={"for": "a test"})
    assert len(response.output_text.split()) > 3
    assert response.status == "incomplete" and response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == 12
    assert response.usage.total_tokens == response.usage.input_tokens + 12
    assert response.instructions == "Be brief." and response.metadata == {"for": "a test"}
    whole = create(client, max_output_tokens=400, input="Say only: yes.")
    assert whole.status == "completed" and whole.completed_at >= whole.created_at
    assert client.responses.retrieve(whole.id).output_text == whole.output_text
    assert client.responses.input_items.list(whole.id).data[0].content[0].text == "Say only: yes."
    client.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError, match="not here, or no longer"):
        client.responses.retrieve(whole.id)


def test_what_the_open_responses_specification_requires(server):
    found = server.http.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 3}).json()
    assert found.keys() >= {
        "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id",
        "instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p",
        "presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "user", "usage",
        "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier",
        "prompt_cache_key",
    }  # fmt: skip


def test_a_stream_says_the_same(client):
    events = list(create(client, stream=True, top_logprobs=2))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    text = "".join(event.delta for event in deltas)
    assert text == create(client).output_text == events[-1].response.output_text
    assert sum(len(event.logprobs) for event in deltas) == 12
    with client.responses.stream(model=MODEL, input="Say only: yes.", temperature=0) as stream:
        assert (
            stream.get_final_response().output_text
            == create(client, input="Say only: yes.", max_output_tokens=400).output_text
        )


def test_going_on_from_a_response(client):
    first = create(client, input="My name is Ada.")
    turns = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "What is my name?"},
    ]
    second = create(client, input="What is my name?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.output_text == create(client, input=turns).output_text
    third = create(client, input="Say it again.", previous_response_id=second.id)
    assert third.usage.input_tokens > second.usage.input_tokens
    kept_not = create(client, store=False)
    with pytest.raises(openai.NotFoundError):
        create(client, previous_response_id=kept_not.id)


def test_an_answer_of_a_schema(client):
    from pydantic import BaseModel

    class Answer(BaseModel):
        yes: bool

    response = client.responses.parse(model=MODEL, input="Is it so?", text_format=Answer, max_output_tokens=40)
    assert isinstance(response.output_parsed, Answer)


def test_tools(tool_server):
    client = client_of(tool_server)
    options = {"model": "qwen2.5-coder-0.5b-q4_k_m", "tools": [TOOL], "max_output_tokens": 100}
    asked = {"input": "How warm is it in Oslo, in celsius?", "tool_choice": {"type": "function", "name": "get_weather"}}
    events = list(create(client, **options, **asked, stream=True))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert "response.function_call_arguments.delta" in kinds and kinds[-1] == "response.completed"
    response = events[-1].response
    (call,) = response.output
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert call.type == "function_call" and call.arguments == "".join(deltas)
    assert set(json.loads(call.arguments)) == {"city", "unit"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    options.pop("tools")
    by_id = create(client, **options, input=[result], previous_response_id=response.id)
    turns = [{"role": "user", "content": asked["input"]}, call.model_dump(exclude_none=True), result]
    assert create(client, **options, input=turns).output_text == by_id.output_text
    assert "21" in by_id.output_text


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "not served here"),
        ({"previous_response_id": "resp_0"}, openai.NotFoundError, "response 'resp_0': not here, or no longer"),
        ({"background": True}, openai.BadRequestError, "background: Input should be False"),
        ({"truncation": "auto"}, openai.BadRequestError, "truncation: Input should be 'disabled'"),
        ({"input": []}, openai.BadRequestError, "input"),
        (
            {"input": [{"type": "item_reference", "id": "x"}]},
            openai.BadRequestError,
            r"input\[0\]: item 'item_reference' cannot be read",
        ),
        ({"tools": [{"type": "web_search"}]}, openai.BadRequestError, "tools.0.type: Input should be 'function'"),
        ({"input": "word " * 9000}, openai.BadRequestError, "the context holds 8192"),
        ({"input": "word " * 9000, "stream": True}, openai.BadRequestError, "the context holds 8192"),
    ],
)
def test_errors(client, change, error, message):
    with pytest.raises(error, match=message):
        create(client, **change)
