"""Files of random weights for the tests: what matters is which bits come out, not what they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

# Where in a block of each quantized format its half-precision scales stand (bytes); random bits there would be NaN or 1e4.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108]}
HALVES |= {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}

HEADS, KV_HEADS, HEAD = 4, 2, 64  # of the model that write_moe makes

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
    return quantized_bits(form, shape, rng, scales=(1e-5, 2e-4), exponents=(118, 122))


def quantized_bits(form: str, shape: tuple[int, ...], rng: Any, *, scales: Any, exponents: Any) -> Any:
    """Blocks of a format of HALVES, all bits random but for scales from a range (MXFP4: exponents from one)."""
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[form]]
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // elements, size), dtype=np.uint8)
    for at in HALVES[form]:
        halves = rng.uniform(*scales, blocks.shape[:-1]).astype(np.float16)
        blocks[..., at : at + 2] = halves.view(np.uint8).reshape(*blocks.shape[:-1], 2)
    if form == "MXFP4":
        blocks[..., 0] = rng.integers(*exponents, blocks.shape[:-1])
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
    sizes = {
        "block_count": layers,
        "context_length": 1024,
        "embedding_length": width,
        "feed_forward_length": inner,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "rope.freq_base": 1e4,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "expert_count": experts,
        "expert_used_count": used,
        "expert_feed_forward_length": inner,
    }
    writer = gguf.GGUFWriter(path, "qwen3moe")
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    add |= {str: writer.add_string, list: writer.add_array}
    for key, value in ({f"qwen3moe.{key}": value for key, value in sizes.items()} | (metadata or {})).items():
        add[type(value)](key, value)
    rng = np.random.default_rng(7)
    for name, shape, form in _moe_tensors(layers, width, inner, experts, vocabulary, forms):
        if form == "norm":
            writer.add_tensor(f"{name}.weight", (1 + 0.1 * rng.standard_normal(shape)).astype(np.float32))
        else:
            kind = gguf.GGMLQuantizationType[form]
            writer.add_tensor(f"{name}.weight", random_blocks(form, shape, rng), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _moe_tensors(
    layers: int, width: int, inner: int, experts: int, vocabulary: int, forms: dict[str, str]
) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and format of each; the format "norm" stands for a norm's weights, which are near one."""
    yield "token_embd", (vocabulary, width), "F16"
    yield "output", (vocabulary, width), forms["dense"]
    yield "output_norm", (width,), "norm"
    for block in (f"blk.{layer}" for layer in range(layers)):
        for name, size in (("attn_norm", width), ("ffn_norm", width), ("attn_q_norm", HEAD), ("attn_k_norm", HEAD)):
            yield f"{block}.{name}", (size,), "norm"
        for name, heads in (("attn_q", HEADS), ("attn_k", KV_HEADS), ("attn_v", KV_HEADS)):
            yield f"{block}.{name}", (heads * HEAD, width), forms["dense"]
        yield f"{block}.attn_output", (width, HEADS * HEAD), forms["dense"]
        yield f"{block}.ffn_gate_inp", (experts, width), "F32"
        yield f"{block}.ffn_gate_exps", (experts, inner, width), forms["gate"]
        yield f"{block}.ffn_up_exps", (experts, inner, width), forms["up"]
        yield f"{block}.ffn_down_exps", (experts, width, inner), forms["down"]
