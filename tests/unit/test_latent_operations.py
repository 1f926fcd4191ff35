"""Latent attention and selected keys: the native executor beside torch's, and the same bits however rows are cut."""

import math

import gguf
import pytest

torch = pytest.importorskip("torch", reason="torch is the reference")

from one_layer import VOCABULARY, OneLayer, step, tokens_of  # noqa: E402

from freehold import _native, ops  # noqa: E402
from freehold.executors.native import NativeExecutor  # noqa: E402
from freehold.executors.native.plan import Cache, memory_plan  # noqa: E402
from freehold.executors.torch import TorchExecutor  # noqa: E402
from freehold.weights.checkpoint import Checkpoint  # noqa: E402
from freehold.weights.tensors import Tensor  # noqa: E402

WIDTH = 64
FLOATS, INT16 = {}, {"dtype": None, "kv_format": "int16"}  # how rows are kept
# name: (heads, rank, plain channels, rope channels, channels of a value, keys that a query sees)
SIZES = {
    "odd sizes": (4, 40, 24, 9, 20, None),
    "many heads": (20, 64, 32, 16, 32, None),
    "one head": (1, 31, 33, 32, 1, None),
    "a few keys": (4, 40, 24, 16, 20, 6),
    "keys of two spans": (17, 32, 32, 16, 16, 300),
}


class Layer(OneLayer):
    """A model of one layer of latent attention."""

    def __init__(self, name, index_heads=6, index_dim=24):
        self.index_heads, self.index_dim = index_heads, index_dim
        self.heads, self.rank, self.plain, self.rope, self.value, self.top_k = SIZES[name]
        super().__init__(width=WIDTH, heads=self.heads, kv_heads=1, head_dim=self.rank + self.rope)

    def parameter_shapes(self):
        return {
            "model.embed_tokens.weight": (VOCABULARY, WIDTH),
            "q": (self.heads * (self.plain + self.rope), WIDTH),
            "latent": (self.rank, WIDTH),
            "turned": (self.rope, WIDTH),
            "key_up": (self.heads, self.rank, self.plain),
            "value_up": (self.heads, self.value, self.rank),
            "index_q": (self.index_heads * self.index_dim, WIDTH),
            "index_k": (self.index_dim, WIDTH),
            "index_weights": (self.index_heads, WIDTH),
            "lm_head.weight": (VOCABULARY, self.heads * self.value),
        }

    def caches(self):
        index = {"index_keys": self.index_dim} if self.top_k else {}
        return [ops.CacheSpec({"latents": self.rank, "rope_keys": self.rope, **index})]

    def operation(self, x, p, batch):
        cache, selected = batch.caches[0], None
        if self.top_k:
            index = (ops.linear(x, p[f"index_{name}"]) for name in ("q", "k", "weights"))
            selected = ops.select_keys(*index, cache, top_k=self.top_k)
        q, latents, turned = (ops.linear(x, p[name]) for name in ("q", "latent", "turned"))
        up = p["key_up"], p["value_up"]
        return ops.latent_attention(q, latents, turned, *up, cache, scale=0.4, selected=selected)


def arrays_of(model):
    generator = torch.Generator().manual_seed(5)
    return {
        name: (torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) * 2).numpy()
        for name, shape in model.parameter_shapes().items()
    }


def native(model, checkpoint=None, **options):
    checkpoint = checkpoint or Checkpoint.from_arrays({}, arrays_of(model))
    return NativeExecutor(model, checkpoint, num_blocks=48, **({"threads": 2, "dtype": "float32"} | options))


TABLE = [7, 3, *range(10, 34)]


def in_chunks(executor, tokens, chunk):
    starts = range(0, len(tokens), chunk)
    return torch.cat([step(executor, [(tokens[start : start + chunk], start, TABLE)]) for start in starts])


@pytest.mark.parametrize("name", SIZES)
def test_native_beside_torch(name):
    model, tokens, first = Layer(name), tokens_of(700), 0
    checkpoint = Checkpoint.from_arrays({}, arrays_of(model))
    ours, reference = native(model, checkpoint), TorchExecutor(model, checkpoint, num_blocks=48)
    for count in (1, 31, 32, 33, 2, 200, 300, 1, 5, 64):
        rows = [(tokens[first : first + count], first, TABLE)]
        expected = step(reference, rows)
        assert (step(ours, rows) - expected).abs().max() <= 2e-5 * expected.abs().max(), first
        first += count


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize(
    ("name", "form"), [("odd sizes", FLOATS), ("keys of two spans", FLOATS), *((name, INT16) for name in SIZES)]
)
def test_the_same_bits_however_the_rows_are_cut(name, form, isa, monkeypatch):
    monkeypatch.setenv("FREEHOLD_ISA", isa)
    model, tokens, other = Layer(name), tokens_of(550), tokens_of(290, seed=1)
    whole = native(model, threads=1, **form)
    expected = in_chunks(whole, tokens[:512], 64), step(whole, [(tokens[512:], 512, TABLE)])
    for chunk in (1, 7, 64):
        executor = native(model, fusing=chunk != 7, **form)
        assert (in_chunks(executor, tokens[:512], chunk) == expected[0]).all()
        assert (in_chunks(executor, tokens, 512)[-38:] == expected[1]).all()
    # In a batch, on blocks that another request filled.
    rows = step(executor, [(other[:280], 0, list(range(34, 44))), (tokens[512:], 512, TABLE), (other[:9], 0, [0])])
    assert (rows[-47:-9] == expected[1]).all()
    last = step(executor, [(tokens[549:], 549, TABLE), (other[280:281], 280, list(range(34, 44)))])
    assert (last[0] == expected[1][-1]).all()
    assert (rows[-9:] == step(executor, [(other[:9], 0, [1])])).all()


@pytest.mark.parametrize("form", [FLOATS, INT16])
def test_instruction_sets_agree(form, monkeypatch):
    tokens, results = tokens_of(330), []
    for isa in _native.supported_isas():
        monkeypatch.setenv("FREEHOLD_ISA", isa)
        if isa != "portable":  # which lacks fused multiply-add
            results.append(step(native(Layer("keys of two spans"), **form), [(tokens, 0, TABLE)]))
    assert all((result == results[0]).all() for result in results)


def test_of_equal_ranks_the_earlier_positions_are_selected():
    """Ranks are small multiples of 1/8, exact on both executors, so that most are equal."""
    model = Layer("a few keys", index_heads=4, index_dim=16)
    generator, arrays = torch.Generator().manual_seed(2), arrays_of(model)
    arrays["model.embed_tokens.weight"] = torch.randint(-1, 2, (VOCABULARY, WIDTH), generator=generator).float().numpy()
    for name, per_row in {"index_q": 2, "index_k": 1, "index_weights": 1}.items():
        matrix = torch.zeros(arrays[name].shape)
        for row in matrix:
            row[torch.randperm(WIDTH, generator=generator)[:per_row]] = 1.0
        arrays[name] = matrix.numpy()
    checkpoint, tokens = Checkpoint.from_arrays({}, arrays), tokens_of(400)
    ours, reference = native(model, checkpoint), TorchExecutor(model, checkpoint, num_blocks=48)
    for start in range(0, 400, 50):
        rows = [(tokens[start : start + 50], start, TABLE)]
        expected = step(reference, rows)
        assert (step(ours, rows) - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_selecting_all_is_attending_to_all():
    tokens = tokens_of(500)
    selective, plain = Layer("keys of two spans"), Layer("keys of two spans")
    selective.top_k, plain.top_k = 600, None
    assert (step(native(selective), [(tokens, 0, TABLE)]) == step(native(plain), [(tokens, 0, TABLE)])).all()


@pytest.mark.parametrize(("kv_format", "tolerance"), [("int16", 1e-3), ("bf16", 1e-2), ("int8", 1e-3), ("f32", 1e-6)])
def test_rows_are_kept_as_precisely_as_was_asked_for(kv_format, tolerance):
    """For int8 in integers of 16 bits too, with a scale for each row."""
    model, tokens = Layer("many heads"), tokens_of(300)
    exact = step(native(model), [(tokens, 0, TABLE)])
    kept = step(native(model, dtype=None, kv_format=kv_format), [(tokens, 0, TABLE)])
    error = (kept - exact).abs().max() / exact.abs().max()
    assert error <= tolerance
    assert (error > 0) == (kv_format != "f32")
    columns = model.rank + _native.ROW_COLUMNS  # rope's channels are fewer
    row_bytes = {"f32": 4 * columns, "bf16": 2 * columns}.get(kv_format, 2 * columns + 2 * 4)
    cache = Cache(model, dtype=None, kv_format=kv_format)
    assert cache.layout.block_bytes == 32 * row_bytes
    assert set(cache.formats.values()) == {{"f32": "f32", "bf16": "bf16"}.get(kv_format, "int16")}
    if kv_format == "int8":
        assert (kept == step(native(model, dtype=None, kv_format="int16"), [(tokens, 0, TABLE)])).all()


@pytest.mark.parametrize("form", ["Q8_0", "Q4_0", "F16", "BF16"])
def test_matrices_of_heads_run_in_their_format(form):
    model, tokens = Layer("many heads"), tokens_of(40)
    arrays, kind = arrays_of(model), gguf.GGMLQuantizationType[form]
    tensors = dict(Checkpoint.from_arrays({}, arrays).tensors)
    for name in ("key_up", "value_up"):
        blocks = gguf.quants.quantize(arrays[name], kind)
        tensors[name] = Tensor(name, arrays[name].shape, form, memoryview(blocks).cast("B"))
        arrays[name] = gguf.quants.dequantize(blocks, kind)
    expected = step(native(model, Checkpoint.from_arrays({}, arrays)), [(tokens, 0, TABLE)])
    executor = native(model, Checkpoint((), {}, tensors), dtype=None, kv_format="f32")
    whole = step(executor, [(tokens, 0, TABLE)])
    error = (whole - expected).abs().max() / expected.abs().max()
    assert error <= (2e-2 if form.startswith("Q") else 1e-6)  # rows are int8 in blocks where the matrix is quantized
    for row, token in enumerate(tokens):
        assert (step(executor, [([token], row, TABLE)])[0] == whole[row]).all()


def test_memory_is_planned():
    model = Layer("many heads")
    plan = memory_plan(model, Checkpoint.from_arrays({}, arrays_of(model)), kv_format="f32", max_rows=100)
    shapes = model.parameter_shapes()
    names = ("q", "latent", "turned", "key_up", "value_up")
    matrices = sum(4 * math.prod(shapes[name]) for name in names) + 4 * 64 * model.heads * model.value
    assert plan.weights_bytes == matrices  # those of the head padded to whole panels
    absorbed = model.heads * model.rank
    assert plan.activations_bytes >= 4 * 100 * absorbed
    assert plan.block_bytes == 4 * 32 * (model.rank + _native.ROW_COLUMNS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(q=0), "latent attention: width 64, expected 80"),
        (dict(absorbed=1), "latent attention: width 80, expected 128"),
        (dict(out=0), "latent attention: width 64, expected 128"),
        (dict(selected=0, top_k=9), "latent attention: width 64, expected 9"),
    ],
)
def test_a_program_refuses_buffers_that_do_not_fit(change, message):
    layout = _native.CacheLayout("int16", 0, 1, 1)
    rows = [layout.add_rows(width) for width in (50, 16)]
    program = _native.Program(_native.Pool(1, ""), max_rows=4, max_logit_rows=1, cache=layout, num_blocks=1)
    for width in (64, 80, 128):
        program.buffer(width, False)
    options = dict(absorbed=2, q=1, out=2, latents=rows[0], rope_keys=rows[1], num_heads=2, plain_dim=24, scale=1.0)
    program.latent_attention(**options)
    with pytest.raises(ValueError, match=message):
        program.latent_attention(**(options | change))


@pytest.mark.parametrize("form", [FLOATS, INT16])
def test_a_row_that_is_not_a_number_spoils_what_sees_it_alone(form):
    model, tokens = Layer("many heads"), [t for t in tokens_of(90) if t != 3]
    arrays = arrays_of(model)
    arrays["model.embed_tokens.weight"][3] = float("nan")
    executor = native(model, Checkpoint.from_arrays({}, arrays), **form)
    tokens[60] = 3
    finite = step(executor, [(tokens[:64], 0, TABLE)]).isfinite().all(-1)
    assert finite.tolist() == ([True] * 60 + [False] * 4)[-len(finite) :]
