"""The laws for models with routed experts: same bits, wherever the experts' weights lie."""

import json
import os
import queue
import shutil
import subprocess
import sys

import numpy as np
import pytest

import freehold
from freehold import _native
from freehold.engine.engine import Engine
from freehold.engine.request import FinishEvent, Request, SamplingParams, TokenEvent
from freehold.errors import EngineError, MemoryBudgetError
from freehold.executors.native import NativeExecutor, memory_plan, native_sampler
from freehold.models.registry import model_for
from freehold.weights.gguf import open_gguf
from laws.test_same_bits import PROMPT, check, chunked, executor, logits_of_last
from random_models import TOKENIZER, write_moe

ISAS = _native.supported_isas()
TOKENS = [token % 61 for token in PROMPT]
MIXED = {"gate": "Q4_K", "up": "Q8_0", "down": "Q6_K", "dense": "Q8_0"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Twelve experts a layer, four for a row; every row of a prompt of 90 chooses for itself."""
    path = tmp_path_factory.mktemp("moe") / "small.gguf"
    return write_moe(path, layers=2, width=256, inner=256, experts=12, used=4, forms=MIXED)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """60 MB, nearly all of them experts."""
    path = tmp_path_factory.mktemp("moe") / "large.gguf"
    write_moe(
        path,
        layers=5,
        width=512,
        inner=512,
        experts=16,
        used=3,
        vocabulary=61,
        forms=MIXED | {"gate": "Q8_0"},
        metadata=TOKENIZER | {"general.name": "random"},
    )
    assert 60e6 < path.stat().st_size < 70e6
    return path


@pytest.mark.parametrize("isa", ISAS)
def test_same_bits_alone_in_chunks_in_a_batch_and_by_one_thread(small, isa, monkeypatch):
    check(small, isa, monkeypatch, TOKENS if isa not in ("portable", "amx-emulated") else TOKENS[:40])


@pytest.mark.parametrize(
    "forms",
    [
        {"gate": "F16", "up": "Q8_0", "down": "F16", "dense": "Q8_0"},
        {"gate": "MXFP4", "up": "MXFP4", "down": "MXFP4", "dense": "F16"},
        {"gate": "Q5_1", "up": "Q4_0", "down": "F32", "dense": "Q4_0"},
    ],
)
def test_same_bits_of_formats_side_by_side(forms, tmp_path, monkeypatch):
    path = write_moe(tmp_path / "m.gguf", layers=1, width=256, inner=96, experts=6, used=2, forms=forms)
    check(path, "", monkeypatch, TOKENS)


def test_instruction_sets_agree(small, monkeypatch):
    with_fma = [isa for isa in ISAS if isa != "portable"]
    logits = [chunked(executor(small, isa, monkeypatch), TOKENS[:40], 40, [0, 1]) for isa in with_fma]
    assert np.isfinite(logits[0]).all()
    for other in logits[1:]:
        assert (other == logits[0]).all()


# Through the engine.


def replies(path, prompts, count, *, num_blocks, together=True):
    """Greedy replies of each prompt and how much of it came from the prefix cache."""
    checkpoint = open_gguf(path)
    engine = Engine(
        NativeExecutor(model_for(checkpoint), checkpoint, num_blocks=num_blocks, max_rows=100),
        native_sampler,
        context=224,
    )
    tokens, waiting, cached = [], [], []

    def receive():
        request, events = waiting.pop(0)
        reply = []
        while not isinstance(event := events.get(timeout=60), FinishEvent):
            if isinstance(event, TokenEvent):
                reply.append((event.token, event.logprob))
        tokens.append(reply)
        cached.append(request.num_cached)

    for prompt in prompts:
        events = queue.SimpleQueue()
        request = Request(prompt, SamplingParams(temperature=0, max_tokens=count), events.put)
        engine.submit(request)
        waiting.append((request, events))
        if not together:
            receive()
    while waiting:
        receive()
    engine.close()
    return tokens, cached


def test_prefix_hits_and_preemption_change_no_bit(small):
    prompts = [TOKENS[:80] + [i] * 9 for i in (3, 5, 8)]
    alone = [replies(small, [prompt], 40, num_blocks=40)[0][0] for prompt in prompts]
    shared, cached = replies(small, prompts, 40, num_blocks=40, together=False)
    assert shared == alone
    assert cached == [0, 80, 80]
    tight, _ = replies(small, prompts, 40, num_blocks=7)  # three requests of 5 blocks do not fit side by side
    assert tight == alone


# Experts that stay in the file.


def paged(path, experts_bytes, threads=2):
    checkpoint = open_gguf(path)
    return NativeExecutor(
        model_for(checkpoint), checkpoint, num_blocks=16, threads=threads, experts_bytes=experts_bytes
    )


def run(native):
    """Logits of a prefill in two chunks, and of each of some decoded tokens."""
    table = [0, 1, 2, 3]
    logits = [chunked(native, TOKENS, 64, table)]
    for i in range(8):
        logits.append(logits_of_last(native, [([7 * i % 61], len(TOKENS) + i, table)])[0])
    return np.array(logits)


def test_experts_from_the_file_give_the_same_bits(large):
    checkpoint = open_gguf(large)
    plan = memory_plan(model_for(checkpoint), checkpoint)
    assert plan.experts_bytes > 0.9 * plan.weights_bytes
    full = NativeExecutor(model_for(checkpoint), checkpoint, num_blocks=16)
    assert full.info["experts"] == {"total": 80, "in_memory": 80}
    expected = run(full)
    for share, in_memory in ((3, 26), (20, 4), (1000, 0)):
        for threads in (1, 2):
            native = paged(large, plan.experts_bytes // share, threads)
            assert native.info["experts"] == {"total": 80, "in_memory": in_memory}
            assert (run(native) == expected).all()


def test_an_expert_that_is_used_again_is_not_read_again(large):
    native = paged(large, 40 << 20)
    table = [0, 1]
    for _ in range(3):
        logits_of_last(native, [(TOKENS[:1], 0, table)])
    hits, misses = native.experts_read()
    assert (hits, misses) == (2 * 5 * 3, 5 * 3)


def test_a_file_cut_short_is_an_error_and_no_expert_is_kept_half(large, tmp_path):
    path = tmp_path / "model.gguf"
    shutil.copy(large, path)
    native, whole = paged(path, 40 << 20), path.read_bytes()
    os.truncate(path, len(whole) // 2)
    with pytest.raises(RuntimeError, match="was cut short while in use"):
        run(native)
    with path.open("r+b") as file:
        file.write(whole)
    assert (run(native) == run(paged(large, 60 << 20))).all()


def test_what_does_not_fit_stays_in_the_file(large, monkeypatch):
    """`load` decides by the memory there is, and says so."""
    with freehold.load(large, context=256) as model:
        expected = model.generate(TOKENS[:40], max_tokens=12, temperature=0)
        plan = model.info["memory"]
        assert model.info["experts"] == {"total": 80, "in_memory": 80}
        assert plan["experts_in_memory_bytes"] == plan["experts_bytes"]
    needed = plan["weights_bytes"] - plan["experts_bytes"] + plan["activations_bytes"] + plan["kv_bytes_at_context"]
    monkeypatch.setattr("freehold.engine.memory.SPARED_BYTES", 1 << 20)
    third = plan["experts_bytes"] // 3
    monkeypatch.setattr("freehold.loading.available_memory", lambda: needed + third)
    memory = freehold.describe(large, context=256)["memory"]
    with freehold.load(large, context=256) as model:
        assert model.info["memory"] == memory
        assert memory["experts_in_memory_bytes"] == third - third // 10
        assert model.info["experts"] == {"total": 80, "in_memory": 24}
        reply = model.generate(TOKENS[:40], max_tokens=12, temperature=0)
    assert (reply.tokens, reply.logprobs) == (expected.tokens, expected.logprobs)
    monkeypatch.setattr("freehold.loading.available_memory", lambda: needed - 1)
    with pytest.raises(MemoryBudgetError, match="the model with a context of 256 tokens: needs"):
        freehold.load(large, context=256)


def test_a_file_cut_short_while_served_is_an_error_of_the_call(large, tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    shutil.copy(large, path)
    plan = freehold.describe(path, context=256)["memory"]
    monkeypatch.setattr("freehold.engine.memory.SPARED_BYTES", 1 << 20)
    monkeypatch.setattr("freehold.loading.available_memory", lambda: plan["total_bytes"] - plan["experts_bytes"] // 2)
    with freehold.load(path, context=256) as model:
        assert len(model.generate(TOKENS[:1], max_tokens=1, temperature=0).tokens) == 1
        os.truncate(path, 1 << 20)
        with pytest.raises(EngineError, match="cut short while in use"):
            model.generate(TOKENS, max_tokens=4, temperature=0)


# Under a limit that the system holds.

UNDER_A_LIMIT = """
import json, resource, sys
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        bytearray(limit)
        sys.exit("the limit does not hold")
    except MemoryError:
        pass
import freehold
with freehold.load(sys.argv[1], context=256, threads=2) as model:
    reply = model.generate([3 * i % 61 for i in range(40)], max_tokens=24, temperature=0, ignore_eos=True)
    print(json.dumps([model.info["experts"], model.executor.experts_read(), reply.tokens, reply.logprobs]))
"""


def test_a_model_larger_than_the_memory_it_may_take(tmp_path):
    path = tmp_path / "m.gguf"
    forms = dict.fromkeys(("gate", "up", "down", "dense"), "Q8_0")
    names = TOKENIZER | {"general.name": "random"}
    sizes = {"layers": 6, "width": 1024, "inner": 1024, "experts": 16, "used": 2, "vocabulary": 61}
    write_moe(path, **sizes, forms=forms, metadata=names)
    limit = 128 << 20
    assert path.stat().st_size > 2.4 * limit

    def reply(limit_bytes):
        command = [sys.executable, "-c", UNDER_A_LIMIT, str(path), str(limit_bytes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    experts, read, *expected = reply(0)
    assert (experts, read) == ({"total": 96, "in_memory": 96}, [0, 0])
    experts, (found, missing), *limited = reply(limit)
    assert limited == expected
    assert 0 < experts["in_memory"] < 16
    assert found + missing > 200
    assert missing > experts["in_memory"]
