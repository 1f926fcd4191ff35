"""How long a lab's folder takes to its first token, beside reading its file once with repacking and nothing else.

    python benchmarks/loading.py [--quick] [--write]

The folder: 1 GB of bfloat16 in the shape of Llama, random, with SmolLM2's vocabulary. Each figure is of a fresh
process, the file in the page cache; they take turns, and medians are compared. Freehold maps the file and writes every
matrix anew in the order in which its kernels want it. Beside the whole way, from the start of the process, stand that
pass alone (the same native code and threads; neither model nor text nor a token) and plain reads of the file, into one
small buffer. The last line is JSON.
"""

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from models import model_path
from peers import FREEHOLD, SETTLE_S, doctor, install
from report import machine, number, renew, where

WORK = Path(__file__).parent / ".work"
SOURCE = "smollm2-135m-q4_1"
MARK = "loading"
REQUIRED = 1.5
LAYERS, WIDTH, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY = 30, 1024, 16, 4, 4096, 49152


def make_folder(folder):
    """As `save_pretrained` would write it; the embedding is the output too."""
    from freehold.weights.gguf import open_gguf

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(open_gguf(model_path(SOURCE, WORK, None)).metadata, folder / "tokenizer.json")
    write_weights(shapes(), folder / "model.partial")
    (folder / "model.partial").rename(folder / "model.safetensors")


def shapes():
    kv = WIDTH // HEADS * KV_HEADS
    block = {
        "input_layernorm": (WIDTH,),
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "post_attention_layernorm": (WIDTH,),
        "mlp.gate_proj": (FEED_FORWARD, WIDTH),
        "mlp.up_proj": (FEED_FORWARD, WIDTH),
        "mlp.down_proj": (WIDTH, FEED_FORWARD),
    }
    result = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        result |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    return result


def write_tokenizer(metadata, path):
    """The vocabulary of a GGUF file as a tokenizer.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(tokens, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    tokenizer.save(str(path))


def write_weights(tensors, path):
    import numpy

    header, end = {}, 0
    for name, shape in tensors.items():
        begin, end = end, end + 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = numpy.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            values = generator.standard_normal(shape, numpy.float32) * numpy.float32(0.02) + (len(shape) == 1)
            file.write((values.view(numpy.uint32) >> 16).astype(numpy.uint16))


def first_token(folder):
    """Seconds from the start of a process to the first token of its reply."""
    command = [FREEHOLD, "run", folder, "Once", "--raw", "--max-tokens", "1", "--json"]
    done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return json.loads(done.stdout)["process"]["first_token_from_process_start_s"]


def measured(what, folder):
    command = [sys.executable, __file__, "--measure", what, folder]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def measure(what, folder):
    """Seconds of one pass over the file: "repack" its matrices as it is mapped, or "read" it into one small buffer."""
    from freehold import _native
    from freehold.executors.native import make_pool
    from freehold.weights.safetensors import open_safetensors

    path, pool = folder / "model.safetensors", make_pool()
    buffer = memoryview(bytearray(1 << 20))
    begin = time.perf_counter()
    if what == "read":
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        return time.perf_counter() - begin
    tensors = [t for t in open_safetensors(path).values() if len(t.shape) == 2]
    arena = _native.WeightArena(sum(_native.packed_bytes(t.format, *t.shape) for t in tensors))
    _native.pack(pool, arena, [(t.format, *t.shape, t.data, True) for t in tensors])
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 turns instead of 9")
    parser.add_argument("--write", action="store_true", help="renew RESULTS.md (needs all turns)")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.measure[0], Path(options.measure[1])))
        return
    if options.quick and options.write:
        parser.error("--write: needs all turns, so not --quick")
    install("freehold")
    folder = WORK / "llama-0.5b-random-bf16"
    if not (folder / "model.safetensors").exists():
        print(f"making {folder.name}", flush=True)
        make_folder(folder)
    kinds = {
        "start to first token": lambda: first_token(folder),
        "repack": lambda: measured("repack", folder),
        "read": lambda: measured("read", folder),
    }
    runs = {name: [] for name in kinds}
    for turn in range(4 if options.quick else 10):
        for name, kind in kinds.items():
            time.sleep(SETTLE_S)
            seconds = kind()
            if turn:  # the first brings the file into the page cache
                runs[name].append(seconds)
    figures = {name: (statistics.median(r), min(r), max(r)) for name, r in runs.items()}
    start, repack, read = (median for median, _, _ in figures.values())
    facts = machine(doctor(), [f"tokenizers {importlib.metadata.version('tokenizers')}"])
    cells = [f"{number(m)} ({number(low)} to {number(high)})" for m, low, high in figures.values()]
    ratios = [f"{start / seconds:.2f}" for seconds in (repack, read + repack)]
    row = f"| {' | '.join(cells + ratios)} | ≤ {REQUIRED} |"
    size = (folder / "model.safetensors").stat().st_size
    print(row)
    if options.write:
        renew(MARK, section(size, row, facts))
    print(json.dumps({"machine": facts, "bytes": size, "figures": figures}))


def section(size, row, facts):
    lines = [
        *(f"## Loading a folder of {size / 1e9:.2f} GB, {facts['instruction_set']}", ""),
        *(where(facts), ""),
        "From the start of the process to the first token, beside one pass that repacks every matrix of the mapped",
        "file and beside plain reads of it; seconds, the file in the page cache.",
        "",
        "| start to first token | repack | read | ratio to repack | ratio to read and repack | required |",
        "| --- | --- | --- | --- | --- | --- |",
        row,
    ]
    return "\n".join([f"<!-- begin {MARK} -->", *lines, f"<!-- end {MARK} -->"])


if __name__ == "__main__":
    main()
