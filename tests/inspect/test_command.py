"""freehold inspect as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from freehold.cli.inspect import command

CARDS = Path(__file__).parent / "cards"
FREEHOLD = Path(sys.executable).with_name("freehold")


def run(*arguments):
    return subprocess.run([FREEHOLD, "inspect", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def within(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_page(tmp_path):
    done = run(CARDS / "qwen3-8b")
    assert done.returncode == 0
    assert "Openness: open-weight\n" in "\n".join(line.rstrip() for line in done.stdout.split("\n")) + "\n"
    assert "For “open-weight with open code” it lacks: code that trained it" in " ".join(done.stdout.split())
    assert len(done.stdout.split("\n")) < 120


def test_json_markdown_html():
    report = json.loads(within(CARDS / "qwen3-8b", "--json").output)
    assert (report["name"], report["verdict"]) == ("qwen3-8b", "open-weight")
    assert report["sections"][0]["title"] == "Openness"
    assert within(CARDS / "qwen3-8b", "--md").output.startswith("# qwen3\\-8b\n")
    assert within(CARDS / "qwen3-8b", "--html").output.startswith("<!doctype html>")


def test_several():
    done = within(CARDS / "qwen3-8b", CARDS / "olmo-2-1124-13b-instruct", "--json")
    assert [report["verdict"] for report in json.loads(done.output)] == ["open-weight", "open source"]


def test_a_use():
    done = within(CARDS / "llama-3.1-8b-instruct", "--for", "commercial service, 2M monthly users, EU", "--no-hash")
    assert "For “commercial service, 2M monthly users, EU”: allowed if" in done.output
    assert "Built with Llama" in done.output


def test_what_it_costs_here(smollm):
    prices = ("--power-price", "1.5", "--machine-price", "0")
    report = json.loads(within(smollm, "--measure", *prices, "--no-hash", "--json").output)
    measured, running = report["cost"]["measured"], report["cost"]["million_tokens"]
    assert measured["decode_tokens_per_s"] > 1 and measured["watts"] > 0
    assert running["usd"] == pytest.approx(1.5 * running["kwh"])
    assert json.loads(within(smollm, "--no-hash", "--json").output)["cost"]["measured"] is None


def test_errors(tmp_path):
    done = run(tmp_path / "nothing")
    assert done.returncode == 2
    assert f"error: {tmp_path / 'nothing'}: neither a file, a folder nor a model in the catalogue" in done.stderr
    done = run(CARDS / "qwen3-8b", "--json", "--md")
    assert done.returncode == 2
    assert "error: --json, --md and --html: expected at most one of them" in done.stderr
