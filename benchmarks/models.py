"""The models that are measured: two published files, two requantized by llama.cpp, four of random weights."""

import hashlib
import os
import subprocess
from pathlib import Path

from random_models import RandomModel, deepseek, qwen2, qwen3moe, write_random

Q4_0, Q8_0, Q4_K_M = 2, 7, 15  # llama_ftype

# name: (what it is made of, None for a published file; how, a llama_ftype; class of its format)
MODELS = {
    "smollm2-135m-q4_1": (None, None, "simple"),
    "qwen2.5-coder-0.5b-q4_k_m": (None, None, "k-quant"),
    "qwen2.5-coder-0.5b-q4_0": ("qwen2.5-coder-0.5b-q4_k_m", Q4_0, "simple"),
    "qwen2.5-coder-0.5b-q8_0": ("qwen2.5-coder-0.5b-q4_k_m", Q8_0, "simple"),
    "qwen2-1.5b-random-q4_k_m": (qwen2("qwen2.5-coder-0.5b-q4_k_m", Q4_K_M), None, "k-quant"),
    "qwen3moe-1b-random-q4_k_m": (qwen3moe("qwen2.5-coder-0.5b-q4_k_m", "F16", Q4_K_M), None, "experts"),
    "qwen3moe-1b-random-q8_0": (qwen3moe("qwen2.5-coder-0.5b-q4_k_m", "Q8_0"), None, "experts"),
    "deepseek-v3-0.5b-random-q4_k_m": (deepseek("smollm2-135m-q4_1", "F16", Q4_K_M), None, "experts"),
    "deepseek-v3-0.5b-random-q8_0": (deepseek("smollm2-135m-q4_1", "Q8_0"), None, "experts"),
}


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
        partial = path.with_suffix(".partial")
        if isinstance(source, RandomModel):
            make_random(source, model_path(source.source, work, requantize), partial, requantize)
        else:
            requantize(model_path(source, work, requantize), how, partial)
        partial.rename(path)
    return path


def make_random(model, source, target, requantize):
    """`source` is the file whose tokenizer it takes over."""
    from freehold.weights.gguf import open_gguf

    if model.ftype is None:
        return write_random(model, open_gguf(source).metadata, target)
    full = target.with_suffix(".full")
    write_random(model, open_gguf(source).metadata, full)
    requantize(full, model.ftype, target)
    full.unlink()


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def requantize_with(command):
    """A `requantize` for model_path that runs `command` (the llama.cpp worker up to the model's path)."""

    def requantize(source, ftype, target):
        subprocess.run([*command, source, "-", "--quantize", str(ftype), target], check=True)

    return requantize
