"""ERNIE 4.5: Llama with rope on interleaved pairs, and biases in all projections or in none.

Paper: Baidu 2025 (ERNIE 4.5 technical report). Checkpoints: ERNIE-4.5-0.3B.
The layer for multi-token prediction (see `mtp.py`), which those with experts have, is dense and ends with the model's
own norm, as FastDeploy runs it; vLLM leaves that norm out and reads a zero for the first token.
Reference: transformers `models/ernie4_5/modeling_ernie4_5.py`.
"""

from typing import Self

from freehold.models.config import DecoderConfig, decoder_values
from freehold.models.llama import Llama
from freehold.models.settings import Settings


class Ernie(Llama):
    interleaved_rope = True
    permuted_in_gguf = False
    predicts_further = True
    further_norm = "model.norm"

    @classmethod
    def from_settings(cls, settings: Settings, interleaved_rope: bool) -> Self:
        values = decoder_values(settings, interleaved_rope=interleaved_rope)
        bias = settings.flag("use_bias", values["qkv_bias"])
        values |= {"qkv_bias": bias, "output_bias": bias, "mlp_bias": bias}
        return cls(DecoderConfig(**values))
