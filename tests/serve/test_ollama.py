"""Ollama's own client against a server process."""

import json

import ollama
import pytest

from freehold.serve.ollama import _Calls
from freehold.text.deltas import ToolCallArguments, ToolCallEnd, ToolCallStart

MODEL = "smollm2-135m-q4_1"
QUESTION = [{"role": "user", "content": "Name three colours."}]
GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture(scope="module")
def client(server):
    return ollama.Client(server.url)


def test_what_there_is(client, server):
    (model,) = client.list().models
    assert model.model == f"{MODEL}:latest"
    assert model.details.family == "llama" and model.details.quantization_level == "Q4_1"
    assert model.size == 98362432
    shown = client.show(MODEL)
    assert shown.modelinfo["llama.context_length"] == 8192
    assert "completion" in shown.capabilities and shown.license == "apache-2.0"
    (running,) = client.ps().models
    assert running.context_length == 8192 and running.size > 98362432
    assert server.http.get("/api/version").json()["version"]
    assert server.http.head("/").status_code == 200


def test_chat(client):
    reply = client.chat(MODEL, QUESTION, options=GREEDY)
    assert len(reply.message.content.split()) > 3
    assert reply.done and reply.done_reason == "length" and reply.eval_count == 12
    assert reply.prompt_eval_count > 10 and reply.total_duration > reply.eval_duration > 0
    parts = list(client.chat(f"{MODEL}:latest", QUESTION, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == reply.message.content
    assert parts[-1].done and parts[-1].eval_count == 12


def test_generate(client):
    raw = client.generate(MODEL, "One, two, three,", raw=True, options=GREEDY)
    assert "four" in raw.response
    parts = list(client.generate(MODEL, "One, two, three,", raw=True, options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == raw.response
    told = client.generate(MODEL, "Name three colours.", system="Be brief.", options=GREEDY)
    assert told.done_reason in ("length", "stop") and told.response
    assert client.generate(MODEL).done_reason == "load"


def test_a_call_that_is_cut_short_is_no_call():
    begun = [ToolCallStart(0, "call_1", "f"), ToolCallArguments(0, '{"city')]
    assert _Calls().take([*begun, ToolCallEnd(0, whole=False)]) is None
    whole = _Calls().take([*begun, ToolCallArguments(0, '": 1}'), ToolCallEnd(0)])
    assert whole == ("", "", [{"function": {"name": "f", "arguments": {"city": 1}}}])


def test_formats(client):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }
    reply = client.chat(MODEL, QUESTION, format=schema, options={"seed": 1, "num_predict": 60, "temperature": 1})
    assert json.loads(reply.message.content)["n"] <= 99
    reply = client.generate(MODEL, "Say it as JSON.", format="json", options={"num_predict": 8, "temperature": 0})
    assert reply.response.startswith("{")


def test_tools(tool_server):
    def get_weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: its name
        """
        return "21 degrees"

    client = ollama.Client(tool_server.url)
    messages = [{"role": "user", "content": "How warm is it in Oslo?"}]
    reply = client.chat(
        "qwen2.5-coder-0.5b-q4_k_m", messages, tools=[get_weather], options={"temperature": 0, "num_predict": 50}
    )
    assert reply.message.content or reply.message.tool_calls
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    messages += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": "21 degrees"},
    ]
    reply = client.chat("qwen2.5-coder-0.5b-q4_k_m", messages, options={"temperature": 0, "num_predict": 50})
    assert "21" in reply.message.content


def test_embeddings_are_those_of_the_other_protocol(client, server):
    answer = client.embed(MODEL, ["The sky", "is blue."])
    others = server.http.post("/v1/embeddings", json={"input": ["The sky", "is blue."]}).json()["data"]
    assert [list(vector) for vector in answer.embeddings] == [other["embedding"] for other in others]
    assert answer.prompt_eval_count == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.chat("llama3", QUESTION), "model 'llama3': not served here; there are smollm2-135m-q4_1"),
        (lambda c: c.show("llama3"), "not served here"),
        (
            lambda c: c.chat(MODEL, QUESTION, options={"num_ctx": 9000}),
            "num_ctx: the model is served with a context of 8192 tokens, got 9000",
        ),
        (
            lambda c: c.chat(MODEL, QUESTION, options={"temperature": -1}),
            "options.temperature: Input should be greater than or equal to 0",
        ),
        (lambda c: c.generate(MODEL, "word " * 9000), "the context holds 8192"),
        (lambda c: c.embed(MODEL, "word " * 9000, truncate=True), "the context holds 8192"),
        (lambda c: c.generate(MODEL, "hi", template="{{ .Prompt }}"), "template: Input should be ''"),
        (lambda c: c.generate(MODEL, "hi", images=[b"png"]), "images: List should have at most 0 items"),
        (lambda c: c.pull("llama3"), "Not Found"),
        (lambda c: c.delete("smollm2-135m-q4_1"), "Not Found"),
    ],
)
def test_errors(client, call, message):
    with pytest.raises(ollama.ResponseError) as caught:
        call(client)
    assert message in caught.value.error
