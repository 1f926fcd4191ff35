"""Which format each weight is quantized to, and the tensors so made: they come into being when they are read."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freehold import _native
from freehold.errors import RequestError, UnsupportedError
from freehold.weights.tensors import PLAIN_BYTES, AnyTensor, DerivedTensor, StackedTensor

SUPER = 256  # columns of a super-block
COLUMNS = 32  # of a block
# Where the columns do not make whole super-blocks.
_NARROW = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
_LAYER = re.compile(r"\.layers\.(\d+)\.")
# Weights whose columns matter most: what is attended to, and what a feed-forward adds.
_SENSITIVE = ("v_proj.weight", "down_proj.weight")
_HEADS = ("lm_head.weight", "model.embed_tokens.weight")
_KEPT = ("norm", "conv1d", "shared_expert_gate", "weights_proj", "eh_proj")


@dataclass(frozen=True)
class Scheme:
    """`base` for most matrices; `better` for those that matter most, in half of the layers; `head` for the output."""

    base: str
    better: str
    head: str


SCHEMES = {name.lower(): Scheme(name, name, name) for name in ("F32", "F16", "BF16", "Q8_0", "MXFP4")}
SCHEMES |= {name.lower(): Scheme(name, name, "Q6_K") for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS")}
SCHEMES |= {
    "q2_k": Scheme("Q2_K", "Q4_K", "Q6_K"),
    "q3_k_s": Scheme("Q3_K", "Q3_K", "Q6_K"),
    "q3_k_m": Scheme("Q3_K", "Q5_K", "Q6_K"),
    "q4_k_s": Scheme("Q4_K", "Q4_K", "Q6_K"),
    "q4_k_m": Scheme("Q4_K", "Q6_K", "Q6_K"),
    "q5_k_s": Scheme("Q5_K", "Q5_K", "Q6_K"),
    "q5_k_m": Scheme("Q5_K", "Q6_K", "Q6_K"),
    "q6_k": Scheme("Q6_K", "Q6_K", "Q6_K"),
}


def scheme_of(name: str) -> Scheme:
    """Raises RequestError for a name that is none."""
    if not isinstance(name, str) or name.lower() not in SCHEMES:
        raise RequestError(f"quantize {name!r}: unknown", f"expected one of {', '.join(SCHEMES)}")
    return SCHEMES[name.lower()]


def quantize_tensors(
    tensors: Mapping[str, AnyTensor],
    scheme: Scheme,
    *,
    num_layers: int,
    router: str | None,
    tied: bool,
    importance: Mapping[str, Any] | None = None,
) -> dict[str, AnyTensor]:
    """The tensors of a model, by the names that labs publish, with their matrices quantized.

    `router`: what choices of experts are called, which stay as they are; `tied`: the embedding is the output too;
    `importance`: float32 weights of a matrix's columns, by its name. Raises UnsupportedError when the weights are
    quantized already.
    """
    made = dict(tensors)
    changed = 0
    for name, tensor in tensors.items():
        form = format_for(name, tensor.shape, scheme, num_layers=num_layers, router=router, tied=tied)
        if form and is_unquantized(tensor):
            made[name] = quantized(tensor, form, None if importance is None else importance.get(name))
            changed += 1
    if not changed:
        formats = sorted({tensor.format for tensor in tensors.values()} - PLAIN_BYTES.keys())
        raise UnsupportedError(f"quantize: the weights are quantized already ({', '.join(formats)})")
    return made


def is_unquantized(tensor: AnyTensor) -> bool:
    """FP8 counts as the type that the model was trained in."""
    return tensor.format in PLAIN_BYTES or tensor.format.startswith("FP8")


def format_for(
    name: str, shape: tuple[int, ...], scheme: Scheme, *, num_layers: int, router: str | None, tied: bool
) -> str | None:
    """The format of one tensor; None: it stays as it is."""
    if len(shape) < 2 or shape[-1] % COLUMNS or not name.endswith(("weight", "_proj")):
        return None
    if any(part in name for part in _KEPT) or (router and name.endswith(f"{router}.weight")):
        return None
    form = scheme.base
    layer = _LAYER.search(name)
    if name == "lm_head.weight" or (tied and name in _HEADS):
        form = scheme.head
    elif layer and name.endswith(_SENSITIVE) and _has_more_bits(int(layer[1]), num_layers):
        form = scheme.better
    return _NARROW.get(form, form) if shape[-1] % SUPER else form


def _has_more_bits(layer: int, num_layers: int) -> bool:
    """The first and last eighth of the layers and every third between, as llama.cpp has it."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def quantized(tensor: AnyTensor, form: str, importance: Any = None) -> AnyTensor:
    """The tensor in another format, made when it is read; `importance`: a weight for each column, or for each of the
    columns of each expert."""
    if tensor.format == form:
        return tensor
    if len(tensor.shape) == 3:
        rows = [None] * tensor.shape[0] if importance is None else list(importance.reshape(tensor.shape[0], -1))
        parts = zip(tensor.parts, rows, strict=True)
        return StackedTensor(tensor.name, tuple(quantized(part, form, row) for part, row in parts))

    def make() -> Any:
        import numpy

        values = numpy.ascontiguousarray(tensor.dequantize(), numpy.float32).reshape(-1)
        threads = len(os.sched_getaffinity(0))
        return _native.quantize(form, values, tensor.shape[-1], importance, threads)

    return DerivedTensor(tensor.name, tensor.shape, form, make, tensor)
