"""A decoder's sizes."""

from dataclasses import dataclass
from typing import Any

from freehold.models.rope import make_rope
from freehold.models.settings import Settings
from freehold.ops import Rope


@dataclass(frozen=True)
class DecoderConfig:
    """What a dense decoder with grouped-query attention is made of; families with more derive theirs from it."""

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
    norm_offset: float = 0.0  # added to the weights of norms
    qkv_bias: bool = False
    output_bias: bool = False  # of the projection after attention
    mlp_bias: bool = False
    tied_embeddings: bool = False
    windows: tuple[int | None, ...] = ()  # of each layer: how many keys a query sees, itself included; (): all see all

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None


def decoder_values(
    settings: Settings,
    *,
    interleaved_rope: bool = False,
    rotary_share: float = 1.0,
    head_dim: int | None = None,
    num_kv_heads: int | None = None,
) -> dict[str, Any]:
    """The fields of DecoderConfig as a file has them.

    Unless the file says, `rotary_share` of a head's channels turn. `head_dim`, of the rope, and `num_kv_heads`
    where the file has them otherwise.

    Raises ModelFileError when one is missing or absurd, UnsupportedError for what is not here.
    """
    num_heads, hidden_size = settings.size("num_attention_heads"), settings.size("hidden_size")
    head_dim = head_dim or settings.size("head_dim", hidden_size // num_heads or None)
    settings.only("hidden_act", "silu")
    return {
        "architecture": settings.require("model_type"),
        "num_layers": settings.size("num_hidden_layers"),
        "hidden_size": hidden_size,
        "intermediate_size": settings.size("intermediate_size", settings.get("moe_intermediate_size")),
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads or settings.size("num_key_value_heads", num_heads),
        "head_dim": head_dim,
        "vocabulary_size": settings.size("vocab_size"),
        "context_length": settings.size("max_position_embeddings"),
        "norm_eps": settings.number("rms_norm_eps"),
        "rope": make_rope(
            settings,
            head_dim,
            interleaved=settings.flag("rope_interleave", interleaved_rope),
            rotary_share=rotary_share,
        ),
        "qkv_bias": settings.flag("attention_bias"),
        "tied_embeddings": settings.flag("tie_word_embeddings"),
    }


def window_of_each_layer(settings: Settings, window: int | None) -> tuple[int | None, ...]:
    """Windows by the file's `layer_types`, or by `max_window_layers` in files that are older."""
    if window is None:
        return ()
    num_layers = settings.size("num_hidden_layers")
    kinds = settings.layers("layer_types", num_layers)
    if kinds is None:
        first = settings.count("max_window_layers", num_layers)
        kinds = ["full_attention" if i < first else "sliding_attention" for i in range(num_layers)]
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
