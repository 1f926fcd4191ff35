"""Layers that keep a state: the native executor beside torch's, and the same bits however the rows are cut."""

import math

import pytest

torch = pytest.importorskip("torch", reason="torch is the reference")

from one_layer import VOCABULARY, OneLayer, tokens_of  # noqa: E402

from freehold import _native, ops  # noqa: E402
from freehold.executors.native import NativeExecutor  # noqa: E402
from freehold.executors.torch import TorchExecutor  # noqa: E402
from freehold.weights.checkpoint import Checkpoint  # noqa: E402
from steps import batch_of  # noqa: E402

WIDTH = 64
KEY_HEADS, HEADS, KEY_DIM, VALUE_DIM, TAPS = 2, 4, 33, 40, 4
KEYS, VALUES = KEY_HEADS * KEY_DIM, HEADS * VALUE_DIM
SHAPES = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "lm_head.weight": (VOCABULARY, VALUES)}
SHAPES |= {"q": (KEYS, WIDTH), "k": (KEYS, WIDTH), "v": (VALUES, WIDTH), "values": (HEADS * KEY_DIM, WIDTH)}
SHAPES |= {"wide": (VALUES, HEADS * KEY_DIM), "decay": (HEADS, WIDTH), "decays": (HEADS * KEY_DIM, WIDTH)}
SHAPES |= {"beta": (HEADS, WIDTH), "rate": (HEADS,), "bias": (HEADS,), "biases": (HEADS * KEY_DIM,)}
SHAPES |= {f"{name}_taps": (SHAPES[name][0], TAPS) for name in "qkv"}


def convolved(x, p, cache):
    return (
        ops.short_convolution(ops.linear(x, p[name]), p[f"{name}_taps"], cache, f"{name}_convolution") for name in "qkv"
    )


def delta(x, p, batch, decay="decay", bias="bias", **options):
    q, k, v = convolved(x, p, batch.caches[0])
    gates = ops.linear(x, p[decay]), ops.linear(x, p["beta"])
    return ops.delta_rule(q, k, v, *gates, p["rate"], p[bias], batch.caches[0], num_key_heads=KEY_HEADS, **options)


def lightning(x, p, batch):
    q, k, v = (ops.linear(x, p["values"]) for _ in range(3))
    slopes = [2.0 ** -(head + 1) for head in range(HEADS)]
    return ops.linear(ops.lightning_attention(q, k, v, batch.caches[0], slopes=slopes), p["wide"])


DELTA_STATES = {f"{name}_convolution": (TAPS - 1, SHAPES[name][0]) for name in "qkv"}
DELTA_STATES |= {"state": (HEADS, KEY_DIM, VALUE_DIM)}
# (the states of the layer, its forward)
LAYERS = {
    "short convolution": (DELTA_STATES, lambda x, p, batch: list(convolved(x, p, batch.caches[0]))[2]),
    "delta rule, a decay for each head": (DELTA_STATES, delta),
    "delta rule, a decay for each channel": (DELTA_STATES, lambda x, p, b: delta(x, p, b, "decays", "biases")),
    "delta rule, tiled heads": (DELTA_STATES, lambda x, p, b: delta(x, p, b, tiled_heads=True)),
    "lightning attention": ({"state": (HEADS, KEY_DIM, KEY_DIM)}, lightning),
}


class Layer(OneLayer):
    """A model of one layer that keeps a state."""

    def __init__(self, name):
        super().__init__(width=WIDTH, heads=HEADS, kv_heads=HEADS, head_dim=16)
        self.states, self.operation = LAYERS[name]

    def parameter_shapes(self):
        return SHAPES

    def caches(self):
        return [ops.CacheSpec(states=self.states)]


@pytest.fixture(scope="module")
def checkpoint():
    generator = torch.Generator().manual_seed(5)
    # Sizes at which a state neither fades at once nor grows without end.
    arrays = {
        name: (torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) * 2).numpy()
        for name, shape in SHAPES.items()
    }
    return Checkpoint.from_arrays({}, arrays)


def step(executor, requests):
    """One step of [(tokens, first position, blocks)]: the logits of every row."""
    batch = batch_of(requests)
    rows = []
    for start in range(0, len(batch.tokens), executor.max_logit_rows):
        batch.logit_rows = list(range(start, min(start + executor.max_logit_rows, len(batch.tokens))))
        executor.run(batch)
        rows.append(torch.tensor(executor.logits()))
    return torch.cat(rows)


def native(name, checkpoint, **options):
    return NativeExecutor(Layer(name), checkpoint, num_blocks=8, dtype="float32", **({"threads": 2} | options))


@pytest.mark.parametrize("name", LAYERS)
def test_native_beside_torch(name, checkpoint):
    tokens = tokens_of(64 + 300)
    ours, reference = native(name, checkpoint), TorchExecutor(Layer(name), checkpoint, num_blocks=8)
    assert ours.keeps_states and ours.block_size == reference.block_size == 256
    first = 0
    for count in (1, 2, 31, 32, 63, 64, 64, 64):  # over the end of a block
        rows = [(tokens[first : first + count], first, [3, 5])]
        expected = step(reference, rows)
        assert (step(ours, rows) - expected).abs().max() <= 1e-4 * expected.abs().max(), first
        first += count


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("name", LAYERS)
def test_the_same_bits_however_the_rows_are_cut(name, isa, checkpoint, monkeypatch):
    tokens, other = tokens_of(300), tokens_of(50, seed=1)
    monkeypatch.setenv("FREEHOLD_ISA", isa)
    expected = step_by_step(native(name, checkpoint, threads=1), tokens, 64)
    for chunk in (1, 7, 60):
        assert (step_by_step(native(name, checkpoint), tokens, chunk) == expected).all()
    # In a batch, and behind a block that another request filled.
    executor = native(name, checkpoint, fusing=False)
    step_by_step(executor, tokens[:256], 64)
    rows = step(executor, [(other[:20], 0, [6]), (tokens[256:290], 256, [3, 4]), (other[:9], 0, [7])])
    assert (rows[20:54] == expected[256:290]).all()
    assert (rows[:9] == rows[54:]).all()


def step_by_step(executor, tokens, chunk):
    starts = range(0, len(tokens), chunk)
    return torch.cat([step(executor, [(tokens[start : start + chunk], start, [3, 5])]) for start in starts])


def test_instruction_sets_agree(checkpoint, monkeypatch):
    tokens, results = tokens_of(40), {}
    for isa in _native.supported_isas():
        monkeypatch.setenv("FREEHOLD_ISA", isa)
        if isa != "portable":  # which lacks fused multiply-add
            results[isa] = step(native("delta rule, a decay for each channel", checkpoint), [(tokens, 0, [3])])
    first = next(iter(results.values()))
    assert all((result == first).all() for result in results.values())
