"""Freehold's server beside llama.cpp's: the same file, prompts and answers, runs interleaved, medians and spread.

    python benchmarks/serving.py [--model smollm2-135m-q4_1] [--clients 1,4,16,32] [--repeats 5] [--write]

Prompts of 256 tokens that share their first 128, answers of 64, each client asking anew when its answer has ended. The
peers are `python -m llama_cpp.server` (of the venv that peers.py makes; it answers one request after the other, so that
more than 4 clients only wait longer) and llama.cpp's native server from xllamacpp's wheel, with a slot for each client.
The time between tokens is compared with the peer's that serves most: who serves one after the other has none to speak
of. Beside them, at 16 clients: Freehold's engine alone, asked by token ids in its own process (what HTTP costs, less
the processor time that the clients take from the same cores), and answers that keep to a JSON schema (what constrained
decoding costs). The last line is JSON; --write renews the model's sections in RESULTS.md.
"""

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from clients import ClientError, ask_all
from models import MODELS, model_path, sha256
from peers import (
    FREEHOLD,
    MIN_REPEATS,
    WORK,
    WORKERS,
    PeerError,
    Worker,
    doctor,
    install,
    installed_versions,
    python,
    stolen_s,
)
from report import machine, number, renew, where

from freehold.text.tokenizer import Tokenizer
from freehold.weights.gguf import open_gguf

PROMPT, SHARED, ANSWER = 256, 128, 64  # tokens
CONTEXT = 512  # of a peer's slot
OURS, PYTHON, NATIVE = "freehold", "llama_cpp.server", "llama.cpp (xllamacpp)"
BASE = 16  # clients at which HTTP and constraints are measured
COST_ROUNDS = 6  # requests of each of them in a run: a run's beginning and end vary more than what is looked for
MAX_HTTP_COST, MAX_CONSTRAINT_COST = 0.05, 0.10
REQUIRED = {"throughput": {True: 5.0, False: 2.5}, "to first": 0.5, "between": 1.0}  # at BASE; with AMX or without
SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 600}},
    "required": ["text"],
    "additionalProperties": False,
}


@dataclass
class Server:
    """A server's process; started when it is first asked."""

    name: str
    command: object  # port -> command
    extra: dict = field(default_factory=dict)  # of each request
    max_clients: int | None = None  # that it is measured with
    process: subprocess.Popen | None = None
    port: int = 0

    def start(self):
        if self.process is None:
            self.port = _free_port()
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(self.command(self.port), **pipes)
            self._wait()
        return self

    def _wait(self):
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=5) as answer:
                    if json.load(answer)["data"] and self._answers():
                        return
            except (OSError, urllib.error.URLError, ValueError, KeyError):
                pass
            time.sleep(0.2)
        raise PeerError(f"{self.name} did not start")

    def _answers(self):
        body = {"prompt": "Hi", "max_tokens": 1, "stream": True} | self.extra
        try:
            ask_all(self.port, [body], 1)
        except ClientError:
            return False  # it is loading still
        return True

    def stop(self):
        if self.process:
            self.process.stdin.close()
            self.process.terminate()
            self.process.wait()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def servers_for(path, clients, eos_ids):
    no_end, slots = {str(token): -100 for token in eos_ids}, max(clients, default=BASE)
    native = [python("xllama"), WORKERS / "xllama_server.py", path]
    flags = ["--n_ctx", CONTEXT, "--n_threads", 2, "--n_threads_batch", 2, "--interrupt_requests", "false"]
    old = [python("llama"), "-m", "llama_cpp.server", "--model", path, *flags]
    ours = [FREEHOLD, "serve", path, "--threads", 2, "--log-level", "warning"]
    return [
        Server(OURS, lambda port: [*map(str, [*ours, "--port", port])], {"ignore_eos": True}),
        Server(NATIVE, lambda port: [*map(str, [*native, port, slots, CONTEXT])], {"ignore_eos": True}),
        Server(PYTHON, lambda port: [*map(str, [*old, "--port", port])], {"logit_bias": no_end}, 4),
    ]


class Prompts:
    """Texts of single-token words, so that every server reads the same tokens of them."""

    def __init__(self, tokenizer):
        pieces = [tokenizer.token_text(token) for token in range(tokenizer.vocab_size)]
        words = [piece[1:] for piece in pieces if piece[:1] == "Ġ" and piece[1:].isascii() and piece[1:].isalpha()]
        self._words = [word for word in words if 3 <= len(word) <= 8 and word.islower()]
        self._encode = tokenizer.encode

    def make(self, count, seed):
        draw = random.Random(seed)
        shared = self._text(draw, SHARED)
        return [self._checked(shared + self._text(draw, PROMPT - SHARED)) for _ in range(count)]

    def tokens(self, count, seed):
        return [self._encode(text) for text in self.make(count, seed)]

    def _text(self, draw, count):
        return "".join(f" {draw.choice(self._words)}" for _ in range(count))

    def _checked(self, text):
        found = len(self._encode(text))
        if found != PROMPT:
            raise SystemExit(f"a prompt has {found} tokens instead of {PROMPT}")
        return text


def run_server(server, prompts, clients, seed, rounds=2, more=None):
    """Figures of one run: so many requests of each client."""
    extra = {"max_tokens": ANSWER, "temperature": 0, "stream": True} | server.extra | (more or {})
    bodies = [{"prompt": text} | extra for text in prompts.make(num_requests(clients, rounds), seed)]
    port, began = server.start().port, time.process_time()
    replies, seconds = ask_all(port, bodies, clients)
    processor_s = time.process_time() - began
    gaps = [gap for reply in replies for gap in reply.gaps]
    return {
        "throughput": len(replies) * ANSWER / seconds,
        "to first": statistics.median(reply.seconds_to_first for reply in replies),
        "between": statistics.quantiles(gaps, n=20)[-1],
        "clients' share": processor_s / seconds / os.cpu_count(),
    }


def run_engine(worker, prompts, clients, seed, rounds):
    tokens = prompts.tokens(num_requests(clients, rounds), seed)
    reply = worker.ask({"prompts": tokens, "max_tokens": ANSWER, "num_clients": clients})
    if set(reply["counts"]) != {ANSWER}:
        raise PeerError("the engine's answers are not whole")
    return {"throughput": len(tokens) * ANSWER / reply["seconds"]}


def num_requests(clients, rounds):
    return max(4, rounds * clients)


def interleaved(runs, repeats):
    """{name: {figure: [values]}} of `runs`, {name: seed -> figures}, which take turns; the first of each is warm-up."""
    order, found = list(runs), {name: {} for name in runs}
    for repeat in range(repeats + 1):
        for name in order:
            figures = runs[name](repeat)
            for figure, value in figures.items() if repeat else ():
                found[name].setdefault(figure, []).append(value)
        order = order[1:] + order[:1]
    return found


def summary(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def measure(path, client_counts, repeats):
    tokenizer = Tokenizer.from_gguf(open_gguf(path).metadata)
    prompts = Prompts(tokenizer)
    servers = servers_for(path, client_counts, tokenizer.eos_ids)
    rows, stolen, began = {}, stolen_s(), time.perf_counter()
    try:
        for clients in client_counts:
            runs = {
                server.name: lambda seed, s=server, n=clients: run_server(s, prompts, n, f"{n} {seed}")
                for server in servers
                if clients <= (server.max_clients or clients)
            }
            figures = interleaved(runs, repeats)
            rows[clients] = {
                name: {figure: summary(values) for figure, values in f.items()} for name, f in figures.items()
            }
            print(f"  {clients} clients: {line_of(rows[clients])}", flush=True)
        costs = measure_costs(path, servers[0], prompts, repeats)
    finally:
        for server in servers:
            server.stop()
    stolen = (stolen_s() - stolen) / (time.perf_counter() - began) / os.cpu_count()
    return {"rows": rows, "costs": costs, "stolen": stolen}


def measure_costs(path, server, prompts, repeats):
    """Shares of throughput at BASE clients that HTTP and constraints take."""
    worker = Worker([python("freehold"), WORKERS / "engine_worker.py", path])
    format = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
    runs = {
        "engine alone": lambda seed: run_engine(worker, prompts, BASE, f"cost {seed}", COST_ROUNDS),
        "server": lambda seed: run_server(server, prompts, BASE, f"cost {seed}", COST_ROUNDS),
        "constrained": lambda seed: run_server(server, prompts, BASE, f"constrained {seed}", COST_ROUNDS, format),
    }
    figures = interleaved(runs, 2 * repeats)
    worker.close()
    found = {name: summary(values["throughput"]) for name, values in figures.items()}
    medians = {name: values["median"] for name, values in found.items()}
    clients = statistics.median(figures["server"]["clients' share"])
    http = 1 - medians["server"] / medians["engine alone"] - clients
    constraint = 1 - medians["constrained"] / medians["server"]
    costs = {"throughput": found, "http": http, "clients": clients, "constraint": constraint}
    print(f"  at {BASE} clients HTTP takes {http:.1%}, the clients themselves {clients:.1%}", flush=True)
    print(f"  a JSON schema takes {constraint:.1%}", flush=True)
    return costs


def line_of(row):
    return "; ".join(
        f"{name} {number(f['throughput']['median'])} tok/s, first {f['to first']['median']:.2f} s, "
        f"p95 between {f['between']['median'] * 1000:.0f} ms"
        for name, f in row.items()
    )


def section(result, facts, mark):
    amx = facts["instruction_set"] == "amx"
    lines = [
        *(f"## Serving {result['model']}, {facts['instruction_set']}", ""),
        where(facts),
        f"sha256 `{result['sha256']}`. Prompts of {PROMPT} tokens that share {SHARED}, answers of {ANSWER}.",
        f"{result['stolen']:.0%} of the cores' time was taken by the host.",
        "",
        "| clients | figure | freehold | peers | ratio | required | reached |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for clients, row in result["rows"].items():
        for figure in REQUIRED:
            lines.append(_line(clients, figure, row, amx))
    return "\n".join([f"<!-- begin {mark} -->", *lines, f"<!-- end {mark} -->"])


def costs_section(result, facts, mark):
    costs, limits = result["costs"], {"http": MAX_HTTP_COST, "constraint": MAX_CONSTRAINT_COST}
    rates = [
        f"{name} {number(f['median'])} ({number(f['low'])} to {number(f['high'])})"
        for name, f in costs["throughput"].items()
    ]
    cells = [
        f"{costs[name]:.1%} | < {limit:.0%} | {'yes' if costs[name] < limit else 'no'}"
        for name, limit in limits.items()
    ]
    lines = [
        *(f"## What serving {result['model']} costs, {facts['instruction_set']}", ""),
        where(facts),
        f"At {BASE} clients, tokens a second: {', '.join(rates)}. The clients' own processor time,",
        f"{costs['clients']:.1%} of the cores, is not counted to HTTP.",
        "",
        "| what | of the throughput | required | reached |",
        "| --- | --- | --- | --- |",
        f"| HTTP | {cells[0]} |",
        f"| a JSON schema | {cells[1]} |",
    ]
    return "\n".join([f"<!-- begin {mark} -->", *lines, f"<!-- end {mark} -->"])


def _line(clients, figure, row, amx):
    unit, scale = {"throughput": ("tok/s", 1), "to first": ("s", 1), "between": ("ms", 1000)}[figure]
    better = max if figure == "throughput" else min

    def cell(figures):
        median, low, high = (number(scale * figures[figure][key]) for key in ("median", "low", "high"))
        return f"{median} ({low} to {high})"

    peers = [name for name in row if name != OURS]
    if figure == "between":
        peers = [max(peers, key=lambda name: row[name]["throughput"]["median"])]
    ratio = row[OURS][figure]["median"] / better(row[name][figure]["median"] for name in peers)
    required = REQUIRED[figure][amx] if figure == "throughput" else REQUIRED[figure]
    asked = clients == BASE or figure != "throughput"
    reached = "" if not asked else "yes" if better(ratio, required) == ratio else "no"
    title = {"throughput": "throughput", "to first": "time to first token", "between": "p95 between tokens"}[figure]
    others = "<br>".join(f"{name} {cell(figures)}" for name, figures in row.items() if name != OURS)
    wanted = f"{'≥' if better is max else '≤'} {required:g}" if asked else "–"
    cells = (clients, f"{title}, {unit}", cell(row[OURS]), others, f"{ratio:.2f}", wanted, reached)
    return f"| {' | '.join(map(str, cells))} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-q4_1", choices=MODELS)
    parser.add_argument("--clients", default="1,4,16,32", help="'' for the costs of HTTP and constraints alone")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each server")
    parser.add_argument("--write", action="store_true", help="renew RESULTS.md")
    options = parser.parse_args()
    if options.write and options.repeats < MIN_REPEATS:
        parser.error(f"--write: needs {MIN_REPEATS} runs of each")
    for venv in ("freehold", "llama", "xllama"):
        install(venv)
    extra = [python("llama"), "-m", "pip", "install", "--quiet", "llama-cpp-python[server]"]
    subprocess.run(extra, check=True)
    path = model_path(options.model, WORK, None)
    facts = machine(doctor(), [v for v in installed_versions() if "openvino" not in v])
    counts = [int(count) for count in options.clients.split(",") if count]
    print(options.model, flush=True)
    result = {"model": options.model, "sha256": sha256(path)} | measure(path, counts, options.repeats)
    if options.write:
        mark = f"{options.model} {facts['instruction_set']}"
        if counts:
            renew(f"serving {mark}", section(result, facts, f"serving {mark}"))
        renew(f"costs of serving {mark}", costs_section(result, facts, f"costs of serving {mark}"))
    print(json.dumps({"machine": facts, **result}))


if __name__ == "__main__":
    main()
