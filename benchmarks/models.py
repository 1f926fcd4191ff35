"""The models that are measured: two published files, two requantized by llama.cpp, three of random weights."""

import hashlib
import os
import subprocess
from pathlib import Path

import random_moe
from random_moe import Moe, add_value, write_random_moe

Q4_0, Q8_0, Q4_K_M = 2, 7, 15  # llama_ftype

# name: (made of, how: a llama_ftype, "random", a Moe or None for a published file; class of its format)
MODELS = {
    "smollm2-135m-q4_1": (None, None, "simple"),
    "qwen2.5-coder-0.5b-q4_k_m": (None, None, "k-quant"),
    "qwen2.5-coder-0.5b-q4_0": ("qwen2.5-coder-0.5b-q4_k_m", Q4_0, "simple"),
    "qwen2.5-coder-0.5b-q8_0": ("qwen2.5-coder-0.5b-q4_k_m", Q8_0, "simple"),
    "qwen2-1.5b-random-q4_k_m": ("qwen2.5-coder-0.5b-q4_k_m", "random", "k-quant"),
    "qwen3moe-1b-random-q4_k_m": ("qwen2.5-coder-0.5b-q4_k_m", Moe(random_moe.Q4_K_M), "experts"),
    "qwen3moe-1b-random-q8_0": ("qwen2.5-coder-0.5b-q4_k_m", Moe(random_moe.Q8_0), "experts"),
}
# The published shape of Qwen2.5-1.5B, whose vocabulary is the 0.5B's.
LAYERS, WIDTH, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY = 28, 1536, 12, 2, 8960, 151936
HEAD = WIDTH // HEADS


def model_path(name, work, requantize):
    """The file of a model, made if it is not there; `requantize(source, ftype, target)` runs llama.cpp's quantizer."""
    source, how, _ = MODELS[name]
    if source is None:
        folder = Path(os.environ.get("FREEHOLD_TEST_MODELS") or Path.home() / ".cache" / "freehold-test-models")
        path = folder / f"{name}.gguf"
        if not path.exists():
            raise SystemExit(f"{path} is not there; set FREEHOLD_TEST_MODELS to the folder that has it")
        return path
    path = work / f"{name}.gguf"
    if not path.exists():
        print(f"making {path.name}", flush=True)
        source_path, partial = model_path(source, work, requantize), path.with_suffix(".partial")
        if how == "random":
            full = work / f"{name}-f16.partial"
            write_random(source_path, full)
            requantize(full, Q4_K_M, partial)
            full.unlink()
        elif isinstance(how, Moe):
            write_random_moe(how, tokenizer_metadata(source_path), partial)
        else:
            requantize(source_path, how, partial)
        partial.rename(path)
    return path


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shapes():
    """Tensor shapes of a qwen2 checkpoint with tied embeddings, numpy order."""
    result = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        for kind, shape in {
            "attn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (KV_HEADS * HEAD, WIDTH),
            "attn_v": (KV_HEADS * HEAD, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (FEED_FORWARD, WIDTH),
            "ffn_up": (FEED_FORWARD, WIDTH),
            "ffn_down": (WIDTH, FEED_FORWARD),
        }.items():
            result[f"blk.{layer}.{kind}"] = shape
    return result


def write_random(source, target):
    """A 1.5B of random weights in F16, with the tokenizer of `source`: its speed is that of a trained one."""
    import gguf
    import numpy

    writer = gguf.GGUFWriter(target, "qwen2")
    writer.add_name("random weights in the shape of Qwen2.5-1.5B")
    writer.add_block_count(LAYERS)
    writer.add_context_length(32768)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    for key, value in tokenizer_metadata(source).items():
        add_value(writer, key, value)
    names = [(f"{name}.weight", shape) for name, shape in shapes().items()]
    # qwen2 has biases, in float32 as all vectors are.
    names += [
        (f"blk.{layer}.attn_{kind}.bias", (rows,))
        for layer in range(LAYERS)
        for kind, rows in (("q", WIDTH), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD))
    ]
    kind = {1: numpy.dtype(numpy.float32), 2: numpy.dtype(numpy.float16)}
    for name, shape in names:
        dtype = kind[len(shape)]
        writer.add_tensor_info(name, shape, dtype, int(numpy.prod(shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    generator = numpy.random.default_rng(0)
    for name, shape in names:
        values = generator.standard_normal(shape, dtype=numpy.float32) * numpy.float32(0.02)
        if name.endswith("norm.weight"):
            values += 1
        writer.write_tensor_data(values.astype(kind[len(shape)]))
    writer.close()


def tokenizer_metadata(source):
    from freehold.weights.gguf import open_gguf

    return {key: value for key, value in open_gguf(source).metadata.items() if key.startswith("tokenizer.")}


def requantize_with(command):
    """A `requantize` for model_path that runs `command` (the llama.cpp worker up to the model's path)."""

    def requantize(source, ftype, target):
        subprocess.run([*command, source, "-", "--quantize", str(ftype), target], check=True)

    return requantize
