"""The soak of benchmarks/soak.py for some seconds: streams, vanishing clients, no slot lost, no memory."""

import json
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_a_short_soak(smollm):
    load = ["--seconds", "2", "--clients", "8", "--vanishing", "20"]
    small = ["--context", "1024", "--memory", "0.16"]  # a cache for some of them: the others wait, or are set back
    done = subprocess.run([sys.executable, SOAK, smollm, *load, *small], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["problems"] == []
    for figures in result["rounds"]:
        assert figures["steady"]["replies"] >= 8
        assert figures["vanishing"]["left"] == 10
