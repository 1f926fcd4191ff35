"""Freehold beside its peers: the same files and prompts, runs interleaved, medians and spread.

    python benchmarks/peers.py [--only prefill,decode] [--model smollm] [--repeats 5] [--write]

Run it by the Python that Freehold is installed in. The first run makes a venv for each peer under benchmarks/.work,
builds llama.cpp for this CPU (a quarter of an hour on two cores) and makes the models. Freehold too is installed into a
venv, anew when its source has changed (an editable install starts 20 ms later). Every engine is a process of its
own (workers/). Each row first tries the settings of a peer (flash attention, threads, build) one after the other and
takes its best; then the engines take turns. The last line is JSON; --write renews the measured models' sections in
RESULTS.md.
"""

import argparse
import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from models import MODELS, model_path, requantize_with, sha256
from report import MAPPED, NATIVE, OPENVINO, OURS, WHEEL, figures_line, machine, write

from freehold.text.template import ChatTemplate
from freehold.text.tokenizer import Tokenizer
from freehold.weights.gguf import open_gguf

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed starts from its bytecode

HERE = Path(__file__).parent
WORK, WORKERS = HERE / ".work", HERE / "workers"
QUESTION = "Explain in two sentences why the sky is blue."
FREEHOLD = WORK / "freehold" / "bin" / "freehold"

# What pip installs for a peer, and in which environment. gcc 12 may drop the stores that fill the AMX tile
# configuration, hence the two flags; a cached wheel could have been built without them or for another CPU.
NATIVE_BUILD = {
    "CXXFLAGS": "-fno-tree-dse -fno-dse",
    "CFLAGS": "-fno-tree-dse -fno-dse",
    "CMAKE_ARGS": "-DGGML_NATIVE=ON",
    "CMAKE_BUILD_PARALLEL_LEVEL": "2",
}
VENVS = {
    "freehold": ([f"{HERE.parent}[serve]"], {}),
    "llama": (["--no-cache-dir", "--no-binary", "llama-cpp-python", "llama-cpp-python"], NATIVE_BUILD),
    "xllama": (["numpy", "xllamacpp"], {}),
    "openvino": (["numpy", "openvino-genai"], {}),
}

# Required ratio to the better peer, by row and class of the model's format: (with AMX, with AVX-512 VNNI only).
REQUIRED = {
    "prefill": {"k-quant": (7, 2), "simple": (2, 1), "experts": (4, 4)},
    "decode": {"k-quant": (1.9, 1.6), "simple": (1.25, 1.15), "experts": (1.7, 1.7)},
    "depth": {"k-quant": (2.2, 1.8), "simple": (1.7, 1.5)},
    "batch": {"k-quant": (5, 2.5), "simple": (3, 1.8), "experts": (4, 4)},
}
# Before a start is timed: a virtual machine's host may take back, within a second, the memory that a process gave up,
# so that new pages are dear or cheap to the next by how soon it comes. After this they are dear to all.
SETTLE_S = 3
MIN_REPEATS = 3  # of what is written down
REQUIRED_START = {"smollm2-135m-q4_1": 1.2, "qwen2-1.5b-random-q4_k_m": 0.7}
REQUIRED_MEMORY = 0.7
REQUIRED_BANDWIDTH = {"qwen2.5-coder-0.5b-q4_k_m": 0.75}


@dataclass(frozen=True)
class Row:
    """A rate in tokens per second: of the prefill when one token is asked for, else of all sequences' decoding."""

    name: str
    sequences: int
    prompt: int
    max_tokens: int
    reuse: bool = False  # the prompt may come from the prefix cache: only what follows is timed

    def prompts(self, seed):
        """Random token ids, new for each run (engines cache prefixes) unless the row is about what follows."""
        generator = random.Random(f"{self.name} {0 if self.reuse else seed}")
        return [[generator.randrange(1000, 40000) for _ in range(self.prompt)] for _ in range(self.sequences)]

    def task(self, seed):
        context = -(-(self.prompt + self.max_tokens) // 256) * 256
        return {
            "prompts": self.prompts(seed),
            "max_tokens": self.max_tokens,
            "context": context,
            "reuse": self.reuse,
        }

    def rate(self, reply):
        if any(len(tokens) != self.max_tokens for tokens in reply["tokens"]):
            raise PeerError(f"{self.name}: expected {self.max_tokens} tokens of each sequence")
        if self.max_tokens == 1:
            return self.sequences * self.prompt / reply["prefill_s"]
        return reply.get("decoded", self.sequences * (self.max_tokens - 1)) / reply["decode_s"]


RATES = {
    "prefill": Row("prefill 512", 1, 512, 1),
    "decode": Row("decode", 1, 16, 129),
    "depth": Row("decode at 2,048", 1, 2048, 65, reuse=True),
    "batch": Row("16 sequences", 16, 32, 65),
}
ROWS = (*RATES, "start", "memory")


class PeerError(Exception):
    """A peer cannot do what was asked."""


class Worker:
    """A peer's process; `ask` hands it a task and waits."""

    def __init__(self, command):
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts = self._read()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"{self._process.args[1]} ended with {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise PeerError(reply["error"])
        return reply

    def ask(self, task):
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._read()

    @property
    def ended(self):
        return self._process.poll() is not None

    def close(self):
        self._process.stdin.close()
        self._process.wait()


@dataclass(eq=False)
class Engine:
    """A way to run a model: the command of its worker, and the settings to try, the usual ones first."""

    name: str
    command: list
    first_token: object  # (settings, prompt rendered by the chat template) -> command that prints a first token
    axes: dict
    worker: Worker | None = field(default=None, repr=False)

    def ask(self, settings, task):
        if self.worker is None or self.worker.ended:
            self.worker = Worker(self.command)
        return self.worker.ask(task | settings)

    def close(self):
        if self.worker:
            self.worker.close()
        self.worker = None


def engines_for(path):
    """All engines on one model's file."""
    flash = {"flash": (False, True), "threads": (2, 1)}
    backends = {"backend": ("PA", "SDPA"), "threads": (2, 1)}

    def llama(name, venv, repack):
        script = [WORKERS / "llama_worker.py", llama_library(venv), path, repack]

        def first_token(settings, rendered):
            arguments = ["--first-token", rendered, str(settings["threads"]), str(settings["flash"])]
            return [python(venv), "-I", "-S", *script, *arguments]

        return Engine(name, [python(venv), *script], first_token, flash)

    def first_token(settings, rendered):
        return [*openvino, "--first-token", rendered, str(settings["threads"]), settings["backend"]]

    openvino = [python("openvino"), WORKERS / "openvino_worker.py", path]
    ours = [python("freehold"), WORKERS / "freehold_worker.py", path]
    return [
        Engine(OURS, ours, lambda *_: [FREEHOLD, "run", path, QUESTION, "--max-tokens", "1"], {}),
        llama(NATIVE, "llama", "1"),
        llama(WHEEL, "xllama", "1"),
        llama(MAPPED, "llama", "0"),
        Engine(OPENVINO, openvino, first_token, backends),
    ]


def python(venv):
    return WORK / venv / "bin" / "python"


def install(venv):
    """Make a venv, once it is complete marked so; our own is brought up to date."""
    packages, environment = VENVS[venv]
    done = WORK / venv / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", WORK / venv], check=True)
    if not done.exists() or (venv == "freehold" and _source_changed_at() > done.stat().st_mtime):
        print(f"installing {packages[-1]}", flush=True)
        pip = [python(venv), "-m", "pip", "install", "--quiet", "--upgrade", *packages]
        subprocess.run(pip, env=os.environ | environment, check=True)
        done.touch()


def _source_changed_at():
    files = (path for folder in ("src", "csrc") for path in (HERE.parent / folder).rglob("*.*"))
    return max(path.stat().st_mtime for path in files if path.suffix != ".pyc")


def llama_library(venv):
    pattern = {"llama": "llama_cpp/lib/libllama.so", "xllama": "xllamacpp/xllamacpp*.so"}[venv]
    return next((WORK / venv).glob(f"lib/python*/site-packages/{pattern}"))


# Measuring.


@dataclass(frozen=True)
class Measure:
    """What a row of the table measures; `better` (min or max) picks the best of several figures."""

    title: str
    run: object  # (engine, settings, seed) -> figure
    unit: str
    better: object


def rate_measure(row):
    def run(engine, settings, seed):
        return row.rate(engine.ask(settings, row.task(seed)))

    return Measure(row.name, run, "tok/s", max)


def start_measure(rendered):
    def run(engine, settings, _):
        command = engine.first_token(settings, rendered)
        time.sleep(SETTLE_S)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        begin = time.perf_counter()
        with subprocess.Popen(command, **pipes) as process:
            first = os.read(process.stdout.fileno(), 1)
            seconds = time.perf_counter() - begin
            _, errors = process.communicate()
        if process.returncode or not first:
            raise PeerError(errors.decode()[-300:])
        return seconds

    return Measure("start to first token", run, "s", min)


def memory_measure(context):
    """With the model's own context, as every engine's program sets it when it is not told otherwise."""
    row = Row("memory", 1, 512, 129)

    def run(engine, settings, seed):
        engine.close()
        peak = engine.ask(settings, row.task(seed) | {"context": context})["peak_bytes"]
        engine.close()
        return peak / 1e6

    return Measure("peak memory", run, "MB", min)


def best_setting(measure, engine):
    """(its best figure, the setting of it), or None when the engine cannot do this; axes are varied one by one."""
    usual = {axis: values[0] for axis, values in engine.axes.items()}
    best = tried_setting(measure, engine, usual)
    for axis, values in engine.axes.items():
        for value in values[1:]:
            found = tried_setting(measure, engine, (best[1] if best else usual) | {axis: value})
            if found and (best is None or measure.better(found[0], best[0]) != best[0]):
                best = found
    return best


def tried_setting(measure, engine, settings):
    """(the better of two runs, settings), or None when the engine cannot do this."""
    try:
        return measure.better(measure.run(engine, settings, seed) for seed in ("first", "second")), settings
    except PeerError as error:
        print(f"  {engine.name} {settings}: cannot: {error}", flush=True)
        return None


def measure_row(measure, engines, repeats):
    """Figures of the engines, each at its best setting, taking turns; of two builds of llama.cpp only the better."""
    best = {engine: found for engine in engines if (found := best_setting(measure, engine))}
    builds = [engine for engine in best if engine.name in (NATIVE, WHEEL)]
    fastest = measure.better((best[build][0] for build in builds), default=None)
    for build in builds:
        if best[build][0] != fastest:
            del best[build]
            build.close()
    order = list(best)
    runs = {engine: [] for engine in order}
    stolen, begin = stolen_s(), time.perf_counter()
    for seed in range(repeats):
        for engine in order:
            runs[engine].append(measure.run(engine, best[engine][1], seed))
        order = order[1:] + order[:1]
    stolen = (stolen_s() - stolen) / (time.perf_counter() - begin) / os.cpu_count()
    figures = {
        engine.name: {"median": statistics.median(r), "low": min(r), "high": max(r), "settings": best[engine][1]}
        for engine, r in runs.items()
    }
    return {"unit": measure.unit, "engines": figures, "stolen": stolen}


def compare(measure, row, required):
    """Add the ratio to the best peer; llama.cpp without its repacking is shown only, since its speed is another."""
    medians = {name: figures["median"] for name, figures in row["engines"].items()}
    best = measure.better((name for name in medians if name not in (OURS, MAPPED)), key=medians.get)
    ratio = medians[OURS] / medians[best]
    reached = None if required is None else measure.better(ratio, required) == ratio
    return row | {"best_peer": best, "ratio": ratio, "required": required, "reached": reached}


def stolen_s():
    """Seconds that the host took from this machine's cores so far."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


def greedy_replies(engines, tokenizer, rendered):
    """What each engine answers to one question, so that speed is not bought with nonsense."""
    ids = tokenizer.encode(rendered, special=True)
    task = {"prompts": [ids], "max_tokens": 24, "context": 512, "reuse": False}
    replies = {}
    for engine in engines:
        usual = {axis: values[0] for axis, values in engine.axes.items()}
        try:
            replies[engine.name] = tokenizer.decode(engine.ask(usual, task)["tokens"][0])
        except PeerError as error:
            print(f"  {engine.name}: cannot: {error}", flush=True)
    return replies


def decode_bytes(checkpoint):
    """Bytes of weights read for one token: all but an embedding table that is not also the output."""
    tied = "output.weight" not in checkpoint.tensors
    return sum(t.data.nbytes for t in checkpoint.tensors.values() if tied or t.name != "token_embd.weight")


def doctor():
    return json.loads(subprocess.run([FREEHOLD, "doctor", "--json"], check=True, capture_output=True).stdout)


def required_ratio(key, name, amx):
    """None where nothing is required of the row with this model; it is then measured only when asked for."""
    kind = MODELS[name][2]
    if key == "start":
        return REQUIRED_START.get(name)
    if key == "memory":
        return REQUIRED_MEMORY if kind != "experts" else None
    ratios = REQUIRED[key].get(kind)
    return ratios[0 if amx else 1] if ratios else None


def measure_model(name, rows, repeats, amx):
    """Rows of one model, by default those of which something is required."""
    quantizer = [python("llama"), WORKERS / "llama_worker.py", llama_library("llama")]
    path = model_path(name, WORK, requantize_with(quantizer))
    checkpoint = open_gguf(path)
    tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
    rendered = ChatTemplate.from_gguf(checkpoint.metadata, tokenizer).render([{"role": "user", "content": QUESTION}])
    measures = {key: rate_measure(row) for key, row in RATES.items()}
    measures |= {"start": start_measure(rendered), "memory": memory_measure(trained_context(checkpoint))}
    engines = engines_for(path)
    repacked = [engine for engine in engines if engine.name != MAPPED]
    replies = greedy_replies(repacked, tokenizer, rendered)
    result = {"model": name, "sha256": sha256(path), "rows": {}, "replies": replies}
    for key in rows or [key for key in ROWS if required_ratio(key, name, amx)]:
        measure = measures[key]
        if key in ("start", "memory"):
            for engine in engines:  # a process that waits still holds memory
                engine.close()
        row = measure_row(measure, engines if key in ("start", "memory") else repacked, repeats)
        result["rows"][measure.title] = compare(measure, row, required_ratio(key, name, amx))
        print(figures_line(measure.title, result["rows"][measure.title]), flush=True)
        if key == "decode":
            used = bandwidth_used(decode_bytes(checkpoint), row["engines"][OURS]["median"])
            result["bandwidth"] = used | {"required_share": REQUIRED_BANDWIDTH.get(name)}
    for engine in engines:
        engine.close()
    return result


def trained_context(checkpoint):
    return checkpoint.metadata[f"{checkpoint.metadata['general.architecture']}.context_length"]


def bandwidth_used(num_bytes, rate):
    measured = statistics.median(doctor()["memory_bandwidth_gb_per_s"] for _ in range(3))
    return {"measured_gb_per_s": measured, "used_gb_per_s": num_bytes * rate / 1e9, "token_bytes": num_bytes}


def installed_versions():
    """What pip put into the peers' venvs, of what was asked for."""
    versions = []
    for venv, (arguments, _) in VENVS.items():
        if venv == "freehold":
            continue
        folders = [str(path) for path in (WORK / venv).glob("lib/python*/site-packages")]
        package = next(iter(importlib.metadata.distributions(name=arguments[-1], path=folders)))
        versions.append(f"{arguments[-1]} {package.version}")
    return versions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"rows, with commas between: {', '.join(ROWS)}")
    parser.add_argument("--model", default="", help="models whose names contain this")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each engine")
    parser.add_argument("--write", action="store_true", help="renew sections of RESULTS.md")
    options = parser.parse_args()
    rows = options.only.split(",") if options.only else []
    if unknown := set(rows) - set(ROWS):
        parser.error(f"--only: no row {', '.join(unknown)}")
    if options.write and options.repeats < MIN_REPEATS:
        parser.error(f"--write: needs {MIN_REPEATS} runs of each engine")
    for venv in VENVS:
        install(venv)
    facts = machine(doctor(), installed_versions())
    results = []
    for name in MODELS:
        if options.model in name:
            print(f"\n{name}", flush=True)
            results.append(measure_model(name, rows, options.repeats, facts["instruction_set"] == "amx"))
            if options.write:
                write(results[-1], facts)
    print(json.dumps({"machine": facts, "models": results}))


if __name__ == "__main__":
    main()
