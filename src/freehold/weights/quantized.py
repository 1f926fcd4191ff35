"""Weights that labs publish quantized: their several tensors become one, laid out in a format that runs; no value
changes.

| published as | tensors | becomes |
| --- | --- | --- |
| FP8 E4M3 with block scales (DeepSeek, Qwen3-FP8, MiniMax) | weight, weight_scale_inv | FP8_128, FP8_32 |
| MXFP4 (gpt-oss) | …_blocks, …_scales | MXFP4 |
| compressed-tensors, packed int4 (Kimi K2 Thinking) | weight_packed, weight_scale | INT4_BF16, INT4_F16 |
| AWQ, GPTQ int4 | qweight, qzeros, scales, g_idx | INT4_F16, INT4_BF16; with desc_act F16 |
| GPTQ int8, symmetric | the same | Q8_0 |

References: transformers `integrations/finegrained_fp8.py` and `mxfp4.py`, compressed-tensors `pack_quantized`,
AutoAWQ `packing_utils.py`, GPTQModel `qlinear`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from freehold import _native
from freehold.errors import ModelFileError, UnsupportedError
from freehold.weights.tensors import AnyTensor, DerivedTensor, StackedTensor, TurnedTensor

COLUMNS = 32  # of a block of int4
FP8 = "F8_E4M3"
_INT4 = {"F16": "INT4_F16", "BF16": "INT4_BF16"}


def assemble(tensors: Mapping[str, AnyTensor], config: Mapping[str, Any]) -> dict[str, AnyTensor]:
    """The checkpoint's tensors with those of each quantized weight made one, by the name of the weight.

    Raises ModelFileError where they do not fit together, UnsupportedError for a scheme that is not here.
    """
    assembly = _Assembly(tensors, _quantization(config))
    for name, tensor in tensors.items():
        if name.endswith(".qweight"):
            assembly.add_grouped(name.removesuffix("qweight"))
        elif name.endswith(".weight_packed"):
            assembly.add_packed(name.removesuffix("weight_packed"))
        elif name.endswith("_blocks") and name.removesuffix("_blocks") + "_scales" in tensors:
            assembly.add_mxfp4(name.removesuffix("_blocks"))
        elif tensor.format == FP8:
            assembly.add_fp8(name)
    return assembly.tensors


def _quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for values in (config, config.get("text_config")):
        if isinstance(values, Mapping) and isinstance(values.get("quantization_config"), Mapping):
            return values["quantization_config"]
    return {}


class _Assembly:
    def __init__(self, tensors: Mapping[str, AnyTensor], quantization: Mapping[str, Any]):
        self.tensors = dict(tensors)
        self._quantization = quantization

    def _take(self, name: str) -> Any:
        if name not in self.tensors:
            raise ModelFileError(f"{name}: missing beside the other tensors of its weight")
        return self.tensors.pop(name)

    def _take_matrix(self, name: str) -> Any:
        tensor = self._take(name)
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise ModelFileError(f"{name}: expected a matrix, got shape {tensor.shape}")
        return tensor

    def _setting(self, name: str, default: Any) -> Any:
        return self._quantization.get(name, default)

    # FP8

    def add_fp8(self, name: str) -> None:
        scale = next((name + end for end in ("_scale_inv", "_scale") if name + end in self.tensors), None)
        if scale is None:
            raise UnsupportedError(f"{name}: {FP8} without a tensor of scales beside it")
        block = self._setting("weight_block_size", None)
        self.tensors[name] = _fp8(name, self._take(name), self._take(scale), block)

    # MXFP4

    def add_mxfp4(self, name: str) -> None:
        blocks, scales = self._take(name + "_blocks"), self._take(name + "_scales")
        experts, rows, groups = scales.shape if len(scales.shape) == 3 else (0, 0, 0)
        _require(blocks, (experts, rows, groups, COLUMNS // 2), "U8")
        _require(scales, (experts, rows, groups), "U8")
        # The name is that of a matrix which is published as (inputs, outputs) when it is not quantized.
        parts = zip(blocks.parts, scales.parts, strict=True)
        matrices = [_mxfp4(name, part, scale.data, rows, groups * COLUMNS) for part, scale in parts]
        self.tensors[name] = StackedTensor(name, tuple(TurnedTensor.of(matrix) for matrix in matrices))

    # compressed-tensors

    def add_packed(self, place: str) -> None:
        packed, scale = self._take_matrix(place + "weight_packed"), self._take_matrix(place + "weight_scale")
        self.tensors.pop(place + "weight_shape", None)
        if place + "weight_g_idx" in self.tensors or place + "weight_zero_point" in self.tensors:
            raise UnsupportedError(f"{place}weight_packed: zero points and orders of columns are not supported here")
        (rows, groups), cols = scale.shape, 8 * packed.shape[1]
        _require(packed, (rows, cols // 8), "I32")
        name = place + "weight"
        group = _group(name, cols, groups, _packed_bits(self._quantization))

        def header() -> tuple[Any, Any]:
            import numpy

            return _halves(scale), numpy.full(scale.shape, 8, numpy.uint8)

        self.tensors[name] = _int4(name, "rows", packed, scale.format, rows, cols, group, header)

    # AWQ and GPTQ

    def add_grouped(self, place: str) -> None:
        method, bits = self._setting("quant_method", None), self._setting("bits", 4)
        name = place + "weight"
        codes, zeros, scales = (self._take_matrix(place + part) for part in ("qweight", "qzeros", "scales"))
        order = self.tensors.pop(place + "g_idx", None)
        if method == "awq" and bits == 4 and self._setting("version", "gemm") == "gemm":
            self.tensors[name] = _awq(name, codes, zeros, scales)
        elif method == "gptq" and bits in (4, 8):
            v2 = self._setting("checkpoint_format", "gptq") == "gptq_v2"
            self.tensors[name] = _gptq(name, codes, zeros, scales, order, bits, 0 if v2 else 1)
        else:
            version = self._setting("version", None) or self._setting("checkpoint_format", None)
            raise UnsupportedError(f"{name}: quantized by {method} with {bits} bits ({version}): not supported here")


def _require(tensor: Any, shape: tuple[int, ...], form: str) -> None:
    if tensor.shape != shape or tensor.format != form:
        got = f"{tensor.format} {tensor.shape}"
        raise ModelFileError(f"{tensor.name}: expected {form} {shape} by the tensors beside it, got {got}")


def _packed_bits(quantization: Mapping[str, Any]) -> int:
    """Bits of a code, as the first group of compressed-tensors' configuration says."""
    groups = quantization.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    return weights.get("num_bits", 4) if isinstance(weights, Mapping) else 4


def _group(name: str, cols: int, groups: int, bits: int) -> int:
    """Columns that share a scale."""
    if bits != 4:
        raise UnsupportedError(f"{name}: packed with {bits} bits: not supported here")
    group = cols // groups if groups and cols % groups == 0 else 0
    if not group or group % COLUMNS:
        raise UnsupportedError(f"{name}: {cols} columns in {groups} groups: expected multiples of {COLUMNS} columns")
    return group


def _halves(tensor: Any) -> Any:
    """The bits of a tensor of 16-bit floats."""
    import numpy

    return numpy.frombuffer(tensor.data, numpy.uint16).reshape(tensor.shape)


def _words(tensor: Any, axis: int, bits: int) -> Any:
    """The codes of a tensor of 32-bit words, the lowest bits first, in as many more places along `axis`."""
    import numpy

    words = numpy.frombuffer(tensor.data, numpy.uint32).reshape(tensor.shape)
    shifts = numpy.arange(0, 32, bits, dtype=numpy.uint32)
    codes = numpy.stack([(words >> shift) & ((1 << bits) - 1) for shift in shifts], axis=axis + 1)
    shape = list(tensor.shape)
    shape[axis] *= len(shifts)
    return codes.astype(numpy.uint8).reshape(shape)


def _int4(
    name: str, layout: str, codes: Any, form: str, rows: int, cols: int, group: int, header: Callable[[], Any]
) -> DerivedTensor:
    """Rows of blocks from codes in a published layout. `header()`: bits of the scales and zero points, (rows, groups)
    each."""
    if form not in _INT4:
        raise UnsupportedError(f"{name}: scales of {form}: expected F16 or BF16")

    def make() -> Any:
        import numpy

        scales, zeros = (numpy.repeat(part, group // COLUMNS, axis=1) for part in header())
        blocks = numpy.empty((rows, cols // COLUMNS, 3 + COLUMNS // 2), numpy.uint8)
        blocks[:, :, :2] = numpy.ascontiguousarray(scales)[..., None].view(numpy.uint8)
        blocks[:, :, 2] = zeros
        _native.put_nibbles(layout, codes.data, rows, cols, 3, blocks.reshape(-1))
        return blocks

    return DerivedTensor(name, (rows, cols), _INT4[form], make, codes)


def _mxfp4(name: str, codes: Any, scales: Any, rows: int, cols: int) -> DerivedTensor:
    def make() -> Any:
        import numpy

        blocks = numpy.empty((rows, cols // COLUMNS, 1 + COLUMNS // 2), numpy.uint8)
        blocks[:, :, 0] = numpy.frombuffer(scales, numpy.uint8).reshape(rows, -1)
        _native.put_nibbles("bytes", codes.data, rows, cols, 1, blocks.reshape(-1))
        return blocks

    return DerivedTensor(name, (rows, cols), "MXFP4", make, codes)


def _fp8(name: str, weight: Any, scale: Any, block: Any) -> AnyTensor:
    """`block`: rows and columns that share a scale, where the configuration says."""
    if len(weight.shape) == 3 and len(scale.shape) == 3 and weight.shape[0] == scale.shape[0]:
        pairs = zip(weight.parts, scale.parts, strict=True)
        return StackedTensor(name, tuple(_fp8(name, *pair, block) for pair in pairs))
    if len(weight.shape) != 2 or len(scale.shape) > 2 or 0 in weight.shape + scale.shape:
        raise ModelFileError(f"{name}: expected a matrix and a matrix of scales, got {weight.shape} and {scale.shape}")
    rows, cols = weight.shape
    num_rows, num_cols = (*scale.shape, 1, 1)[:2]
    high = block[0] if _is_block(block) and num_rows > 1 else -(-rows // num_rows)
    wide = block[1] if _is_block(block) and num_cols > 1 else -(-cols // num_cols)
    if -(-rows // high) != num_rows or -(-cols // wide) != num_cols:
        raise ModelFileError(f"{scale.name}: {scale.shape} does not fit blocks of {high} x {wide} of {rows, cols}")
    unit = 128 if cols % 128 == 0 and (wide % 128 == 0 or num_cols == 1) else COLUMNS
    if cols % unit or (wide % unit and num_cols > 1):
        raise UnsupportedError(f"{name}: {cols} columns with a scale for {wide}: expected multiples of {COLUMNS}")

    def make() -> Any:
        import numpy

        scales = _scales(scale).reshape(num_rows, num_cols)
        scales = scales[numpy.arange(rows)[:, None] // high, numpy.arange(0, cols, unit) // wide]
        blocks = numpy.empty((rows, cols // unit, 4 + unit), numpy.uint8)
        blocks[:, :, :4] = numpy.ascontiguousarray(scales)[..., None].view(numpy.uint8)
        blocks[:, :, 4:] = numpy.frombuffer(weight.data, numpy.uint8).reshape(rows, -1, unit)
        return blocks

    return DerivedTensor(name, (rows, cols), f"FP8_{unit}", make, weight)


def _is_block(block: Any) -> bool:
    return isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)


def _scales(scale: Any) -> Any:
    """Scales as float32; E8M0 holds exponents alone."""
    import numpy

    if scale.format != "F8_E8M0":
        return scale.dequantize()
    exponents = numpy.frombuffer(scale.data, numpy.uint8).astype(numpy.int32) - 127
    return numpy.ldexp(numpy.float32(1), exponents).astype(numpy.float32)


def _awq(name: str, codes: Any, zeros: Any, scales: Any) -> DerivedTensor:
    cols, rows = codes.shape[0], 8 * codes.shape[-1]
    groups = scales.shape[0]
    _require(codes, (cols, rows // 8), "I32")
    _require(zeros, (groups, rows // 8), "I32")
    _require(scales, (groups, rows), scales.format)

    def header() -> tuple[Any, Any]:
        order = [0, 4, 1, 5, 2, 6, 3, 7]  # where row r of eight stands
        points = _words(zeros, 1, 4).reshape(groups, -1, 8)[:, :, order].reshape(groups, rows)
        return _halves(scales).T, points.T

    return _int4(name, "awq", codes, scales.format, rows, cols, _group(name, cols, groups, 4), header)


def _gptq(name: str, codes: Any, zeros: Any, scales: Any, order: Any | None, bits: int, offset: int) -> DerivedTensor:
    """`offset`: what the file's zero points lack."""
    per_word = 32 // bits
    cols, rows = per_word * codes.shape[0], codes.shape[-1]
    groups = scales.shape[0]
    _require(codes, (cols // per_word, rows), "I32")
    _require(zeros, (groups, rows // per_word), "I32")
    _require(scales, (groups, rows), scales.format)

    def points() -> Any:
        return (_words(zeros, 1, bits) + offset) & ((1 << bits) - 1)

    if order is not None:
        _require(order, (cols,), "I32")
        if not _is_in_order(order, cols, groups):
            return _ordered(name, codes, scales, order, points, bits)
    if bits == 8:
        return _gptq_8(name, codes, scales, points, rows, cols)
    group = _group(name, cols, groups, bits)
    return _int4(name, "gptq", codes, scales.format, rows, cols, group, lambda: (_halves(scales).T, points().T))


def _is_in_order(order: Any, cols: int, groups: int) -> bool:
    import numpy

    return bool((numpy.frombuffer(order.data, numpy.int32) == numpy.arange(cols) // -(-cols // groups)).all())


def _ordered(name: str, codes: Any, scales: Any, order: Any, points: Callable[[], Any], bits: int) -> DerivedTensor:
    """Groups of columns that do not lie together (desc_act): the values themselves, in the scales' own precision, as
    the reference makes them. They take four times the memory of the codes."""
    import numpy

    groups = numpy.frombuffer(order.data, numpy.int32)
    if scales.format != "F16" or groups.min() < 0 or groups.max() >= scales.shape[0]:
        raise ModelFileError(f"{order.name}: expected groups of {scales.shape[0]} scales in F16")

    def make() -> Any:
        difference = _words(codes, 0, bits).astype(numpy.int16) - points()[groups]
        return (difference.astype(numpy.float16) * _halves(scales).view(numpy.float16)[groups]).T

    return DerivedTensor(name, (codes.shape[1], len(groups)), "F16", make, codes)


def _gptq_8(name: str, codes: Any, scales: Any, points: Callable[[], Any], rows: int, cols: int) -> DerivedTensor:
    groups = scales.shape[0]
    group = cols // groups if cols % groups == 0 else 0
    if scales.format != "F16" or not group or group % COLUMNS or not (points() == 128).all():
        raise UnsupportedError(f"{name}: 8 bits: expected symmetric codes, F16 scales, groups of 32 columns and more")

    def make() -> Any:
        import numpy

        blocks = numpy.empty((rows, cols // COLUMNS, 2 + COLUMNS), numpy.uint8)
        spread = numpy.repeat(_halves(scales).T, group // COLUMNS, axis=1)
        blocks[:, :, :2] = numpy.ascontiguousarray(spread)[..., None].view(numpy.uint8)
        blocks[:, :, 2:] = (_words(codes, 0, 8) ^ 0x80).T.reshape(rows, -1, COLUMNS)
        return blocks

    return DerivedTensor(name, (rows, cols), "Q8_0", make, codes)
