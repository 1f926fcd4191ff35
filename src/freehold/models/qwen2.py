"""Qwen2 and Qwen2.5: Llama with biases on the query, key and value projections.

Paper: Yang et al. 2024 (Qwen2, Qwen2.5).
Checkpoints: Qwen1.5, Qwen2, Qwen2.5 (Coder, Math), QwQ-32B, R1-Distill-Qwen.
Reference: transformers `models/qwen2/modeling_qwen2.py`.
"""

from collections.abc import Mapping
from typing import Any

from freehold.models.config import gguf_config, huggingface_config
from freehold.models.llama import Llama


class Qwen2(Llama):
    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> "Qwen2":
        return cls(gguf_config(metadata, tensors, interleaved_rope=False))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Qwen2":
        return cls(huggingface_config(config, attention_bias=True))
