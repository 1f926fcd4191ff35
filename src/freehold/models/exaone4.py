"""EXAONE 4: norms of heads as in Qwen3, of blocks as in OLMo 2; layers with a window turn, those that see all do not.

Paper: LG AI Research 2025 (EXAONE 4.0). Checkpoints: EXAONE 4.0 32B, and 1.2B, in which every layer sees all and turns.
Reference: transformers `models/exaone4/modeling_exaone4.py`.
"""

from typing import Self

from freehold import ops
from freehold.models.config import DecoderConfig, decoder_values, window_of_each_layer
from freehold.models.olmo2 import NormsAfter
from freehold.models.qwen3 import Qwen3
from freehold.models.settings import Settings


class Exaone4(NormsAfter, Qwen3):
    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        return cls(DecoderConfig(**values, windows=_windows(settings)))

    def mix(self, x, layer, batch, i):
        c = self.config
        if not c.windows or c.window(i):
            return super().mix(x, layer, batch, i)
        heads = {"num_heads": c.num_heads, "num_kv_heads": c.num_kv_heads}
        return ops.attention(*self.projections(x, layer, i), batch.caches[i], **heads, scale=c.head_dim**-0.5)


def _windows(settings: Settings) -> tuple[int | None, ...]:
    """By `layer_types`; else by the pattern: which layers have one (in GGUF files), or that each n-th has none."""
    if not settings.get("sliding_window"):
        return ()
    window, num_layers = settings.size("sliding_window"), settings.size("num_hidden_layers")
    if settings.get("layer_types"):
        return window_of_each_layer(settings, window)
    if isinstance(settings.get("sliding_window_pattern"), list):
        pattern = settings.layers("sliding_window_pattern", num_layers) or []
    else:
        every = settings.size("sliding_window_pattern", 4)
        pattern = [(i + 1) % every for i in range(num_layers)]
    return tuple(window if has_window else None for has_window in pattern)
