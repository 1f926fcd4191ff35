"""A model of experts in less memory than its file is large: the same bits, and what it costs.

    python benchmarks/larger_than_memory.py [--model NAME] [--memory SHARE]

Runs the model twice, each time in a process of its own: with all its experts in memory, and with a limit (`ulimit -d`)
of SHARE of the file's size, so that experts stay in the file and are read when they are used. The last line is JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

from models import MODELS, model_path

WORK = Path(__file__).parent / ".work"
PROMPT, REPLY = 64, 64


def measure(path, limit_bytes):
    """What one process does under the limit (0: none): printed as JSON."""
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    import freehold

    prompt = [1000 + 37 * i for i in range(PROMPT)]
    with freehold.load(path, context=256, threads=2, speculate=False) as model:
        reply = model.generate(prompt, max_tokens=REPLY, temperature=0, ignore_eos=True)
        hits, misses = model.executor.experts_read()
        figures = {
            "experts": model.info["experts"],
            "found_in_memory": hits,
            "read_from_file": misses,
            "prefill_tok_s": PROMPT / reply.timings.time_to_first_token_s,
            "decode_tok_s": reply.timings.decode_tokens_per_s,
            "data_bytes": data_bytes(),
            "reply": [reply.tokens, reply.logprobs],
        }
    print(json.dumps(figures))


def data_bytes():
    """Bytes of memory of its own that the process holds (VmData), pages of files not counted."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmData")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3moe-1b-random-q8_0", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--memory", type=float, default=0.75, help="of the file's size [0.75]")
    parser.add_argument("--measure", nargs=2, metavar=("PATH", "BYTES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], int(options.measure[1]))
        return
    WORK.mkdir(exist_ok=True)
    path = model_path(options.model, WORK, None)
    limit = int(options.memory * path.stat().st_size)
    runs = {}
    for name, limit_bytes in (("all in memory", 0), ("limited", limit)):
        command = [sys.executable, __file__, "--measure", path, str(limit_bytes)]
        runs[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    same = runs["all in memory"].pop("reply") == runs["limited"].pop("reply")
    for name, figures in runs.items():
        print(f"{name}: {figures}")
    print(json.dumps({"file_bytes": path.stat().st_size, "limit_bytes": limit, "same_bits": same, **runs}))
    sys.exit(not same)


if __name__ == "__main__":
    main()
