"""A decoder's sizes, from a GGUF file's metadata or a checkpoint's config.json."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freehold.errors import ModelFileError, UnsupportedError
from freehold.ops import Rope


@dataclass(frozen=True)
class DecoderConfig:
    """What a dense decoder with grouped-query attention is made of."""

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary_size: int
    context_length: int
    norm_eps: float
    rope: Rope
    attention_bias: bool = False
    tied_embeddings: bool = False


def gguf_config(metadata: Mapping[str, Any], tensors: Mapping[str, Any], *, interleaved_rope: bool) -> DecoderConfig:
    """Read the sizes that a GGUF file declares under its architecture's prefix.

    Raises ModelFileError when one is missing or absurd, UnsupportedError for a rope scaling that is not here.
    """
    architecture = metadata["general.architecture"]

    def get(key: str, default: Any = None) -> Any:
        value = metadata.get(f"{architecture}.{key}", default)
        if value is None:
            raise ModelFileError(f"{architecture}.{key}: missing from the file's metadata")
        return value

    def size(key: str, default: int | None = None) -> int:
        value = get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise ModelFileError(f"{architecture}.{key}: expected a positive integer, got {value!r}")
        return value

    num_heads, hidden_size = size("attention.head_count"), size("embedding_length")
    head_dim = size("attention.key_length", hidden_size // num_heads or None)
    return DecoderConfig(
        architecture=architecture,
        num_layers=size("block_count"),
        hidden_size=hidden_size,
        intermediate_size=size("feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=size("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        vocabulary_size=tensors["token_embd.weight"].shape[0],
        context_length=size("context_length"),
        norm_eps=float(get("attention.layer_norm_rms_epsilon")),
        rope=Rope(_gguf_frequencies(get, size("rope.dimension_count", head_dim), tensors), interleaved_rope),
        attention_bias="blk.0.attn_q.bias" in tensors,
        tied_embeddings="output.weight" not in tensors,
    )


def _gguf_frequencies(get: Any, rotary_dim: int, tensors: Mapping[str, Any]) -> tuple[float, ...]:
    kind = get("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise UnsupportedError(f"rope scaling {kind!r}: not supported yet")
    factor = float(get("rope.scaling.factor", 1.0)) if kind == "linear" else 1.0
    frequencies = rope_frequencies(rotary_dim, float(get("rope.freq_base", 10000.0)))
    divisors = [factor] * len(frequencies)
    if "rope_freqs.weight" in tensors:  # Llama 3.1's scaling, one divisor for each frequency
        divisors = [factor * float(d) for d in tensors["rope_freqs.weight"].dequantize()]
    if len(divisors) != len(frequencies):
        raise ModelFileError(f"rope_freqs.weight: expected {len(frequencies)} divisors, got {len(divisors)}")
    return tuple(f / d for f, d in zip(frequencies, divisors, strict=True))


def huggingface_config(config: Mapping[str, Any], **overrides: Any) -> DecoderConfig:
    """Read a checkpoint's own config.json (transformers 4 and 5 spell rope differently)."""
    num_heads, hidden_size = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or hidden_size // num_heads
    values: dict[str, Any] = {
        "architecture": config["model_type"],
        "num_layers": config["num_hidden_layers"],
        "hidden_size": hidden_size,
        "intermediate_size": config["intermediate_size"],
        "num_heads": num_heads,
        "num_kv_heads": config.get("num_key_value_heads") or num_heads,
        "head_dim": head_dim,
        "vocabulary_size": config["vocab_size"],
        "context_length": config["max_position_embeddings"],
        "norm_eps": config["rms_norm_eps"],
        "rope": Rope(_huggingface_frequencies(config, head_dim)),
        "attention_bias": bool(config.get("attention_bias", False)),
        "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
    }
    return DecoderConfig(**(values | overrides))


def _huggingface_frequencies(config: Mapping[str, Any], head_dim: int) -> tuple[float, ...]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    frequencies = rope_frequencies(head_dim, float(rope.get("rope_theta") or config.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        return tuple(f / rope["factor"] for f in frequencies)
    if kind == "llama3":
        return llama3_frequencies(frequencies, rope)
    raise UnsupportedError(f"rope scaling {kind!r}: not supported yet")


def rope_frequencies(rotary_dim: int, theta: float) -> tuple[float, ...]:
    """theta^(-2i / rotary_dim), radians per position (Su et al. 2021)."""
    return tuple(theta ** (-2 * i / rotary_dim) for i in range(rotary_dim // 2))


def llama3_frequencies(frequencies: tuple[float, ...], rope: Mapping[str, Any]) -> tuple[float, ...]:
    """Llama 3.1's scaling: long wavelengths are slowed by `factor`, short ones kept, those between interpolated."""
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    original = rope["original_max_position_embeddings"]

    def scaled(frequency: float) -> float:
        turns = original * frequency / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        return (1 - smooth) * frequency / factor + smooth * frequency

    return tuple(scaled(f) for f in frequencies)
