"""Phi-3 and Phi-4: Llama whose q, k and v, and gate and up, are one matrix each; a query may see a window of keys.

Papers: Abdin et al. 2024 (Phi-3, Phi-4 technical reports). Checkpoints: Phi-3-mini-4k, Phi-3-medium-4k, Phi-4;
those with a rope of type longrope (the 128k ones) are refused. Reference: transformers `models/phi3/modeling_phi3.py`.
"""

from collections.abc import Mapping
from typing import Any

from freehold.models.glm import Glm
from freehold.models.llama import GGUF_NAMES
from freehold.models.mistral import Mistral
from freehold.models.parameters import Split


class Phi3(Mistral):
    # ffn_up holds gate and up, as the published tensor does.
    gguf_names = {name: ours for name, ours in GGUF_NAMES.items() if "ffn_gate" not in name} | {
        "blk.{i}.ffn_up.weight": "model.layers.{i}.mlp.gate_up_proj.weight",
        "blk.{i}.attn_qkv.weight": "model.layers.{i}.self_attn.qkv_proj.weight",
    }
    splits: Mapping[str, Any] = {
        "mlp.gate_up_proj.weight": Glm.splits["mlp.gate_up_proj.weight"],
        "self_attn.qkv_proj.weight": Split(tuple(f"self_attn.{name}_proj.weight" for name in "qkv")),
    }
    permuted_in_gguf = False
