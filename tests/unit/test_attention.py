"""Attention on keys and values as integers: near float32, and the same bits however rows are cut."""

import math

import pytest

torch = pytest.importorskip("torch", reason="torch is the reference")

from one_layer import VOCABULARY, OneLayer, step, tokens_of  # noqa: E402

from freehold import _native, ops  # noqa: E402
from freehold.executors.native import NativeExecutor  # noqa: E402
from freehold.executors.native.plan import Cache  # noqa: E402
from freehold.executors.torch import TorchExecutor  # noqa: E402
from freehold.weights.checkpoint import Checkpoint  # noqa: E402

WIDTH = 64
# name: (query heads, heads of keys and values, channels of a head, options)
CASES = {
    "two to a head": (4, 2, 64, {}),
    "seven to a head": (7, 1, 40, {}),
    "wide heads": (2, 1, 144, {}),
    "odd heads": (3, 3, 17, {}),
    "window": (4, 2, 32, {"window": 70}),
    "chunks": (4, 2, 32, {"chunk": 40}),
    "sinks": (4, 2, 32, {"sinks": True}),
}


class Layer(OneLayer):
    """A model of one layer of attention."""

    def __init__(self, name):
        self.heads, self.kv_heads, self.dim, self.options = CASES[name]
        super().__init__(width=WIDTH, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.dim)

    def parameter_shapes(self):
        keys = (self.kv_heads * self.dim, WIDTH)
        return {
            "model.embed_tokens.weight": (VOCABULARY, WIDTH),
            "q": (self.heads * self.dim, WIDTH),
            "k": keys,
            "v": keys,
            "sinks": (self.heads,),
            "lm_head.weight": (VOCABULARY, self.heads * self.dim),
        }

    def operation(self, x, p, batch):
        options = dict(self.options)
        if options.pop("sinks", False):
            options["sinks_N"] = p["sinks"]
        q, k, v = (ops.linear(x, p[name]) for name in "qkv")
        heads = {"num_heads": self.heads, "num_kv_heads": self.kv_heads}
        return ops.attention(q, k, v, batch.caches[0], **heads, scale=0.1, **options)


def arrays_of(model, large=1.0):
    """Random matrices; one channel of each key is `large` times as large as the others, and the queries' as small."""
    generator = torch.Generator().manual_seed(5)
    arrays = {
        name: (torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) * 2).numpy()
        for name, shape in model.parameter_shapes().items()
    }
    arrays["k"][3 :: model.dim] *= large
    arrays["q"][3 :: model.dim] /= large
    return arrays


def native(model, arrays, **options):
    options = {"threads": 2, "kv_format": "int16"} | options
    return NativeExecutor(model, Checkpoint.from_arrays({}, arrays), num_blocks=48, **options)


TABLE = [7, 3, *range(10, 34)]


@pytest.mark.parametrize(
    ("kv_format", "large", "tolerance"), [("int16", 1.0, 5e-4), ("int16", 100.0, 5e-3), ("int8", 1.0, 3e-2)]
)
@pytest.mark.parametrize("name", CASES)
def test_beside_float32(name, kv_format, large, tolerance):
    model, tokens, first = Layer(name), tokens_of(700), 0
    arrays = arrays_of(model, large)
    ours = native(model, arrays, kv_format=kv_format)
    reference = TorchExecutor(model, Checkpoint.from_arrays({}, arrays), num_blocks=48)
    for count in (1, 31, 32, 33, 2, 200, 300, 1, 5, 64):
        rows = [(tokens[first : first + count], first, TABLE)]
        expected = step(reference, rows)
        error = (step(ours, rows) - expected).abs().max() / expected.abs().max()
        assert 0 < error <= tolerance, first
        first += count


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize(("name", "kv_format"), [*((name, "int16") for name in CASES), ("odd heads", "int8")])
def test_the_same_bits_however_the_rows_are_cut(name, kv_format, isa, monkeypatch):
    monkeypatch.setenv("FREEHOLD_ISA", isa)
    model, tokens, other = Layer(name), tokens_of(550), tokens_of(290, seed=1)
    arrays = arrays_of(model)
    whole = native(model, arrays, kv_format=kv_format, threads=1)
    expected = step(whole, [(tokens[:512], 0, TABLE)]), step(whole, [(tokens[512:], 512, TABLE)])
    for chunk in (1, 7, 64):
        executor = native(model, arrays, kv_format=kv_format, fusing=chunk != 7)
        for first in range(0, 550, chunk):
            rows = step(executor, [(tokens[first : first + chunk], first, TABLE)])
            assert first < 512 or (rows == expected[1][first - 512 :][: len(rows)]).all()
        assert (step(executor, [(tokens[500:512], 500, TABLE)]) == expected[0][-12:]).all()
    # In a batch, on blocks that another request filled.
    rows = step(executor, [(other[:280], 0, list(range(34, 44))), (tokens[512:], 512, TABLE), (other[:9], 0, [0])])
    assert (rows[-47:-9] == expected[1]).all()
    last = step(executor, [(tokens[549:], 549, TABLE), (other[280:281], 280, list(range(34, 44)))])
    assert (last[0] == expected[1][-1]).all()
    assert (rows[-9:] == step(executor, [(other[:9], 0, [1])])).all()


@pytest.mark.parametrize(("name", "kv_format"), [*((name, "int16") for name in CASES), ("odd heads", "int8")])
def test_instruction_sets_agree(name, kv_format, monkeypatch):
    model, tokens, results = Layer(name), tokens_of(330), []
    for isa in _native.supported_isas():
        monkeypatch.setenv("FREEHOLD_ISA", isa)
        if isa != "portable":  # which lacks fused multiply-add
            results.append(step(native(model, arrays_of(model), kv_format=kv_format), [(tokens, 0, TABLE)]))
    assert all((result == results[0]).all() for result in results)


def test_a_token_that_is_not_a_number_spoils_what_sees_it_alone():
    model, tokens = Layer("window"), [t for t in tokens_of(300) if t != 3]
    arrays = arrays_of(model)
    arrays["model.embed_tokens.weight"][3] = float("nan")
    executor = native(model, arrays)
    tokens[60] = 3
    steps = [step(executor, [(tokens[first : first + 64], first, TABLE)]) for first in (0, 64, 128)]
    seen = range(60, 60 + model.options["window"])
    assert torch.cat(steps).isfinite().all(-1).tolist() == [position not in seen for position in range(192)]


def test_memory_of_a_block():
    """Each channel of a key and a value, and a scale for each of the two."""
    model = Layer("two to a head")
    for kv_format, channel_bytes in (("int16", 2), ("int8", 1)):
        layout = Cache(model, dtype=None, kv_format=kv_format).layout
        assert layout.block_bytes == 32 * model.kv_heads * 2 * (channel_bytes * model.dim + 4)
