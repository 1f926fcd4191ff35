"""Statistics of weights, from samples within a budget of time: NaN, infinities, constants, zeros, outliers.

A sample says what is there, never that nothing else is: the report says how much was looked at.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from freehold import _native
from freehold.inspection.trust.finding import Finding, Severity, Topic, visible
from freehold.inspection.trust.safetensors_check import DTYPE_BITS

BUDGET_S = 1.0
_SLICES, _SLICE_BYTES = 16, 4096  # of a tensor; the first and the last bytes are among them
_LARGEST = 1e4  # a weight beyond this is no weight: float16 ends at 65,504
_OUTLIER = 5000  # times a matrix's median; trained ones were seen with 800
_NATIVE = {"F32": "F32", "F16": "F16", "BF16": "BF16"}


@dataclass(frozen=True, slots=True)
class Weights:
    """A tensor's bytes where they lie: `form` is a format of ours or a dtype of safetensors."""

    file: str
    name: str
    shape: tuple[int, ...]
    form: str
    data: Any
    block_bytes: int


@dataclass(frozen=True)
class Sampled:
    findings: tuple[Finding, ...]
    num_tensors: int  # looked at
    num_bytes: int  # read
    total_tensors: int
    total_bytes: int


def sample(weights: Iterable[Weights], budget_s: float = BUDGET_S) -> Sampled:
    """Look at slices of as many tensors as the time allows, those spread over the model first."""
    weights = list(weights)
    end = time.monotonic() + budget_s
    findings: list[Finding] = []
    looked, num_bytes = 0, 0
    for tensor in _spread(weights):
        if time.monotonic() > end:
            break
        values, read = _values(tensor)
        looked, num_bytes = looked + 1, num_bytes + read
        if values is not None:
            findings += (
                Finding(Topic.TENSORS, severity, tensor.file, text, visible(tensor.name))
                for severity, text in _strange(tensor, values)
            )
    total = sum(tensor.data.nbytes for tensor in weights)
    return Sampled(tuple(findings), looked, num_bytes, len(weights), total)


def _spread(weights: list[Weights]) -> Iterator[Weights]:
    """All of them, in strides: where time runs out, every part of the model has been seen."""
    stride = max(1, math.isqrt(len(weights)))
    for start in range(stride):
        yield from weights[start::stride]


def _values(tensor: Weights) -> tuple[Any | None, int]:
    """(sampled values as float32 or None for whole numbers, bytes read)."""
    import numpy

    parts = [tensor.data[start:stop] for start, stop in _slices(tensor.data.nbytes, tensor.block_bytes)]
    joined = b"".join(parts)
    if tensor.form in DTYPE_BITS and tensor.form not in _NATIVE:
        small = _SMALL_FLOATS.get(tensor.form)
        if small is not None:
            return small()[numpy.frombuffer(joined, numpy.uint8)], len(joined)
        if tensor.form == "F64":
            return numpy.frombuffer(joined, "<f8"), len(joined)
        return None, len(joined)
    return _native.dequantize(_NATIVE.get(tensor.form, tensor.form), joined), len(joined)


def _slices(num_bytes: int, block_bytes: int) -> Iterator[tuple[int, int]]:
    blocks, take = num_bytes // block_bytes, max(1, _SLICE_BYTES // block_bytes)
    if blocks <= _SLICES * take:
        yield 0, blocks * block_bytes
        return
    for i in range(_SLICES):
        start = (blocks - take) * i // (_SLICES - 1)
        yield start * block_bytes, (start + take) * block_bytes


def _strange(tensor: Weights, values: Any) -> Iterator[tuple[Severity, str]]:
    import numpy

    if not values.size:
        return
    finite = numpy.isfinite(values)
    if not finite.all():
        what = "NaN" if numpy.isnan(values).any() else "infinite values"
        yield Severity.DANGER, f"holds {what}: {values.size - int(finite.sum())} of {values.size} sampled"
        values = values[finite]
    if not values.size:
        return
    low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    is_matrix = len(tensor.shape) > 1 and math.prod(tensor.shape) > 1
    if is_matrix and low == high:
        yield Severity.CAUTION, "is zero throughout" if low == 0 else f"is {low:g} throughout"
    elif largest > _LARGEST:
        yield Severity.CAUTION, f"reaches {largest:.3g}: no trained weight does"
    elif is_matrix and largest > _OUTLIER * (median := float(numpy.median(numpy.abs(values)))) > 0:
        yield Severity.CAUTION, f"has a value {largest / median:.0f} times as large as half of its values"


@cache
def _float8(exponent_bits: int, bias: int) -> Any:
    """Values of the 256 bytes of E4M3 (without infinities) or E5M2 (Micikevicius et al. 2022)."""
    import numpy

    mantissa_bits = 7 - exponent_bits
    table = numpy.empty(256, numpy.float32)
    for byte in range(256):
        exponent, mantissa = byte >> mantissa_bits & (1 << exponent_bits) - 1, byte & (1 << mantissa_bits) - 1
        fraction = mantissa / (1 << mantissa_bits)
        value = math.ldexp(1 + fraction, exponent - bias) if exponent else math.ldexp(fraction, 1 - bias)
        if exponent_bits == 4 and byte & 0x7F == 0x7F:
            value = math.nan
        elif exponent_bits == 5 and exponent == 31:
            value = math.nan if mantissa else math.inf
        table[byte] = -value if byte >> 7 else value
    return table


_SMALL_FLOATS = {"F8_E4M3": lambda: _float8(4, 7), "F8_E5M2": lambda: _float8(5, 15)}
