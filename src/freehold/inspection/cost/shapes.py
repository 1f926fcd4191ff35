"""What a model takes to run, from its shapes: parameters, bytes and operations of a token, memory of a context.

A model of a family that Freehold runs knows its shapes; of another, only what its files hold is counted.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from freehold.errors import FreeholdError, ModelFileError
from freehold.inspection.artefacts import Artefacts
from freehold.inspection.trust.safetensors_check import check_safetensors
from freehold.models.registry import model_class, model_for
from freehold.weights.gguf import open_gguf
from freehold.weights.tensors import Tensor

Made = TypeVar("Made")
MAX_LAYERS = 4096
CACHE_BYTES = 2  # of a cached value, in float16
STATE_BYTES = 4  # of a value of a recurrent state, in float32
_EXPERT = re.compile(r"(\.experts\.|_exps\.)")
_LAYER = re.compile(r"(?:^|\.)(?:layers|blk|h)\.(\d+)\.")
_TABLE = re.compile(r"(^|\.)(embed_tokens|token_embd|word_embeddings|wte|tok_embeddings)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|output|output_layer)\.(weight|qweight)$")
_OTHER_MODELS = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|mm|mtp|multi_modal_projector|mm_projector|v)\.")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as the files hold it: `num_values` counts packed values once each."""

    name: str
    num_values: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Cache:
    """What one layer keeps: values for each token, up to `window` of them, and values of a fixed state."""

    token_values: int
    state_values: int
    window: int | None
    attention_flops: int  # of one token's attention to one earlier token
    keys_seen: int | None  # at most; where a layer chooses its keys


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. `total` and `active` count parameters; `active`: what one token is multiplied with."""

    architecture: str
    total: int
    active: int
    num_experts: int
    experts_per_token: int
    num_layers: int
    trained_context: int
    caches: tuple[Cache, ...]

    @property
    def cache_bytes_per_token(self) -> int:
        """What one more token takes, while no window is full."""
        return CACHE_BYTES * sum(cache.token_values for cache in self.caches)

    @property
    def state_bytes(self) -> int:
        return STATE_BYTES * sum(cache.state_values for cache in self.caches)

    def cache_bytes(self, context: int) -> int:
        """Keys, values, latents and states of one sequence of `context` tokens."""
        tokens = sum(c.token_values * min(context, c.window or context) for c in self.caches)
        return CACHE_BYTES * tokens + self.state_bytes

    def flops_per_token(self, context: int) -> int:
        """To compute one token behind `context` others: two for each parameter, and attention's own."""
        attention = sum(
            c.attention_flops * min(context, c.window or context, c.keys_seen or context) for c in self.caches
        )
        # A recurrent state is read, decayed and written: three products and sums for each of its values.
        return 2 * self.active + attention + 6 * sum(c.state_values for c in self.caches)


@dataclass(frozen=True)
class Sizes:
    """`shape` is None for a family that is not here, for the `reason`; what is not known is 0."""

    shape: Shape | None
    reason: str
    stored_values: int
    weights_bytes: int
    read_bytes_per_token: int
    bytes_assumed: str  # how bytes were reckoned where the weights are not here; empty: as the files hold them
    file: str  # where the shapes stand


def sizes(artefacts: Artefacts) -> Sizes | None:
    """A model's sizes, from its GGUF file or its config.json and safetensors; None when it has neither."""
    gguf = artefacts.gguf_files
    if gguf:
        return _of_gguf(gguf[0])
    if not artefacts.config:
        return None
    stored = _safetensors(artefacts)
    shape, reason = _tried(lambda: shape_of(_model_of_config(artefacts.config, [tensor.name for tensor in stored])))
    if shape is None or stored:
        return _counted(shape, reason, stored, "config.json")
    per_value, assumed = _assumed_bytes(artefacts.config)
    read = int(shape.active * per_value)
    return Sizes(shape, "", 0, int(shape.total * per_value), read, assumed, "config.json")


def _of_gguf(file: Any) -> Sizes | None:
    try:
        checkpoint = open_gguf(file.path)
    except FreeholdError:
        return None  # the examination of trust says what is wrong with it
    stored = [
        Stored(t.name, math.prod(t.shape), t.data.nbytes) for t in checkpoint.tensors.values() if isinstance(t, Tensor)
    ]
    metadata = checkpoint.metadata
    _, reason = _tried(lambda: _check_layers(metadata.get(f"{metadata.get('general.architecture')}.block_count")))
    shape, reason = (None, reason) if reason else _tried(lambda: shape_of(model_for(checkpoint)))
    return _counted(shape, reason, stored, file.name)


def _tried(make: Callable[[], Made]) -> tuple[Made | None, str]:
    """(what was made, or None and the reason), whatever kinds of values a config has."""
    try:
        return make(), ""
    except FreeholdError as error:
        return None, error.message
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        return None, f"the config does not fit its family: {error}"


def _check_layers(num_layers: Any) -> None:
    """Shapes are made layer by layer: a config of a billion of them would take as long."""
    if isinstance(num_layers, int) and num_layers > MAX_LAYERS:
        raise ModelFileError(f"{num_layers} layers: expected at most {MAX_LAYERS}")


def _counted(shape: Shape | None, reason: str, stored: list[Stored], file: str) -> Sizes:
    return Sizes(
        shape,
        reason,
        stored_values=sum(tensor.num_values for tensor in stored),
        weights_bytes=sum(tensor.num_bytes for tensor in stored),
        read_bytes_per_token=_read_bytes(shape, stored) if shape else 0,
        bytes_assumed="",
        file=file,
    )


def _read_bytes(shape: Shape, stored: Iterable[Stored]) -> int:
    """Bytes of weights that one token reads: chosen experts, one row of the table, all of the rest."""
    stored = list(stored)
    is_tied = not any(_HEAD.search(tensor.name) for tensor in stored)
    read = 0.0
    for tensor in stored:
        layer = _LAYER.search(tensor.name)
        if _OTHER_MODELS.search(tensor.name) or (layer and int(layer[1]) >= shape.num_layers):
            continue
        if _EXPERT.search(tensor.name) and shape.num_experts:
            read += tensor.num_bytes * shape.experts_per_token / shape.num_experts
        elif is_tied or not _TABLE.search(tensor.name):
            read += tensor.num_bytes
    return int(read)


def _safetensors(artefacts: Artefacts) -> list[Stored]:
    """Tensors of the shards that the index names, or of all safetensors files."""
    index = artefacts.json("model.safetensors.index.json")
    mapped = index.get("weight_map") if isinstance(index, dict) else None
    wanted = {name for name in mapped.values() if isinstance(name, str)} if isinstance(mapped, dict) else None
    stored: dict[str, Stored] = {}
    for file in artefacts.files:
        if file.outside or not file.name.endswith(".safetensors") or (wanted and file.name not in wanted):
            continue
        try:
            entries = check_safetensors(file.path).entries
        except OSError:
            continue  # the examination of trust says so
        stored |= {e.name: Stored(e.name, math.prod(e.shape), e.num_bytes) for e in entries}
    return list(stored.values())


def _model_of_config(config: Mapping[str, Any], names: list[str]) -> Any:
    """As `models.registry.model_from_config`, for which the weights need not be here."""
    text = config.get("text_config")
    values = {**config, **text} if isinstance(text, Mapping) else dict(config)
    if values.get("tie_word_embeddings") is None:
        values["tie_word_embeddings"] = bool(names) and not any(name.endswith("lm_head.weight") for name in names)
    _check_layers(values.get("num_hidden_layers"))
    return model_class(values.get("model_type")).from_config(values)


def shape_of(model: Any) -> Shape:
    """The sizes of a model of `models`."""
    config, shapes = model.config, model.parameter_shapes()
    total = sum(math.prod(shape) for shape in shapes.values())
    num_experts = getattr(config, "num_experts", 0)
    chosen = config.router.top_k if num_experts else 0
    place = f".{model.routed}." if num_experts else "\0"
    routed = sum(math.prod(shape) for name, shape in shapes.items() if place in name)
    active = total - (routed - routed * chosen // num_experts if num_experts else 0)
    if not config.tied_embeddings:
        active -= math.prod(shapes["model.embed_tokens.weight"])
    return Shape(
        config.architecture,
        total,
        active,
        num_experts,
        chosen,
        config.num_layers,
        config.context_length,
        tuple(_cache(config, i, spec) for i, spec in enumerate(model.caches())),
    )


def _cache(config: Any, layer: int, spec: Any) -> Cache:
    tokens = dict(spec.tokens)
    states = sum(math.prod(shape) for shape in spec.states.values())
    flops, keys_seen = 0, None
    if "latents" in tokens:  # scores of latents and rotated keys, then a sum of latents
        flops = 2 * config.num_heads * (2 * tokens["latents"] + tokens["rope_keys"])
        keys_seen = getattr(config, "index_top_k", None)
    elif "keys" in tokens:
        flops = 4 * config.num_heads * config.head_dim
    return Cache(sum(tokens.values()), states, config.window(layer), flops, keys_seen)


_DTYPE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "float8_e4m3fn": 1.0}
_QUANTIZED_BYTES = {"fp8": 1.0, "mxfp4": 17 / 32}


def _assumed_bytes(config: Mapping[str, Any]) -> tuple[float, str]:
    """Bytes of a parameter as config.json declares the weights, which are not here."""
    quantized = config.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
    if isinstance(method, str) and method in _QUANTIZED_BYTES:
        return _QUANTIZED_BYTES[method], f"all weights reckoned as {method}, as config.json declares"
    bits = quantized.get("bits") if isinstance(quantized, Mapping) else None
    if isinstance(bits, int) and 0 < bits <= 16:
        return bits / 8, f"all weights reckoned at {bits} bits, as config.json declares"
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else {}
    dtype = config.get("torch_dtype") or config.get("dtype") or inner.get("torch_dtype") or inner.get("dtype")
    if isinstance(dtype, str) and dtype in _DTYPE_BYTES:
        return _DTYPE_BYTES[dtype], f"all weights reckoned as {dtype}, as config.json declares"
    return 2.0, "all weights reckoned at 16 bits: config.json does not say"
