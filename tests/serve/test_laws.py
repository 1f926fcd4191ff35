"""The laws through the server: the same request gives the same bytes alone and under load, cut up in any way."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

REQUESTS = [
    {"messages": [{"role": "user", "content": "Name three colours."}], "temperature": 0},
    {"messages": [{"role": "user", "content": "Write a haiku about rivers. " * 12}], "temperature": 1.1, "seed": 5},
    {"messages": [{"role": "user", "content": "Count to ten."}], "top_p": 0.8, "seed": 9, "presence_penalty": 0.7},
    {
        "messages": [{"role": "user", "content": "Say it as JSON."}],
        "seed": 2,
        "response_format": {"type": "json_object"},
    },
]


def ask(server, body, stream):
    """The reply: its text, tokens and log-probabilities as they were sent."""
    body = body | {"logprobs": True, "top_logprobs": 2, "max_tokens": 24, "stream": stream}
    answer = server.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    if not stream:
        choice = answer.json()["choices"][0]
        return choice["message"]["content"], choice["finish_reason"], json.dumps(choice["logprobs"]["content"])
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    choices = [event["choices"][0] for event in events if event["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    logprobs = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    return text, choices[-1]["finish_reason"], json.dumps(logprobs)


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_bytes_alone_and_under_load(server, stream):
    alone = [ask(server, body, stream) for body in REQUESTS]
    with ThreadPoolExecutor(16) as pool:
        others = [
            pool.submit(ask, server, {"messages": [{"role": "user", "content": f"Other {i}. " * i}]}, bool(i % 2))
            for i in range(12)
        ]
        loaded = list(pool.map(lambda body: ask(server, body, stream), REQUESTS))
        assert all(other.result()[0] is not None for other in others)
    assert loaded == alone


def test_the_same_bytes_from_each_protocol(server):
    tokens = server.http.post("/tokenize", json={"messages": REQUESTS[0]["messages"]}).json()["tokens"]
    chat = ask(server, REQUESTS[0], False)[0]
    completion = {"prompt": tokens, "max_tokens": 24, "temperature": 0}
    assert server.http.post("/v1/completions", json=completion).json()["choices"][0]["text"] == chat
    message = REQUESTS[0] | {"model": "smollm2-135m-q4_1", "max_tokens": 24}
    assert server.http.post("/v1/messages", json=message).json()["content"][0]["text"] == chat
    ollama = {"model": "smollm2-135m-q4_1", "messages": REQUESTS[0]["messages"], "stream": False}
    ollama["options"] = {"temperature": 0, "num_predict": 24}
    assert server.http.post("/api/chat", json=ollama).json()["message"]["content"] == chat
    response = {"input": "Name three colours.", "temperature": 0, "max_output_tokens": 24}
    found = server.http.post("/v1/responses", json=response).json()["output"]
    assert found[0]["content"][0]["text"] == chat
