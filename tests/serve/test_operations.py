"""What those ask who run the server: health, figures, logs, tokens, and how it is told what to do."""

import subprocess

import pytest
from server_process import FREEHOLD, Server

from freehold.cli import main

CHAT = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 6, "temperature": 0}


def test_health_and_readiness(server):
    assert server.http.get("/health").json() == {"status": "ok"}
    assert server.http.get("/ready").json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/api/version", "/metrics"])
def test_head_is_answered_as_get_is(server, path):
    answer = server.http.head(path)
    assert answer.status_code == 200 and not answer.content


def test_models_with_a_slash_at_the_end(server):
    assert server.http.get("/v1/models/").json()["object"] == "list"


def test_not_ready_while_loading(smollm):
    with Server(smollm, wait=False) as server:
        answers = {}
        server.wait_until(
            lambda: answers.setdefault((a := server.http.get("/ready")).status_code, a) and 200 in answers
        )
        assert server.http.get("/health").status_code == 200
        if 503 in answers:
            assert answers[503].headers["retry-after"] == "1"
            assert answers[503].json()["error"]["message"] == "the model is being loaded"


def test_metrics(server):
    names = {"path": "/v1/chat/completions", "status": "200"}
    before = {
        "answered": server.metric("freehold_requests_total", **names),
        "first": server.metric("freehold_time_to_first_token_seconds_count"),
        "between": server.metric("freehold_time_between_tokens_seconds_count"),
        "decoded": server.metric("freehold_decode_tokens_total"),
        "length": server.metric("freehold_replies_total", reason="length"),
        "hits": server.metric("freehold_prefix_cache_hit_tokens_total"),
    }
    for _ in range(2):
        assert server.http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert server.metric("freehold_requests_total", **names) == before["answered"] + 2
    assert server.metric("freehold_time_to_first_token_seconds_count") == before["first"] + 2
    assert before["between"] < server.metric("freehold_time_between_tokens_seconds_count") <= before["between"] + 10
    assert server.metric("freehold_decode_tokens_total") == before["decoded"] + 10
    assert server.metric("freehold_replies_total", reason="length") == before["length"] + 2
    assert server.metric("freehold_prefix_cache_hit_tokens_total") > before["hits"]
    text = server.http.get("/metrics").text
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        assert f'\n{name}{{model="smollm2-135m-q4_1"}} ' in text
    server.http.get("/made/up")
    assert "/made/up" not in server.http.get("/metrics").text


def test_the_log_tells_of_a_request_but_not_its_text(server):
    answer = server.http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    server.wait_until(lambda: [line for line in server.events("request") if line["id"] == "mine-1"])
    (line,) = [line for line in server.events("request") if line["id"] == "mine-1"]
    assert line["path"] == "/v1/chat/completions" and line["status"] == 200 and line["level"] == "info"
    assert line["prompt_tokens"] > 10 and line["reply_tokens"] == 6 and line["end"] == "length"
    assert not any("colours" in line for line in server.log)
    forged = server.http.get("/health", headers={"x-request-id": "a" * 200}).headers["x-request-id"]
    assert len(forged) == 24


def test_fields_that_nobody_reads_are_named(server):
    body = CHAT | {"user": "me", "sampling_mood": 1, "bad name": 1}
    for stream in (False, True):
        answer = server.http.post("/v1/chat/completions", json=body | {"stream": stream})
        assert answer.headers["x-ignored-fields"] == "user, sampling_mood"
    assert "x-ignored-fields" not in server.http.post("/v1/chat/completions", json=CHAT).headers


def test_tokens(server):
    found = server.http.post("/tokenize", json={"prompt": "Hello, world!"}).json()
    assert found == {"tokens": [19556, 28, 905, 17], "count": 4, "max_model_len": 8192}
    assert server.http.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": "Hello, world!"}
    chat = server.http.post("/tokenize", json={"messages": CHAT["messages"]}).json()
    usage = server.http.post("/v1/chat/completions", json=CHAT).json()["usage"]
    assert chat["count"] == usage["prompt_tokens"]


def test_a_full_queue_says_when_to_come_back(smollm):
    from concurrent.futures import ThreadPoolExecutor

    with Server(smollm, "--max-waiting", 1) as server, ThreadPoolExecutor(8) as pool:
        body = {"prompt": ["word " * 300] * 60, "max_tokens": 50, "temperature": 0}
        answers = list(pool.map(lambda _: server.http.post("/v1/completions", json=body), range(3)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].json()["error"]["message"] == "the queue is full: 1 requests wait already"
        server.wait_until(lambda: not server.metric("vllm:num_requests_running"))
        assert server.http.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_texts_are_logged_when_that_is_asked_for(smollm):
    with Server(smollm, "--log-prompts") as server:
        reply = server.http.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]["content"]
        server.wait_until(lambda: server.events("reply"))
        assert "Name three colours." in server.events("prompt")[0]["text"]
        assert server.events("reply")[0]["text"] == reply


def test_a_config_file_and_the_environment_say_what_flags_say(smollm, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text(
        f'models = ["{smollm}"]\nmax-waiting = 3\ncontext = 512\napi-key = "key-of-the-file"\nlog_level = "debug"\n'
    )
    with Server("--config", config, env={"FREEHOLD_CONTEXT": "256"}) as server:
        key = {"x-api-key": "key-of-the-file"}
        assert server.http.get("/v1/models").status_code == 401
        (model,) = server.http.get("/v1/models", headers=key).json()["data"]
        assert model["context"] == 256  # the environment goes before the file
        long = {"prompt": "word " * 400, "max_tokens": 1}
        answer = server.http.post("/v1/completions", json=long, headers=key)
        assert answer.json()["error"]["message"] == "the prompt has 401 tokens; the context holds 256"
        assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_every_flag_can_be_said_by_the_environment():
    from freehold.cli.serve import command

    for parameter in command.params:
        assert parameter.envvar == "FREEHOLD_" + parameter.name.upper(), parameter.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0: others could use the model without a key"),
        (("--host", "0.0.0.0", "--api-key", "short"), "--api-key: expected at least 8 printable ASCII characters"),
        (("--api-key", "a-good-key", "--admin-key", "a-good-key"), "--admin-key: expected another key"),
        (("--api-key", "a-good-key", "--origin", "*"), "--origin *: any page could use a key that it learns"),
        (("--api-key-file", "{missing}"), "No such file"),
        (("--tls-certificate", "{text}"), "TLS: a certificate and its key are needed"),
        (("--tls-certificate", "{text}", "--tls-key", "{text}"), "TLS: "),
        (("--host", "203.0.113.77", "--api-key", "a-good-key"), "--host 203.0.113.77 --port 0: "),
        (("--host", "no.such.host.invalid", "--api-key", "a-good-key"), "--host no.such.host.invalid --port 0: "),
        (("--config", "{missing}"), "No such file"),
        (("--config", "{text}"), "--config "),
        (("--config", "{unknown}"), "'modles' is unknown"),
        (("--config", "{nested}"), "port: expected one value"),
        (("--config", "{wrong}"), "'eighty' is not a valid integer"),
        (("--config", "{fraction}"), "'80.5' is not a valid integer"),
        (("--config", "{truth}"), "'True' is not a valid integer"),
        (("--memory", "nan"), "'nan' is not a finite number"),
        (("--memory", "inf"), "'inf' is not a finite number"),
        (("--drain", "nan"), "'nan' is not a finite number"),
        (("--api-key-file", "{blank}"), "holds no key"),
        (("--host", "x" * 300, "--api-key", "a-good-key"), "--port 0: not the name of a host"),
        (("--max-waiting", "0"), "0 is not in the range"),
        (("--memory", "0"), "0.0 is not in the range"),
        (("no-such-model",), "neither a file, a folder nor a model in the catalogue"),
        (("{model}", "{model}"), "two models of one name"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, smollm, tmp_path, capsys, monkeypatch):
    files = {"text": "hello [", "unknown": 'modles = ["x"]', "nested": "port = [80]", "wrong": 'max-waiting = "eighty"'}
    files |= {"fraction": "max-waiting = 80.5", "truth": "threads = true", "blank": "\n \n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    names = {name: tmp_path / name for name in (*files, "missing")} | {"model": smollm}
    own = [smollm] if arguments[0].startswith("-") else []
    given = [*own, *(argument.format(**names) for argument in arguments), "--port", 0]
    monkeypatch.setattr("sys.argv", ["freehold", "serve", *map(str, given)])
    with pytest.raises(SystemExit, match="2"):
        main()
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("error: ") and message in errors[0]
    assert len(errors) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{model}", "--memory", "0.05"), "needs 0.31 GB of memory, 0.05 GB are available"),
        (("{text}",), "not a GGUF file"),
        (("{model}", "--quantize", "q8_0"), "quantize: the weights are quantized already (Q4_1, Q8_0)"),
    ],
)
def test_a_model_that_cannot_be_loaded_ends_the_server(arguments, message, smollm, tmp_path):
    (tmp_path / "text").write_text("hello [")
    given = [argument.format(model=smollm, text=tmp_path / "text") for argument in arguments]
    done = subprocess.run([FREEHOLD, "serve", *given, "--port", "0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in done.stderr


def test_an_address_in_use(server, smollm):
    done = subprocess.run(
        [FREEHOLD, "serve", smollm, "--port", str(server.port)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert f"--port {server.port}: Address already in use" in done.stderr
