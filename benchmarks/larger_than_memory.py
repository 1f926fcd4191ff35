"""A model of experts in less memory than its file is large: the same bits, and what it costs.

    python benchmarks/larger_than_memory.py [--model NAME] [--memory SHARE]

Runs the model three times, each in a process of its own: with all its experts in memory; with a limit (`ulimit -d`) of
SHARE of the file's size, so that experts stay in the file and are read when they are used; and again while the system
forgets the file after each token, so that what is read comes from the disk. The last line is JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from models import MODELS, model_path

WORK = Path(__file__).parent / ".work"
PROMPT, REPLY = 64, 64


def measure(path, limit_bytes, forgets):
    """What one process does under the limit (0: none): printed as JSON."""
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    import freehold

    prompt = [1000 + 37 * i for i in range(PROMPT)]
    with freehold.load(path, context=256, threads=2, speculate=False) as model:
        with path.open("rb") as file:
            stream = model.stream(prompt, max_tokens=REPLY, temperature=0, ignore_eos=True)
            for _ in stream:
                if forgets:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        reply = stream.completion
        hits, misses = model.executor.experts_read()
        figures = {
            "experts": model.info["experts"],
            "found_in_memory": hits,
            "read_from_file": misses,
            "prefill_tok_s": PROMPT / reply.timings.time_to_first_token_s,
            "decode_tok_s": reply.timings.decode_tokens_per_s,
            "data_bytes": proc_bytes("status", "VmData", 1024),
            "disk_bytes": proc_bytes("io", "read_bytes", 1),
            "major_faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt,
            "reply": [reply.tokens, reply.logprobs],
        }
    print(json.dumps(figures))


def proc_bytes(file, key, unit):
    """Of this process: VmData is memory of its own, pages of files not counted; read_bytes came from a disk."""
    for line in Path("/proc/self", file).read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * unit
    raise OSError(f"/proc/self/{file} has no {key}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3moe-1b-random-q8_0", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--memory", type=float, default=0.75, help="of the file's size [0.75]")
    parser.add_argument("--measure", nargs=3, metavar=("PATH", "BYTES", "FORGETS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        path, limit, forgets = options.measure
        measure(Path(path), int(limit), forgets == "True")
        return
    WORK.mkdir(exist_ok=True)
    path = model_path(options.model, WORK, None)
    limit = int(options.memory * path.stat().st_size)
    runs = {}
    for name, *how in (("all in memory", 0, False), ("limited", limit, False), ("limited, from disk", limit, True)):
        command = [sys.executable, __file__, "--measure", path, *map(str, how)]
        runs[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    replies = [figures.pop("reply") for figures in runs.values()]
    same = all(reply == replies[0] for reply in replies)
    for name, figures in runs.items():
        print(f"{name}: {figures}")
    print(json.dumps({"file_bytes": path.stat().st_size, "limit_bytes": limit, "same_bits": same, **runs}))
    sys.exit(not same)


if __name__ == "__main__":
    main()
