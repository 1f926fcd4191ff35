"""Mistral: Llama where a query sees a window of keys (in the first 7B; later ones see all).

Paper: Jiang et al. 2023. Checkpoints: Mistral 7B and others that publish `MistralForCausalLM`.
Reference: transformers `models/mistral/modeling_mistral.py`. GGUF files call it llama.
"""

from typing import Self

from freehold.models.config import DecoderConfig, decoder_values
from freehold.models.llama import Llama
from freehold.models.settings import Settings


class Mistral(Llama):
    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        window = settings.size("sliding_window") if settings.get("sliding_window") else None
        windows = (window,) * values["num_layers"] if window else ()
        return cls(DecoderConfig(**values, windows=windows))
