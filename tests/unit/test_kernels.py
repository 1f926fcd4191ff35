"""Kernels of every instruction set that this machine has, against plain float64, for every format.

A Program of one embedding (a table of float32 rows: the inputs) and one operation is the smallest thing that runs.
"""

import gguf
import numpy as np
import pytest

from freehold import _native
from random_models import HALVES, quantized_bits

ISAS = _native.supported_isas()
QUANTIZED = [*HALVES, "INT4_F16", "INT4_BF16"]
PLAIN = ["F32", "F16", "BF16", "FP8_32", "FP8_128"]
SUPER = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"}


def random_weight(form, rows, cols, seed=0):
    """(bytes as in a file, float64 values) of a random matrix."""
    rng = np.random.default_rng(seed)
    if form.startswith("INT4"):
        return int4_weight(form, rows, cols, rng)
    if form.startswith("FP8"):
        return fp8_weight(int(form.removeprefix("FP8_")), rows, cols, rng)
    kind = gguf.GGMLQuantizationType[form]
    if form in PLAIN:
        raw = gguf.quants.quantize(rng.standard_normal((rows, cols)).astype(np.float32), kind)
        return raw.tobytes(), gguf.quants.dequantize(raw, kind).astype(np.float64)
    raw = quantized_bits(form, (rows, cols), rng, scales=(-1, 1), exponents=(120, 134))
    return raw.tobytes(), gguf.quants.dequantize(raw, kind).astype(np.float64)


def int4_weight(form, rows, cols, rng):
    """w = scale (q - zero) for 32 columns, low nibbles first."""
    codes, zeros = rng.integers(0, 16, (rows, cols // 32, 32), dtype=np.uint8), rng.integers(0, 16, (rows, cols // 32))
    scales = rng.uniform(-1, 1, (rows, cols // 32)).astype(np.float32)
    bits = scales.view(np.uint32) >> 16 if form == "INT4_BF16" else scales.astype(np.float16).view(np.uint16)
    seen = (bits << 16).astype(np.uint32).view(np.float32) if form == "INT4_BF16" else scales.astype(np.float16)
    blocks = np.empty((rows, cols // 32, 19), np.uint8)
    blocks[..., :2] = bits.astype(np.uint16)[..., None].view(np.uint8)
    blocks[..., 2] = zeros
    blocks[..., 3:] = codes[..., :16] | codes[..., 16:] << 4
    values = seen.astype(np.float64)[..., None] * (codes.astype(np.float64) - zeros[..., None])
    return blocks.tobytes(), values.reshape(rows, cols)


def fp8_weight(unit, rows, cols, rng):
    """w = scale e4m3(q), one scale for `unit` columns; all codes but the NaNs appear."""
    codes = rng.permutation(np.resize([q for q in range(256) if q & 127 != 127], rows * cols)).astype(np.uint8)
    magnitude = np.where(
        codes >> 3 & 15, (8 + (codes & 7)) * 2.0 ** ((codes >> 3 & 15).astype(int) - 10), (codes & 7) * 2.0**-9
    )
    values = np.where(codes & 128, -magnitude, magnitude).reshape(rows, -1, unit)
    scales = rng.uniform(-0.01, 0.01, (rows, cols // unit)).astype(np.float32)
    blocks = np.empty((rows, cols // unit, 4 + unit), np.uint8)
    blocks[..., :4] = scales[..., None].view(np.uint8)
    blocks[..., 4:] = codes.reshape(rows, -1, unit)
    return blocks.tobytes(), (values * scales.astype(np.float64)[..., None]).reshape(rows, cols)


def program(isa, inputs, threads=2):
    pool = _native.Pool(threads, isa)
    made = _native.Program(
        pool,
        max_rows=max(64, len(inputs)),
        max_logit_rows=1,
        cache=_native.CacheLayout("f32", 1, 1, 16),
        num_blocks=4,
    )
    x = made.buffer(inputs.shape[1], False)
    made.embedding("F32", inputs.tobytes(), None, 0, *inputs.shape, x)
    return pool, made, x


def step(made, tokens, output):
    """Run the rows and return the buffer `output` of each, through the logit rows' one-row window."""
    rows = []
    for row in range(len(tokens)):
        made.run(tokens, [0] * len(tokens), list(range(len(tokens) + 1)), [[0]] * len(tokens), [row])
        rows.append(made.logits()[0])
    return np.array(rows)


def linear(isa, weight, inputs, rows, threads=2, bias=(), residual=False):
    """Outputs of the matrix for `rows` of the inputs, all in one step."""
    form, shape, raw = weight
    pool, made, x = program(isa, inputs, threads)
    packed = _native.pack(pool, _native.WeightArena(_native.packed_bytes(form, *shape)), [(form, *shape, raw, False)])
    y, out = made.buffer(shape[0], False), made.buffer(shape[0], True)
    made.linear("test", x, [], 0.0, [(packed[0], list(bias), y)], residual=x if residual else -1)
    made.select_rows(y, out)
    made.output(out)
    return step(made, rows, out)


def quantized_rows(x):
    """Rows as the kernels see them: int8 codes in blocks of 32."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    largest = abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return (np.rint(blocks * inverse) * (largest / np.float32(127)).astype(np.float64)).reshape(x.shape)


def random_rows(count, width, seed=1):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("form", QUANTIZED + PLAIN)
@pytest.mark.parametrize("isa", ISAS)
def test_linear_agrees_with_float64(isa, form):
    for outputs, inputs in [(1, 256), (33, 512)] if form in SUPER | {"FP8_128"} else [(1, 32), (31, 96), (64, 224)]:
        raw, values = random_weight(form, outputs, inputs)
        x = random_rows(20, inputs)
        seen = x.astype(np.float64) if form in PLAIN else quantized_rows(x)
        expected = seen @ values.T
        ours = linear(isa, (form, (outputs, inputs), raw), x, list(range(20)))
        assert abs(ours - expected).max() <= 2e-6 * (abs(seen) @ abs(values).T).max()


@pytest.mark.parametrize("form", QUANTIZED + PLAIN)
def test_instruction_sets_agree_bit_for_bit(form):
    shape = (48, 512)
    raw, _ = random_weight(form, *shape)
    x = random_rows(40, shape[1])
    with_fma = [isa for isa in ISAS if isa != "portable"]
    outputs = [linear(isa, (form, shape, raw), x, list(range(40))) for isa in with_fma]
    for output in outputs[1:]:
        assert (output == outputs[0]).all()


@pytest.mark.parametrize("form", QUANTIZED + PLAIN)
@pytest.mark.parametrize("isa", ISAS)
def test_a_row_does_not_see_its_neighbours(isa, form):
    shape = (64, 256)
    raw, _ = random_weight(form, *shape)
    x = random_rows(37, shape[1])
    together = linear(isa, (form, shape, raw), x, list(range(37)))
    for rows in ([3], [3, 4], [0, 1, 2, 3, 4], list(range(3, 20))):
        for threads in (1, 2):
            alone = linear(isa, (form, shape, raw), x, rows, threads=threads)
            assert (alone == together[rows]).all()


@pytest.mark.parametrize("isa", ISAS)
def test_bias_and_residual(isa):
    raw, values = random_weight("F32", 64, 64)
    x, bias = random_rows(5, 64), random_rows(1, 64, seed=9)[0]
    ours = linear(isa, ("F32", (64, 64), raw), x, [0, 1, 2, 3, 4], bias=bias.tolist(), residual=True)
    assert np.allclose(ours, x @ values.T + bias + x, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", ["FP8_32", "FP8_128"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_code_that_is_no_number_is_not_silently_mended(isa, form):
    raw, _ = random_weight(form, 16, 256)
    blocks = np.frombuffer(raw, np.uint8).reshape(16, -1).copy()
    blocks[3, 40], blocks[5, 40] = 0x7F, 0xFF
    ours = linear(isa, (form, (16, 256), blocks.tobytes()), random_rows(3, 256), [0, 1, 2])
    assert np.isnan(ours[:, [3, 5]]).all()
    assert np.isfinite(np.delete(ours, [3, 5], axis=1)).all()
    values = _native.dequantize(form, blocks.tobytes()).reshape(16, 256)
    assert np.isnan(values).sum() == 2


@pytest.mark.parametrize("form", ["INT4_F16", "INT4_BF16", "FP8_32", "FP8_128"])
def test_published_formats_dequantize_exactly(form):
    raw, values = random_weight(form, 16, 256)
    assert (_native.dequantize(form, raw).reshape(16, 256) == values.astype(np.float32)).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("isa", ISAS)
def test_a_poisoned_row_is_not_silently_mended(isa, poison):
    raw, _ = random_weight("Q8_0", 16, 64)
    x = random_rows(3, 64)
    x[1, 40] = poison
    ours = linear(isa, ("Q8_0", (16, 64), raw), x, [0, 1, 2])
    assert np.isnan(ours[1]).all()
    assert np.isfinite(ours[[0, 2]]).all()


def test_a_wrong_shape_is_refused():
    pool = _native.Pool(1, "")
    with pytest.raises(ValueError, match="bytes do not make that shape"):
        _native.pack(pool, _native.WeightArena(1 << 16), [("Q8_0", 16, 64, b"\0" * 100, False)])


@pytest.mark.parametrize("threads", [1, 3])
def test_what_fails_while_weights_are_packed_is_raised_when_they_are(threads):
    pool, form, (raw, _) = _native.Pool(threads, ""), "Q8_0", random_weight("Q8_0", 64, 64)
    arena = _native.WeightArena(2 * _native.packed_bytes(form, 64, 64))

    def fail():
        raise LookupError("no such vocabulary")

    with pytest.raises(LookupError, match="no such vocabulary"):
        _native.pack(pool, arena, [(form, 64, 64, raw, False)], fail)
    called = []
    assert len(_native.pack(pool, arena, [(form, 64, 64, raw, False)], lambda: called.append(1))) == 1
    assert called == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(tokens=[0, 9]), "token 9 is not in the vocabulary"),
        (dict(positions=[0, 2]), "positions are not consecutive"),
        (dict(block_tables=[[]]), "block table too short"),
        (dict(block_tables=[[4]]), "block out of range"),
        (dict(logit_rows=[2]), "logit row out of range"),
        (dict(row_starts=[0, 3]), "rows of a request"),
        (dict(tokens=[], positions=[]), "row_starts"),
    ],
)
def test_a_bad_step_is_refused(change, message):
    _, made, x = program("", random_rows(4, 16))
    good = dict(tokens=[0, 1], positions=[0, 1], row_starts=[0, 2], block_tables=[[0]], logit_rows=[])
    made.output(x)
    made.run(**good)
    with pytest.raises(ValueError, match=message):
        made.run(**(good | change))
