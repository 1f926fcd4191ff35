"""Clients that vanish or dawdle, files that shrink, disks that fill up, processes that die."""

import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from server_process import Server

CHAT = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 8, "temperature": 0}
LONG = CHAT | {"max_tokens": 4000, "ignore_eos": True, "stream": True}


def open_stream(server, body=LONG, receive_buffer=None):
    """A connection on which a streaming request has been sent; nothing is read yet."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", server.port))
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def running(server):
    return server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting")


def wait_idle(server, within_s):
    began = time.monotonic()
    server.wait_until(lambda: not running(server), timeout_s=30)
    return time.monotonic() - began < within_s


@pytest.fixture(scope="module")
def own(smollm):
    """A server that nobody else asks."""
    with Server(smollm) as server:
        yield server


def test_vanished_clients_free_their_slots(own):
    connections = [open_stream(own) for _ in range(40)]
    for connection in connections[:20]:
        connection.recv(200)
    own.wait_until(lambda: running(own) == 40)
    for i, connection in enumerate(connections):
        if i % 2:  # half of them hard
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()
    assert wait_idle(own, within_s=10)  # a second on a machine that is idle
    assert own.metric("vllm:kv_cache_usage_perc") == 0
    assert own.http.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_a_client_that_vanishes_before_its_answer_begins(own):
    waiting = CHAT | {"messages": [{"role": "user", "content": "word " * 4000}], "max_tokens": 500}
    for stream in (False, True):
        connection = open_stream(own, waiting | {"stream": stream})
        own.wait_until(lambda: running(own))
        connection.close()
        assert wait_idle(own, within_s=10)


def test_a_reader_that_dawdles_is_cut_off_and_holds_up_nobody(own):
    connection = open_stream(own, LONG | {"logprobs": True, "top_logprobs": 20, "max_tokens": 8000}, 4096)
    own.wait_until(lambda: running(own))
    began = time.monotonic()
    while running(own) and time.monotonic() - began < 40:
        connection.recv(1)  # a byte at a time
        assert own.http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 1}).status_code == 200
        time.sleep(0.1)
    assert own.events("a slow reader is cut off")
    assert own.metric("freehold_replies_total", reason="cancelled") >= 1
    connection.close()


def test_stop_lets_running_replies_end_and_takes_no_more(smollm):
    with Server(smollm, "--drain", 60) as server:
        reply = {}
        body = CHAT | {"max_tokens": 300, "ignore_eos": True}
        asking = threading.Thread(
            target=lambda: reply.update(server.http.post("/v1/chat/completions", json=body).json())
        )
        asking.start()
        server.wait_until(lambda: running(server))
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: server.events("draining"))
        refused = server.http.post("/v1/chat/completions", json=CHAT)
        not_ready = server.http.get("/ready")
        asking.join(60)
        for answer in (refused, not_ready):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert answer.json()["error"]["message"] == "the server is stopping"
        assert reply["usage"]["completion_tokens"] == 300
        assert server.process.wait(30) == 0


def test_replies_that_do_not_end_in_time_say_so(smollm):
    with Server(smollm, "--drain", 0) as server:
        connection = open_stream(server)
        server.wait_until(lambda: running(server))
        server.process.send_signal(signal.SIGTERM)
        data = b""
        while part := connection.recv(65536):
            data += part
        assert b"the server is stopping: the reply is not whole" in data
        assert server.process.wait(30) == 0


def test_killed_and_started_again(smollm):
    with Server(smollm) as server:
        port = server.port
        connection = open_stream(server)
        connection.recv(100)
        server.process.kill()
        assert server.process.wait(10) == -signal.SIGKILL
    with Server(smollm, "--port", port) as server:
        assert server.port == port
        assert server.http.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_a_model_file_cut_short_under_the_server(smollm, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(smollm.read_bytes())
    with Server(path) as server:
        assert server.http.post("/v1/chat/completions", json=CHAT).status_code == 200
        with path.open("r+b") as file:
            file.truncate(4 << 20)
        statuses = set()
        for i in range(3):
            body = CHAT | {"messages": [{"role": "user", "content": f"{i} zebra quartz 東京 {i * 7919}"}]}
            answer = server.http.post("/v1/chat/completions", json=body)
            statuses.add(answer.status_code)
            if answer.status_code != 200:
                assert "model.gguf" in answer.json()["error"]["message"], answer.text
        assert statuses <= {200, 400, 500} and statuses != {200}
        assert server.http.get("/health").status_code == 200


def test_a_full_disk_under_the_log(smollm, tmp_path):
    """The log goes to a file that may not grow: what it cannot take is lost, and nothing else."""
    log = tmp_path / "log"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    with log.open("w") as file:
        code = [sys.executable, "-c", "import sys; from freehold.cli import main; sys.argv[0] = 'freehold'; main()"]
        command = [*code, "serve", str(smollm), "--port", "0"]
        process = subprocess.Popen(command, stderr=file, preexec_fn=limit)
        try:
            end = time.monotonic() + 60
            while "Freehold is at" not in log.read_text():
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.05)
            import httpx

            url = log.read_text().split("Freehold is at ")[1].split()[0]
            with httpx.Client(base_url=url, timeout=60) as http:
                while http.get("/ready").status_code != 200:
                    time.sleep(0.05)
                for _ in range(20):
                    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
            assert log.stat().st_size <= 600
        finally:
            process.terminate()
            assert process.wait(30) == 0
