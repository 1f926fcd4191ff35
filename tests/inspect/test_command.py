"""freehold inspect as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

CARDS = Path(__file__).parent / "cards"
FREEHOLD = Path(sys.executable).with_name("freehold")


def run(*arguments):
    return subprocess.run([FREEHOLD, "inspect", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_a_page(tmp_path):
    done = run(CARDS / "qwen3-8b")
    assert done.returncode == 0
    assert "Openness: open-weight\n" in "\n".join(line.rstrip() for line in done.stdout.split("\n")) + "\n"
    assert "For “open-weight with open code” it lacks: code that trained it" in " ".join(done.stdout.split())
    assert len(done.stdout.split("\n")) < 80


def test_json_markdown_html():
    report = json.loads(run(CARDS / "qwen3-8b", "--json").stdout)
    assert (report["name"], report["verdict"]) == ("qwen3-8b", "open-weight")
    assert report["sections"][0]["title"] == "Openness"
    assert run(CARDS / "qwen3-8b", "--md").stdout.startswith("# qwen3\\-8b\n")
    assert run(CARDS / "qwen3-8b", "--html").stdout.startswith("<!doctype html>")


def test_several():
    done = run(CARDS / "qwen3-8b", CARDS / "olmo-2-1124-13b-instruct", "--json")
    assert [report["verdict"] for report in json.loads(done.stdout)] == ["open-weight", "open source"]


def test_errors(tmp_path):
    done = run(tmp_path / "nothing")
    assert done.returncode == 2
    assert f"error: {tmp_path / 'nothing'}: neither a file, a folder nor a model in the catalogue" in done.stderr
    done = run(CARDS / "qwen3-8b", "--json", "--md")
    assert done.returncode == 2
    assert "error: --json, --md and --html: expected at most one of them" in done.stderr
