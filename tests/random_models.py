"""Files of random weights for the tests: what matters is which bits come out, not what they say."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

# Where in a block of the format its half-precision scales stand (bytes).
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q6_K": [208], "MXFP4": []}

# 61 tokens, of one character but for one.
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [*map(chr, (*range(97, 123), *range(65, 91), *range(48, 55))), "ab", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1] * 60 + [3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 60,
}


def random_blocks(form: str, shape: tuple[int, ...], rng: Any) -> Any:
    """Random values of some hundredths, as the bytes of a file's rows."""
    if form in ("F32", "F16"):
        return (rng.standard_normal(shape, np.float32) * np.float32(0.05)).astype({"F32": "f4", "F16": "f2"}[form])
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[form]]
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // elements, size), dtype=np.uint8)
    for at in HALVES[form]:
        scales = rng.uniform(1e-5, 2e-4, blocks.shape[:-1]).astype(np.float16)
        blocks[..., at : at + 2] = scales.view(np.uint8).reshape(*blocks.shape[:-1], 2)
    if form == "MXFP4":
        blocks[..., 0] = rng.integers(118, 122, blocks.shape[:-1])
    return blocks.reshape(*shape[:-1], -1)


def write_moe(
    path: Path,
    *,
    layers: int,
    width: int,
    inner: int,
    experts: int,
    used: int,
    vocabulary: int = 512,
    forms: dict[str, str],
    metadata: dict[str, Any] | None = None,
) -> Path:
    """A qwen3moe of random weights; `forms`: formats of gate, up, down and of the other matrices ("dense")."""
    rng = np.random.default_rng(7)
    heads, kv_heads, head = 4, 2, 64
    writer = gguf.GGUFWriter(path, "qwen3moe")
    for add, value in (
        (writer.add_block_count, layers),
        (writer.add_context_length, 1024),
        (writer.add_embedding_length, width),
        (writer.add_feed_forward_length, inner),
        (writer.add_head_count, heads),
        (writer.add_head_count_kv, kv_heads),
        (writer.add_key_length, head),
        (writer.add_value_length, head),
        (writer.add_rope_freq_base, 1e4),
        (writer.add_layer_norm_rms_eps, 1e-6),
        (writer.add_expert_count, experts),
        (writer.add_expert_used_count, used),
        (writer.add_expert_feed_forward_length, inner),
    ):
        add(value)
    for key, value in (metadata or {}).items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
        add[type(value)](key, value)

    def add_tensor(name: str, shape: tuple[int, ...], form: str) -> None:
        writer.add_tensor(f"{name}.weight", random_blocks(form, shape, rng), raw_dtype=gguf.GGMLQuantizationType[form])

    def add_norm(name: str, size: int) -> None:
        writer.add_tensor(f"{name}.weight", (1 + 0.1 * rng.standard_normal(size)).astype(np.float32))

    add_tensor("token_embd", (vocabulary, width), "F16")
    add_tensor("output", (vocabulary, width), forms["dense"])
    add_norm("output_norm", width)
    for i in range(layers):
        for name, size in (("attn_norm", width), ("ffn_norm", width), ("attn_q_norm", head), ("attn_k_norm", head)):
            add_norm(f"blk.{i}.{name}", size)
        for name, rows, columns in (
            ("attn_q", heads * head, width),
            ("attn_k", kv_heads * head, width),
            ("attn_v", kv_heads * head, width),
            ("attn_output", width, heads * head),
        ):
            add_tensor(f"blk.{i}.{name}", (rows, columns), forms["dense"])
        add_tensor(f"blk.{i}.ffn_gate_inp", (experts, width), "F32")
        add_tensor(f"blk.{i}.ffn_gate_exps", (experts, inner, width), forms["gate"])
        add_tensor(f"blk.{i}.ffn_up_exps", (experts, inner, width), forms["up"])
        add_tensor(f"blk.{i}.ffn_down_exps", (experts, width, inner), forms["down"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
