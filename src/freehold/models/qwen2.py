"""Qwen2 and Qwen2.5: Llama with biases on the query, key and value projections.

Paper: Yang et al. 2024 (Qwen2, Qwen2.5).
Checkpoints: Qwen1.5, Qwen2, Qwen2.5 (Coder, Math), QwQ-32B, R1-Distill-Qwen, Kimi-Dev.
Reference: transformers `models/qwen2/modeling_qwen2.py`.
"""

from typing import Self

from freehold.models.config import DecoderConfig, decoder_values, window_of_each_layer
from freehold.models.llama import Llama
from freehold.models.settings import Settings


class Qwen2(Llama):
    permuted_in_gguf = False

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        values |= {"qkv_bias": True, "windows": optional_windows(settings)}
        return cls(DecoderConfig(**values))


def optional_windows(settings: Settings) -> tuple[int | None, ...]:
    """Windows of the upper layers, which most checkpoints declare and switch off."""
    return window_of_each_layer(
        settings, settings.size("sliding_window") if settings.flag("use_sliding_window") else None
    )
