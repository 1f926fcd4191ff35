"""OpenAI's own client, checking every answer against its types, against a server process."""

import json

import numpy
import openai
import pytest

QUESTION = [{"role": "user", "content": "Name three colours."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def client_of(server, strict=True):
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60, _strict_response_validation=strict
    )


@pytest.fixture(scope="module")
def client(server):
    return client_of(server)


@pytest.fixture(scope="module")
def tool_client(tool_server):
    return client_of(tool_server)


def chat(client, **options):
    return client.chat.completions.create(
        **{"model": "smollm2-135m-q4_1", "messages": QUESTION, "max_tokens": 12, "temperature": 0} | options
    )


def text_of(chunks, index=0):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index)


def test_models_say_what_they_are(client, server):
    server.wait_until(lambda: client.models.list().data[0].model_extra["sha256"])
    (model,) = client.models.list().data
    facts = model.model_extra
    assert model.id == "smollm2-135m-q4_1"
    assert facts["context"] == facts["max_model_len"] == 8192
    assert facts["quantization"]["ffn_down"] == {"Q4_1": 30}
    assert facts["licence"] == {"general.license": "apache-2.0"}
    assert facts["sha256"] == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError, match="model 'gpt-9': not served here; there are smollm2-135m-q4_1"):
        client.models.retrieve("gpt-9")


def test_a_reply_and_its_usage(client):
    reply = chat(client)
    choice = reply.choices[0]
    assert len(choice.message.content.split()) > 3
    assert choice.finish_reason == "length"
    assert choice.logprobs is None
    assert reply.usage.completion_tokens == 12
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 12
    assert chat(client).usage.prompt_tokens_details.cached_tokens >= reply.usage.prompt_tokens - 32


def test_a_stream_says_the_same(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == chat(client).choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in list(chat(client, stream=True)))


def test_seed_and_choices(client):
    options = {"temperature": 1.0, "seed": 7, "n": 3}
    texts = [choice.message.content for choice in chat(client, **options).choices]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in chat(client, **options).choices]
    chunks = list(chat(client, **options, stream=True))
    assert texts == [text_of(chunks, index) for index in range(3)]


def test_choices_share_the_prompt(client, server):
    before = server.metric("freehold_prefill_tokens_total")
    prompt = [{"role": "user", "content": "The choices of a request share its prompt. " * 12}]
    reply = chat(client, messages=prompt, n=4, temperature=1.0, max_tokens=2)
    assert server.metric("freehold_prefill_tokens_total") - before < 1.2 * reply.usage.prompt_tokens


def test_stop(client):
    whole = chat(client, max_tokens=40).choices[0].message.content
    stop = whole.split()[4]
    reply = chat(client, max_tokens=40, stop=[stop, "never"])
    assert reply.choices[0].message.content == whole[: whole.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    assert text_of(list(chat(client, max_tokens=40, stop=stop, stream=True))) == whole[: whole.index(stop)]


def test_logprobs(client):
    content = chat(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(content) == 12
    for entry in content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == entry.logprob  # greedy
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
    chunks = list(chat(client, logprobs=True, top_logprobs=3, stream=True))
    streamed = [e for chunk in chunks for c in chunk.choices if c.logprobs for e in c.logprobs.content]
    assert streamed == content


def test_logit_bias_and_penalties(client, server):
    first = chat(client, logprobs=True).choices[0].logprobs.content[0].token
    (token,) = server.http.post("/tokenize", json={"prompt": first}).json()["tokens"]
    assert chat(client, logprobs=True, logit_bias={str(token): -100}).choices[0].logprobs.content[0].token != first
    (comma,) = server.http.post("/tokenize", json={"prompt": ","}).json()["tokens"]
    assert chat(client, logit_bias={str(comma): 100}).choices[0].message.content == "," * 12
    repeated = chat(client, logit_bias={str(comma): 22}, max_tokens=30).choices[0].message.content
    spread = chat(client, logit_bias={str(comma): 22}, max_tokens=30, presence_penalty=2, frequency_penalty=2)
    assert spread.choices[0].message.content.count(",") < repeated.count(",")


def test_max_completion_tokens(client):
    reply = client.chat.completions.create(model="smollm2-135m-q4_1", messages=QUESTION, max_completion_tokens=3)
    assert reply.usage.completion_tokens == 3


def test_json_object_and_schema(client):
    schema = {
        "type": "object",
        "properties": {"colours": {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 3, "maxItems": 3}},
        "required": ["colours"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "json_schema": {"name": "colours", "schema": schema, "strict": True}}
    for seed in range(3):
        reply = chat(client, response_format=format, temperature=1.5, seed=seed, max_tokens=200)
        assert reply.choices[0].finish_reason == "stop"
        found = json.loads(reply.choices[0].message.content)
        assert len(found["colours"]) == 3 and set(found["colours"]) <= {"red", "blue"}
    reply = chat(client, response_format={"type": "json_object"}, max_tokens=300)
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content), dict)
    assert reply.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    ("format", "allowed"),
    [
        ({"type": "regex", "pattern": "[0-9]{3}-[0-9]{2}"}, r"\d{3}-\d{2}"),
        ({"type": "choice", "choices": ["yes", "no", "may.be"]}, r"yes|no|may\.be"),
        ({"type": "lark", "grammar": 'start: "a" ("b" | "c")+ "d"'}, r"a[bc]+d"),
    ],
)
def test_other_grammars(server, format, allowed):
    import re

    body = {"messages": QUESTION, "response_format": format, "temperature": 1.2, "max_tokens": 60, "seed": 3}
    reply = server.http.post("/v1/chat/completions", json=body).json()["choices"][0]
    text = reply["message"]["content"]
    assert re.fullmatch(allowed, text) or (reply["finish_reason"] == "length" and text.startswith("a"))


def test_parsed_answers_and_the_stream_helper(client):
    from pydantic import BaseModel

    class Answer(BaseModel):
        yes: bool

    reply = client.chat.completions.parse(
        model="smollm2-135m-q4_1", messages=QUESTION, response_format=Answer, max_tokens=30
    )
    assert isinstance(reply.choices[0].message.parsed, Answer)
    with client.chat.completions.stream(
        model="smollm2-135m-q4_1", messages=QUESTION, response_format=Answer, max_tokens=30
    ) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Answer)


# Tools.


def test_a_required_call_has_sound_arguments(tool_client):
    for seed in range(3):
        reply = chat(
            tool_client,
            model="qwen2.5-coder-0.5b-q4_k_m",
            messages=[{"role": "user", "content": "How warm is it in Oslo?"}],
            tools=[WEATHER],
            tool_choice="required",
            temperature=1.3,
            seed=seed,
            max_tokens=120,
            parallel_tool_calls=False,
        )
        choice = reply.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "get_weather"
        assert set(arguments) == {"city", "unit"} and arguments["unit"] in ("celsius", "fahrenheit")


def test_a_call_that_a_stop_string_cuts_short_is_not_said_to_be_whole(tool_client):
    messages = [{"role": "user", "content": "How warm is it in Oslo, in celsius?"}]
    options = {"model": "qwen2.5-coder-0.5b-q4_k_m", "tools": [WEATHER], "max_tokens": 100, "tool_choice": "required"}
    (choice,) = chat(tool_client, messages=messages, stop=["city"], **options).choices
    assert choice.message.tool_calls[-1].function.arguments == '{"'
    assert choice.finish_reason == "stop"


def test_calls_stream_by_fragments_and_go_on(tool_client):
    messages = [{"role": "user", "content": "How warm is it in Oslo, in celsius? Use the tool."}]
    options = {"model": "qwen2.5-coder-0.5b-q4_k_m", "tools": [WEATHER], "max_tokens": 120}
    named = {"type": "function", "function": {"name": "get_weather"}}
    fragments, call = [], None
    for chunk in chat(tool_client, messages=messages, tool_choice=named, stream=True, **options):
        for part in chunk.choices[0].delta.tool_calls or ():
            call = call or part
            fragments.append(part.function.arguments)
        finish = chunk.choices[0].finish_reason
    assert finish == "tool_calls"
    assert call.id.startswith("call_") and call.function.name == "get_weather"
    assert len(fragments) > 3, "the arguments came in one piece"
    assert set(json.loads("".join(fragments))) == {"city", "unit"}
    function = {"name": "get_weather", "arguments": "".join(fragments)}
    messages += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'},
    ]
    reply = chat(tool_client, messages=messages, **options)
    assert "21" in reply.choices[0].message.content


def test_an_answer_of_a_schema_beside_tools(tool_client):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    reply = chat(
        tool_client,
        model="qwen2.5-coder-0.5b-q4_k_m",
        messages=[{"role": "user", "content": "How many legs has a cat? Say it as JSON."}],
        tools=[WEATHER],
        response_format={"type": "json_schema", "json_schema": {"name": "legs", "schema": schema}},
        max_tokens=60,
    )
    message = reply.choices[0].message
    assert message.tool_calls or "n" in json.loads(message.content)


# Completions.


def test_completions(client, server):
    options = {"model": "smollm2-135m-q4_1", "max_tokens": 8, "temperature": 0}
    one = client.completions.create(prompt="One, two, three,", **options)
    assert "four" in one.choices[0].text
    many = client.completions.create(prompt=["One, two, three,", "Red, green,"], n=2, **options)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.choices[0].text == many.choices[1].text == one.choices[0].text
    lax = client_of(server, strict=False)  # its types lack the null that a chunk's finish_reason is until the end
    chunks = list(lax.completions.create(prompt="One, two, three,", stream=True, **options))
    assert "".join(chunk.choices[0].text for chunk in chunks) == one.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_echo_with_logprobs_streams_the_same(server):
    client = client_of(server, strict=False)  # its types lack the null that is the first token's log-probability
    options = {"model": "smollm2-135m-q4_1", "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 2}
    whole = client.completions.create(prompt="The sky is blue", **options).choices[0]
    assert whole.text.startswith("The sky is blue")
    assert "".join(whole.logprobs.tokens) == whole.text
    assert whole.logprobs.token_logprobs[0] is None and whole.logprobs.top_logprobs[0] is None
    assert all(len(top) == 2 for top in whole.logprobs.top_logprobs[1:])
    starts = [whole.text[offset:] for offset in whole.logprobs.text_offset]
    assert all(start.startswith(token) for start, token in zip(starts, whole.logprobs.tokens, strict=True))
    chunks = list(client.completions.create(prompt="The sky is blue", stream=True, **options))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    rows = [row for chunk in chunks if (found := chunk.choices[0].logprobs) for row in found.token_logprobs]
    assert rows == whole.logprobs.token_logprobs
    offsets = [row for chunk in chunks if (found := chunk.choices[0].logprobs) for row in found.text_offset]
    assert offsets == whole.logprobs.text_offset


# Embeddings.


def test_embeddings(client, server):
    texts = ["The cat sat on the mat.", "A cat was sitting on a mat.", "Interest rates rose by a tenth."]
    answer = client.embeddings.create(model="smollm2-135m-q4_1", input=texts, encoding_format="float")
    assert answer.model_extra["pooling"] == "mean"
    cat, mat, rates = (numpy.array(item.embedding) for item in answer.data)
    assert cat.shape == (576,)
    assert abs(numpy.linalg.norm(cat) - 1) < 1e-6
    assert cat @ mat > cat @ rates
    assert answer.usage.prompt_tokens == sum(
        server.http.post("/tokenize", json={"prompt": text}).json()["count"] for text in texts
    )
    packed = client_of(server, strict=False).embeddings.create(model="smollm2-135m-q4_1", input=texts[0])
    assert packed.data[0].embedding == cat.tolist()  # sent as base64, which the client asks for and unpacks
    with pytest.raises(openai.BadRequestError, match="dimensions: this model has 576, got 64"):
        client.embeddings.create(model="smollm2-135m-q4_1", input="x", dimensions=64)
