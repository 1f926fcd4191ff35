"""Rotary frequencies, and how models stretch them to contexts longer than they were trained for."""

import math
from collections.abc import Mapping
from typing import Any

from freehold.errors import ModelFileError, UnsupportedError
from freehold.models.settings import Settings
from freehold.ops import Rope

Frequencies = tuple[float, ...]  # radians per position


def rope_parameters(settings: Settings) -> Mapping[str, Any]:
    """The `rope_parameters` of transformers 5, from a file of any age."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise ModelFileError(f"rope_parameters: expected values by name, got {rope!r}")
    rope = dict(rope)
    rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    rope["rope_theta"] = rope.get("rope_theta") or settings.number("rope_theta", 10000.0)
    return rope


def make_rope(settings: Settings, head_dim: int, *, interleaved: bool = False, rotary_share: float = 1.0) -> Rope:
    """The rope of heads of `head_dim`, scaled as the file says; `rotary_share` of the channels unless it says.

    Raises UnsupportedError for a scaling that is not here, ModelFileError for one that lacks a value.
    """
    rope = rope_parameters(settings)
    share = rope.get("partial_rotary_factor") or settings.number("partial_rotary_factor", rotary_share)
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ModelFileError(f"partial_rotary_factor: expected a share of a head, got {share!r}")
    rotary_dim = settings.size("rotary_dim", int(head_dim * share))
    if rotary_dim % 2 or rotary_dim > head_dim:
        raise ModelFileError(f"rope: expected an even number of channels, {head_dim} at most, got {rotary_dim}")
    try:
        frequencies, scale = scaled_frequencies(rope, rotary_dim, settings.get("max_position_embeddings"))
    except KeyError as error:
        raise ModelFileError(f"rope_parameters.{error.args[0]}: missing from a {rope['rope_type']} rope") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelFileError(f"rope_parameters: expected numbers that make a rope, got {rope} ({error})") from None
    return Rope(frequencies, interleaved, scale)


def scaled_frequencies(rope: Mapping[str, Any], rotary_dim: int, context: int | None) -> tuple[Frequencies, float]:
    """(frequencies, scale of cosines and sines) of `rope_parameters` for the leading `rotary_dim` channels."""
    frequencies = rope_frequencies(rotary_dim, rope["rope_theta"])
    kind = rope["rope_type"]
    if "divisors" in rope:
        if len(rope["divisors"]) != len(frequencies):
            got = len(rope["divisors"])
            raise ModelFileError(f"rope_freqs.weight: expected {len(frequencies)} divisors, got {got}")
        frequencies = tuple(f / d for f, d in zip(frequencies, rope["divisors"], strict=True))
    if kind == "default":
        return frequencies, 1.0
    if kind == "linear":
        return tuple(f / rope["factor"] for f in frequencies), 1.0
    if kind == "llama3":
        return llama3_frequencies(frequencies, rope), 1.0
    if kind == "yarn":
        return yarn_frequencies(frequencies, rope, rotary_dim), yarn_scale(rope, context)
    raise UnsupportedError(f"rope scaling {kind!r}: not supported yet")


def rope_frequencies(rotary_dim: int, theta: float) -> Frequencies:
    """theta^(-2i / rotary_dim) (Su et al. 2021)."""
    return tuple(theta ** (-2 * i / rotary_dim) for i in range(rotary_dim // 2))


def llama3_frequencies(frequencies: Frequencies, rope: Mapping[str, Any]) -> Frequencies:
    """Llama 3.1's scaling: long wavelengths are slowed by `factor`, short ones kept, those between interpolated."""
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    original = rope["original_max_position_embeddings"]

    def scaled(frequency: float) -> float:
        turns = original * frequency / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        return (1 - smooth) * frequency / factor + smooth * frequency

    return tuple(scaled(f) for f in frequencies)


def yarn_frequencies(frequencies: Frequencies, rope: Mapping[str, Any], rotary_dim: int) -> Frequencies:
    """YaRN (Peng et al. 2023): channels that turn rarely over the trained context are slowed by `factor`, those that
    turn often are kept, with a ramp between; `truncate` rounds the ramp's ends to whole channels.
    """
    original, theta, factor = rope["original_max_position_embeddings"], rope["rope_theta"], rope["factor"]

    def channel(turns: float) -> float:
        return rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = channel(rope.get("beta_fast") or 32), channel(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    last = last if last != first else last + 0.001

    def scaled(i: int, frequency: float) -> float:
        slowed = min(max((i - first) / (last - first), 0.0), 1.0)
        return slowed * frequency / factor + (1 - slowed) * frequency

    return tuple(scaled(i, f) for i, f in enumerate(frequencies))


def yarn_scale(rope: Mapping[str, Any], context: int | None) -> float:
    """What YaRN multiplies cosines and sines by, so that attention keeps its entropy."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor = rope.get("factor") or (context or 1) / rope["original_max_position_embeddings"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return yarn_mscale(factor, rope["mscale"]) / yarn_mscale(factor, rope["mscale_all_dim"])
    return yarn_mscale(factor)


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
