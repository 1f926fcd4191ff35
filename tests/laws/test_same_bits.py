"""The law: a sequence's logits depend only on its own tokens, bit for bit.

On both real models and each instruction set: alone and in a batch of 16, prefilled whole and in chunks, after a
prefix-cache hit, with 1 and 2 threads.
"""

import numpy as np
import pytest

from freehold import _native
from freehold.executors.native import NativeExecutor
from freehold.models.registry import model_for
from freehold.weights.gguf import open_gguf
from steps import batch_of

BLOCK = _native.PAGE_TOKENS
PROMPT = [(i * 7919) % 40000 + 100 for i in range(90)]
ISAS = [isa for isa in _native.supported_isas() if isa not in ("portable", "amx-emulated")]
SLOW_ISAS = [isa for isa in _native.supported_isas() if isa in ("portable", "amx-emulated")]


def executor(path, isa, monkeypatch, threads=2, **options):
    monkeypatch.setenv("FREEHOLD_ISA", isa)
    checkpoint = open_gguf(path)
    return NativeExecutor(model_for(checkpoint), checkpoint, num_blocks=128, threads=threads, **options)


def logits_of_last(native, rows):
    """Run [(tokens, first position, blocks)] as one step; the last row's logits of each."""
    batch = batch_of(rows)
    batch.logit_rows = [end - 1 for end in batch.row_starts[1:]]
    native.run(batch)
    return native.logits()


def chunked(native, tokens, chunk, blocks):
    for start in range(0, len(tokens), chunk):
        logits = logits_of_last(native, [(tokens[start : start + chunk], start, blocks)])
    return logits[0]


def check(path, isa, monkeypatch, prompt):
    native = executor(path, isa, monkeypatch)
    table = list(range(-(-len(prompt) // BLOCK)))
    whole = chunked(native, prompt, len(prompt), table)
    assert np.isfinite(whole).all()
    for chunk in (1, 7, 64):
        blocks = [b + 40 for b in table]
        assert (chunked(native, prompt, chunk, blocks) == whole).all(), f"chunks of {chunk}"

    # Sixteen at once: prompts of unequal lengths, then one token of each.
    others = [prompt[i : i + 3 + 2 * i] for i in range(15)]
    tables = [[60 + 2 * i, 61 + 2 * i] for i in range(15)]
    alone = [chunked(native, [*tokens, 7], len(tokens) + 1, [100, 101]) for tokens in others]
    together = [(tokens, 0, blocks) for tokens, blocks in zip(others, tables, strict=True)]
    logits_of_last(native, [(prompt[:-1], 0, table), *together])
    step = [(prompt[-1:], len(prompt) - 1, table)]
    step += [([7], len(tokens), blocks) for tokens, blocks in zip(others, tables, strict=True)]
    for ours, expected in zip(logits_of_last(native, step), [whole, *alone], strict=True):
        assert (ours == expected).all(), "in a batch of 16"

    single = executor(path, isa, monkeypatch, threads=1)
    assert (chunked(single, prompt, len(prompt), table) == whole).all(), "with one thread"


@pytest.mark.parametrize("isa", ISAS)
def test_same_bits_on_real_models(real_model, isa, monkeypatch):
    check(real_model, isa, monkeypatch, PROMPT)


@pytest.mark.parametrize("isa", SLOW_ISAS)
def test_same_bits_on_slow_instruction_sets(smollm, isa, monkeypatch):
    check(smollm, isa, monkeypatch, PROMPT[:40])


def test_same_bits_across_spans_of_attention(smollm, monkeypatch):
    """Beyond 256 keys attention has several spans, which decoding shares out to threads and prefill does not."""
    native = executor(smollm, "", monkeypatch)
    prompt = [(i * 104729) % 40000 + 100 for i in range(600)]
    blocks = list(range(20))
    whole = chunked(native, prompt[:512], 512, blocks)
    assert (chunked(native, prompt[:512], 100, [b + 30 for b in blocks]) == whole).all()
    tail = chunked(native, prompt[:512], 512, blocks), logits_of_last(native, [(prompt[512:], 512, blocks)])[0]
    for position in range(500, 600):
        logits = logits_of_last(native, [(prompt[position : position + 1], position, blocks)])[0]
    assert (logits == tail[1]).all()


@pytest.mark.parametrize("kv_format", ["bf16", "int8", "f32"])
def test_same_bits_for_every_kv_format(smollm, kv_format, monkeypatch):
    native = executor(smollm, "", monkeypatch, kv_format=kv_format)
    table = list(range(10))
    whole = chunked(native, PROMPT, len(PROMPT), table)
    assert (chunked(native, PROMPT, 7, [b + 20 for b in table]) == whole).all()


def test_same_bits_after_a_prefix_hit(smollm):
    """Through the engine: the same tokens and log-probabilities, computed afresh and on top of cached blocks."""
    from freehold.loading import load

    def reply(model, prompt):
        return model.generate(prompt, max_tokens=12, temperature=0.0)

    with load(str(smollm), context=512) as model:
        fresh = reply(model, PROMPT)
        again = reply(model, PROMPT)
        partial = reply(model, [*PROMPT[:70], 5, 6, 7])
    with load(str(smollm), context=512) as model:
        partial_fresh = reply(model, [*PROMPT[:70], 5, 6, 7])
    assert again.usage.cached_tokens == len(PROMPT) - 1
    assert 64 <= partial.usage.cached_tokens <= 70
    assert partial_fresh.usage.cached_tokens == 0
    for cached, computed in ((again, fresh), (partial, partial_fresh)):
        assert cached.tokens == computed.tokens
        assert cached.logprobs == computed.logprobs


def test_speculation_changes_no_bit(real_model):
    """What is foreseen is computed several tokens at a time; the draws and their log-probabilities are the same."""
    from freehold.loading import load

    text = "def area(width, height):\n    return width * height\n\n\ndef volume(width, height, depth):\n    return"
    results = []
    for speculate in (False, True):
        with load(str(real_model), context=512, speculate=speculate) as model:
            prompt = model.tokenize(text + "\n\n" + text)
            greedy = model.generate(prompt, max_tokens=60, temperature=0.0, logprobs=2)
            drawn = model.generate(prompt, max_tokens=60, temperature=0.6, seed=5)
            results.append([(reply.tokens, reply.logprobs, reply.top_logprobs) for reply in (greedy, drawn)])
            accepted = model.engine.stats().accepted_tokens
    assert results[0] == results[1]
    assert accepted > 10
