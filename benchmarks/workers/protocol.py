"""What all workers speak: one JSON task a line in, one JSON reply a line out.

A task: {"prompts": [[token id, ...], ...], "max_tokens": N, "context": tokens of a sequence, "reuse": whether the
prefix may come from a cache, ... the peer's own settings}. A reply: {"prefill_s": submission to the last first token,
"decode_s": from there to the last token, "decoded": tokens meanwhile, if not all but the first of each, "tokens":
[[token id, ...], ...], "peak_bytes": the process's so far}, or {"error": text}. The first line out is the peer's facts.
"""

import json
import sys
from pathlib import Path


def peak_bytes():
    """Peak resident memory of this process (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def serve(generate, facts):
    """Answer tasks by `generate(**task)` until standard input ends."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        try:
            reply = generate(**json.loads(line))
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply | {"peak_bytes": peak_bytes()}), flush=True)
