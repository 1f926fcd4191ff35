"""Load that a server must bear, on this machine alone: no error, no slot lost, no growing memory.

    python benchmarks/soak.py MODEL.gguf [--seconds 120] [--clients 64] [--vanishing 200] [FLAGS]

Further FLAGS go to `freehold serve`.

First `--clients` stream replies one after the other for `--seconds`, then `--vanishing` ask at once, half of which go
away mid-stream; twice, so that what grows would show. The last line is JSON; the exit code is 1 where something is
not as it must be.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from clients import ask_all

FREEHOLD = Path(sys.executable).with_name("freehold")
MAX_GROWTH_BYTES = 30e6  # of resident memory between two equal loads


class Server:
    def __init__(self, model, flags):
        command = [FREEHOLD, "serve", model, "--port", "0", "--max-waiting", "1000", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if line.startswith("Freehold is at "):
                self.url = line.split()[-1]
                break
        self.port = int(self.url.rsplit(":", 1)[1])
        self.errors = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stderr:
            self.errors += '"level": "error"' in line

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=10):
                return True
        except OSError:
            return False

    def memory_bytes(self):
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def gauge(self, name):
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))

    def wait_idle(self):
        """Seconds until no request runs or waits."""
        began = time.monotonic()
        while self.gauge("vllm:num_requests_running") + self.gauge("vllm:num_requests_waiting"):
            if time.monotonic() - began > 60:
                raise SystemExit("requests are left behind")
            time.sleep(0.05)
        return time.monotonic() - began


def body(index, max_tokens):
    text = f"Story number {index}, which begins with a long sentence about {index % 17} rivers and their names: "
    limits = {"max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    return {"prompt": text * (1 + index % 5), "temperature": 0.8, "seed": index} | limits


def fill_cache(server):
    """Memory for keys and values is taken as it is first used: use all of it."""
    with urllib.request.urlopen(f"{server.url}/v1/models", timeout=60) as answer:
        model = json.load(answer)["data"][0]
    length = min(1000, model["context"] - 50)
    bodies = []
    for index in range(2 * model["kv_tokens"] // length):
        draw = random.Random(index)
        prompt = [draw.randrange(1000, 20000) for _ in range(length)]
        bodies.append({"prompt": prompt, "max_tokens": 2, "ignore_eos": True, "stream": True})
    ask_all(server.port, bodies, 16)


def steady(server, clients, seconds):
    end = time.monotonic() + seconds

    def bodies():
        index = 0
        while time.monotonic() < end:
            yield body(index, 16 + index * 7 % 64)
            index += 1

    replies, took = ask_all(server.port, bodies(), clients)
    gaps = [gap for reply in replies for gap in reply.gaps]
    return {"replies": len(replies), "seconds": took, "p95_between_s": statistics.quantiles(gaps, n=20)[-1]}


def vanishing(server, clients):
    """Half of them go away after some tokens."""
    bodies = [body(index, 48 if index % 2 else 400) for index in range(clients)]
    replies, took = ask_all(server.port, bodies, clients, leaves=lambda index: None if index % 2 else 3 + index % 9)
    left = sum(reply.left for reply in replies)
    idle_s = server.wait_idle()
    return {"replies": len(replies), "left": left, "seconds": took, "seconds_to_idle": idle_s}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--vanishing", type=int, default=200)
    options, flags = parser.parse_known_args()
    server = Server(options.model, flags)
    while not server.is_ready():
        time.sleep(0.1)
    fill_cache(server)
    steady(server, options.clients, options.seconds / 8)
    vanishing(server, options.vanishing)
    memory = [server.memory_bytes()]
    rounds = []
    for _ in range(2):
        rounds.append({"steady": steady(server, options.clients, options.seconds / 2)})
        rounds[-1]["vanishing"] = vanishing(server, options.vanishing)
        memory.append(server.memory_bytes())
        print(f"{rounds[-1]}, resident memory {memory[-1] / 1e6:.0f} MB", flush=True)
    kv = server.gauge("vllm:kv_cache_usage_perc")
    server.process.terminate()
    code = server.process.wait(60)
    growth = memory[-1] - memory[1]
    problems = [
        *(["errors in the log"] if server.errors else []),
        *([f"exit code {code}"] if code else []),
        *([f"KV blocks are left in use: {kv}"] if kv else []),
        *([f"memory has grown by {growth / 1e6:.0f} MB"] if growth > MAX_GROWTH_BYTES else []),
    ]
    print(json.dumps({"rounds": rounds, "memory_bytes": memory, "growth_bytes": growth, "problems": problems}))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
