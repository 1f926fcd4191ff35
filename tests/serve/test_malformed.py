"""Requests that are wrong, each in its own way: an answer that says where, never a 5xx, and nothing left behind."""

import gzip
import json
import socket

import pytest

USER = {"role": "user", "content": "Hi"}
CHAT = {"messages": [USER], "max_tokens": 2, "temperature": 0}
COMPLETION = {"prompt": "Hi", "max_tokens": 2, "temperature": 0}
MESSAGE = {"model": "smollm2-135m-q4_1", "messages": [USER], "max_tokens": 2}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
DEEP_SCHEMA = {}
for _ in range(80):
    DEEP_SCHEMA = {"items": DEEP_SCHEMA}

COSTLY = "start: A\nA: /(.*a.{50})/ & /(.*b.{50})/ & /(.*c.{60})/"  # an automaton of more states than there are atoms


def tool_result(content):
    return {"type": "tool_result", "tool_use_id": "a", "content": content}


def schema(value):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Numbers: out of range, no numbers, of the wrong type.
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"n": 17}, "n: Input should be less than or equal to 16"),
        ({"n": "2"}, "n: Input should be a valid integer"),
        ({"n": 1.5}, "n: Input should be a valid integer"),
        ({"n": True}, "n: Input should be a valid integer"),
        ({"n": 10**30}, "n: "),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": -1}, "max_tokens: "),
        ({"max_tokens": 2**31}, "max_tokens: Input should be less than 2147483648"),
        ({"max_tokens": 2**64}, "max_tokens: "),
        ({"max_tokens": "all"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": [2]}, "max_tokens: Input should be a valid integer"),
        ({"max_completion_tokens": 0}, "max_completion_tokens: "),
        ({"temperature": -0.1}, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": 101}, "temperature: Input should be less than or equal to 100"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"temperature": True}, "temperature: Input should be a valid number"),
        ({"top_p": -1}, "top_p: "),
        ({"top_p": 1.1}, "top_p: Input should be less than or equal to 1"),
        ({"top_k": -2}, "top_k: Input should be greater than or equal to -1"),
        ({"top_k": 1.5}, "top_k: Input should be a valid integer"),
        ({"min_p": 2}, "min_p: "),
        ({"repetition_penalty": 0}, "repetition_penalty: Input should be greater than or equal to 0.01"),
        ({"presence_penalty": 2.1}, "presence_penalty: Input should be less than or equal to 2"),
        ({"frequency_penalty": -2.1}, "frequency_penalty: "),
        ({"seed": 2**63}, "seed: "),
        ({"seed": "x"}, "seed: Input should be a valid integer"),
        ({"logprobs": 5}, "logprobs: Input should be a valid boolean"),
        ({"top_logprobs": 3}, "top_logprobs: needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: Input should be less than or equal to 20"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs: "),
        ({"logit_bias": {"1": 101}}, "logit_bias.1: Input should be less than or equal to 100"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x.[key]: String should match pattern"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1.[key]: "),
        ({"logit_bias": {"999999": 1}}, "logit_bias: token 999999 is not in the vocabulary of 49152"),
        ({"logit_bias": [1]}, "logit_bias: Input should be a valid dictionary"),
        # Texts and messages.
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": None}, "messages: Input should be a valid list"),
        ({"messages": "Hi"}, "messages: Input should be a valid list"),
        ({"messages": {"role": "user"}}, "messages: Input should be a valid list"),
        ({"messages": [USER, None]}, "messages.1: Input should be a valid dictionary"),
        ({"messages": [[]]}, "messages.0: Input should be a valid dictionary"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role: Field required"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages.0.role: Input should be 'system'"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content: parts of type 'text' are not supported"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "content: parts of type 'None'"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "parts of type 'input_audio'"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls.0.function: Field required"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "tokens; the context holds 8192"),
        ({"stop": 5}, "stop"),
        ({"stop": ["x"] * 17}, "List should have at most 16 items"),
        ({"stop": [None]}, "stop"),
        ({"model": 5}, "model: Input should be a valid string"),
        ({"model": "x" * 501}, "model: String should have at most 500 characters"),
        ({"model": "gpt-9"}, "model 'gpt-9': not served here; there are smollm2-135m-q4_1"),
        ({"model": "../../etc/passwd"}, "model '../../etc/passwd': not served here"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"stream_options": True}, "stream_options: Input should be a valid dictionary"),
        ({"modalities": ["audio"]}, "modalities.0: Input should be 'text'"),
        # Formats.
        ({"response_format": "json"}, "response_format: Input should be a valid dictionary"),
        ({"response_format": {}}, "response_format: type 'None' is unknown or lacks its schema"),
        ({"response_format": {"type": "yaml"}}, "response_format: type 'yaml' is unknown"),
        ({"response_format": {"type": "json_schema"}}, "response_format: type 'json_schema' is unknown or lacks its schema"),
        (schema([]), "response_format: "),
        (schema({"type": "wizard"}), "the grammar: Invalid type: wizard"),
        (schema({"$ref": "#/nowhere"}), "the grammar: Pointer '/nowhere' does not exist"),
        (schema({"$ref": "http://example.org/schema"}), "Default retriever does not fetch resources"),
        (schema({"type": "string", "pattern": "["}), "the grammar: regex parse error"),
        (schema({"enum": []}), "the grammar: Unsatisfiable schema"),
        (schema({"type": "integer", "minimum": 5, "maximum": 4}), "minimum (5) is greater than maximum (4)"),
        (schema(DEEP_SCHEMA), "the JSON schema: more than 64 levels deep"),
        (schema({"description": "x" * 300_000}), "the JSON schema: longer than 256 KiB"),
        ({"response_format": {"type": "regex", "pattern": "("}}, "the grammar: "),
        ({"response_format": {"type": "lark", "grammar": COSTLY}}, "the grammar: fuel exhausted"),
        ({"response_format": {"type": "regex"}}, "response_format: type 'regex' is unknown or lacks its schema"),
        ({"response_format": {"type": "lark", "grammar": "start: nowhere"}}, "the grammar: "),
        ({"response_format": {"type": "lark", "grammar": "x" * 300_000}}, "the grammar: longer than 256 KiB"),
        ({"response_format": {"type": "choice", "choices": []}}, "choice: expected 1 to 1000 texts"),
        ({"response_format": {"type": "choice", "choices": [1]}}, "choice: expected 1 to 1000 texts"),
        # Tools and reasoning.
        ({"tools": [{}]}, "tools.0.function: Field required"),
        ({"tools": [{"type": "web_search", "function": {"name": "f"}}]}, "tools.0.type: Input should be 'function'"),
        ({"tools": [TOOL] * 201}, "tools: List should have at most 200 items"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.function.name: "),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools.0.function.parameters: Value error, the arguments of a call are an object",
        ),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice: "),
        ({"tool_choice": "required"}, "tool_choice: there are no tools to choose from"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice: calls of this model or schema cannot be required"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort: Input should be 'none'"),
        ({"reasoning_budget": -1}, "reasoning_budget: "),
        ({"reasoning_effort": "none", "enable_thinking": True}, "one switches reasoning on, another off"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs: 'messages' cannot be set"),
    ],
)  # fmt: skip
def test_chat(server, change, message):
    answer = server.http.post("/v1/chat/completions", json=CHAT | change)
    assert answer.status_code == (404 if message.startswith("model '") else 400), answer.text
    error = answer.json()["error"]
    assert error["message"].startswith(message) or message in error["message"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert len(error["message"]) < 700


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/completions", COMPLETION | {"prompt": []}, "List should have at least 1 item"),
        ("/v1/completions", COMPLETION | {"prompt": ""}, "the prompt is empty: at least one token is needed"),
        ("/v1/completions", COMPLETION | {"prompt": [-1]}, "Input should be greater than or equal to 0"),
        ("/v1/completions", COMPLETION | {"prompt": [99999999]}, "prompt: token 99999999 is not in the vocabulary"),
        ("/v1/completions", COMPLETION | {"prompt": [1, "a"]}, "prompt"),
        ("/v1/completions", COMPLETION | {"prompt": [[]]}, "the prompt is empty"),
        ("/v1/completions", COMPLETION | {"prompt": ["a"] * 257}, "prompt"),
        ("/v1/completions", COMPLETION | {"max_tokens": 0}, "max_tokens: 0 needs echo and logprobs"),
        ("/v1/completions", COMPLETION | {"logprobs": 21}, "logprobs: Input should be less than or equal to 20"),
        ("/v1/completions", COMPLETION | {"best_of": 3}, "best_of: Input should be 1"),
        ("/v1/completions", COMPLETION | {"suffix": "x"}, "suffix: Input should be None"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": ""}, "the prompt is empty"),
        ("/v1/embeddings", {"input": "x", "encoding_format": "int8"}, "encoding_format: Input should be 'float' or 'base64'"),
        ("/tokenize", {}, "expected either prompt or messages"),
        ("/tokenize", {"prompt": "x", "messages": [USER]}, "expected either prompt or messages"),
        ("/detokenize", {"tokens": [10**8]}, "tokens: expected ids below 49152"),
        ("/v1/messages", MESSAGE | {"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ("/v1/messages", {"messages": [USER], "max_tokens": 2}, "model: Field required"),
        ("/v1/messages", MESSAGE | {"tool_choice": {"type": "tool"}}, "tool_choice: type tool needs a name"),
        ("/v1/messages", MESSAGE | {"tool_choice": {"type": "any"}}, "tool_choice: there are no tools to choose from"),
        ("/v1/messages", MESSAGE | {"messages": [{"role": "user", "content": [tool_result({"a": 1})]}]}, "content: expected a text"),
        ("/v1/messages", MESSAGE | {"messages": [{"role": "user", "content": [tool_result(["a"])]}]}, "content: expected a text"),
        ("/v1/responses", {"input": [{"role": "user", "content": 5}]}, "content: expected a text, or a list of parts"),
        ("/v1/responses", {"input": [{"role": "user", "content": ["Hi"]}]}, "content: expected a text, or a list of parts"),
        ("/v1/responses", {"input": [{"type": "function_call_output", "call_id": "a", "output": {}}]}, "content: expected a text"),
        ("/v1/responses", {"input": "Hi", "tool_choice": "required"}, "tool_choice: there are no tools to choose from"),
        ("/v1/responses", {"input": "Hi", "conversation": "conv_1"}, "conversation: Input should be None"),
        ("/v1/messages", MESSAGE | {"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens: "),
        ("/api/chat", {"model": "smollm2-135m-q4_1", "messages": [{"role": "x"}]}, "messages.0.role: "),
        ("/api/generate", {"model": "smollm2-135m-q4_1", "options": {"top_k": -5}}, "options.top_k: "),
    ],
)  # fmt: skip
def test_other_endpoints(server, path, body, message):
    answer = server.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in (error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: Field required"),
        (b"{", "body: not valid JSON"),
        (b"[]", "body: Input should be a valid dictionary"),
        (b"null", "body: Input should be a valid dictionary"),
        (b'"text"', "body: Input should be a valid dictionary"),
        (b"\xff\xfe{}", "body: not valid JSON"),
        (b'{"messages":' + b"[" * 100_000, "body: more than 100 levels deep"),
        (b'{"messages":' + b"[" * 200 + b"]" * 200 + b"}", "body: more than 100 levels deep"),
        (b'{"temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', "NaN is not a JSON number"),
        (b'{"temperature": -Infinity, "messages": []}', "-Infinity is not a JSON number"),
        (b'{"temperature": 1e309, "messages": []}', "1e309 is too large a number"),
        (b'{"seed": ' + b"9" * 5000 + b', "messages": []}', "body: not valid JSON"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "half of a surrogate pair is no text"),
        (b'{"messages": [{"role": "user", "content": "x"}],}', "body: not valid JSON"),
        (b"messages=Hi", "body: not valid JSON"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_bodies(server, body, message, stream):
    content = iter([body[:5], body[5:]]) if stream else body
    answer = server.http.post("/v1/chat/completions", content=content)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


def test_a_body_may_be_called_anything(server):
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8", "x"):
        answer = server.http.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": kind})
        assert answer.status_code == 200


def test_a_compressed_body_is_refused_for_what_it_is(server):
    content = gzip.compress(json.dumps(CHAT).encode())
    answer = server.http.post("/v1/chat/completions", content=content, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert answer.json()["error"]["message"] == "content-encoding 'gzip': send the body as it is"


def test_thoughts_that_are_sent_back_are_read_leniently(server):
    body = {"input": [{"type": "reasoning", "content": 5}, USER], "max_output_tokens": 2}
    assert server.http.post("/v1/responses", json=body).status_code == 200


def test_sizes_are_capped(server):
    large = json.dumps(CHAT | {"user": "x" * (17 << 20)}).encode()
    for content in (large, iter([large[: 1 << 20], large[1 << 20 :]])):
        answer = server.http.post("/v1/chat/completions", content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["message"] == "the request's body is larger than 16777216 bytes"


def test_methods_and_paths(server):
    answer = server.http.get("/v1/chat/completions")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    assert answer.json()["error"]["message"] == "Method Not Allowed"
    for path in ("/v1/nothing", "/v1/models/../../etc/passwd", "/%00", "/api/pull"):
        assert server.http.get(path).status_code in (404, 405)


RAW = [
    b"nonsense\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("data", RAW, ids=range(len(RAW)))
def test_what_is_not_http(server, data):
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096)
    assert not answer or answer.split(b" ")[1][:1] == b"4" or b" 200 " in answer[:20]
    assert server.http.get("/health").status_code == 200


def test_a_header_that_does_not_end_holds_up_nobody(server):
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        assert server.http.get("/health").status_code == 200


def test_nothing_is_left_behind(server):
    """After all of that."""
    server.wait_until(lambda: not server.metric("vllm:num_requests_running"))
    assert not server.metric("vllm:num_requests_waiting")
    assert server.metric("vllm:kv_cache_usage_perc") == 0
    assert server.http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert not [line for line in server.log if "Traceback" in line]
    assert not [line for line in server.events("a request failed")]
