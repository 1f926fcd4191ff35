"""The quantizers: byte for byte those of the gguf package where it has them, no worse than llama.cpp's where not."""

import ctypes
import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest

from freehold import _native

EXACT = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]
SEARCHED = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
COLUMNS = 1024


def values(kind, seed=0):
    rng = np.random.default_rng(seed)
    made = {
        "normal": lambda: rng.standard_normal((48, COLUMNS)),
        "heavy": lambda: rng.standard_t(3, (48, COLUMNS)),
        "columns": lambda: rng.standard_normal((48, COLUMNS)) * rng.uniform(0.1, 3, COLUMNS),
        "positive": lambda: rng.uniform(0.5, 1, (48, COLUMNS)),
    }
    return np.ascontiguousarray(made[kind]() * 0.02, np.float32)


KINDS = ["normal", "heavy", "columns", "positive"]


def ours(form, x, importance=None, threads=2):
    return _native.quantize(form, x.ravel(), x.shape[1], importance, threads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", EXACT)
def test_exactly_as_the_gguf_package(form, kind):
    x = values(kind)
    x[3, :64] = 0
    expected = gguf.quants.quantize(x, gguf.GGMLQuantizationType[form])
    assert (ours(form, x) == expected.view(np.uint8).ravel()).all()


@pytest.fixture(scope="module")
def ggml():
    found = importlib.util.find_spec("xllamacpp")
    if found is None or not found.submodule_search_locations:
        pytest.skip("xllamacpp, which carries llama.cpp's quantizers, is not installed")
    library = ctypes.CDLL(str(next(Path(found.submodule_search_locations[0]).glob("*.so"))))
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]

    def quantize(form, x, importance):
        kind = gguf.GGMLQuantizationType[form]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.zeros(x.size // elements * size, np.uint8)
        weights = importance.ctypes.data if importance is not None else None
        library.ggml_quantize_chunk(int(kind), x.ctypes.data, out.ctypes.data, 0, *x.shape, weights)
        return out

    return quantize


def error(form, blocks, x, importance):
    weight = 1 if importance is None else importance
    difference = _native.dequantize(form, blocks.tobytes()).reshape(x.shape) - x
    return float(np.sqrt((weight * difference**2).sum() / (weight * x**2).sum()))


@pytest.mark.parametrize("important", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [*SEARCHED, "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_no_worse_than_llama_cpp(form, kind, important, ggml):
    x = values(kind)
    importance = np.random.default_rng(1).uniform(0.1, 10, COLUMNS).astype(np.float32) if important else None
    theirs = error(form, ggml(form, x, importance), x, importance)
    assert error(form, ours(form, x, importance), x, importance) <= 1.02 * theirs


@pytest.mark.parametrize("form", EXACT + SEARCHED)
def test_blocks_of_nothing_and_of_one_value(form):
    x = np.zeros((2, 256), np.float32)
    assert (_native.dequantize(form, ours(form, x).tobytes()) == 0).all()
    x[1, 37] = -0.25
    got = _native.dequantize(form, ours(form, x).tobytes()).reshape(2, 256)
    assert (got[0] == 0).all()
    assert got[1, 37] == pytest.approx(-0.25, rel=0.02)
    assert (abs(np.delete(got[1], 37)) <= 0.003).all()


@pytest.mark.parametrize("form", SEARCHED)
def test_threads_change_nothing(form):
    x = values("normal")
    assert (ours(form, x, threads=1) == ours(form, x, threads=3)).all()


@pytest.mark.parametrize(
    ("form", "count", "cols", "importance"),
    [("Q4_K", 256, 100, None), ("FP8_128", 256, 256, None), ("Q8_0", 100, 64, None), ("Q4_0", 64, 64, 32)],
)
def test_a_wrong_shape_is_refused(form, count, cols, importance):
    weights = None if importance is None else np.ones(importance, np.float32)
    with pytest.raises(ValueError, match="quantize: shape"):
        _native.quantize(form, np.zeros(count, np.float32), cols, weights, 1)
