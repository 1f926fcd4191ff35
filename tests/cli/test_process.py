"""The command as a user runs it: a process, its output, its errors, its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FREEHOLD = Path(sys.executable).with_name("freehold")


def run(*arguments, stdin="", **environment):
    return subprocess.run(
        [FREEHOLD, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


def test_answers_and_says_how_fast(smollm):
    done = run("run", smollm, "Say hello.", "--max-tokens", 8, "--temperature", 0)
    assert done.returncode == 0
    assert len(done.stdout.split()) >= 3
    for figure in ("prompt 3", "tokens/s", "first token", "peak memory", "length]"):
        assert figure in done.stderr


def test_json_from_a_pipe(smollm):
    done = run("run", smollm, "--json", "--max-tokens", 4, "--seed", 1, "--logprobs", 2, stdin="Say hello.")
    reply = json.loads(done.stdout)
    assert reply["usage"]["completion_tokens"] == len(reply["tokens"]) == len(reply["logprobs"]) == 4
    assert [len(top) for top in reply["top_logprobs"]] == [2, 2, 2, 2]
    again = json.loads(run("run", smollm, "--json", "--max-tokens", 4, "--seed", 1, stdin="Say hello.").stdout)
    assert again["tokens"] == reply["tokens"]


def test_raw_completion_with_a_stop(smollm):
    done = run(
        "run", smollm, "One, two, three, four,", "--raw", "--temperature", 0, "--stop", " nine", "--max-tokens", 40
    )
    assert "five" in done.stdout
    assert "nine" not in done.stdout
    assert "stop]" in done.stderr


def test_every_instruction_set_answers_alike(smollm):
    from freehold import _native

    answers = {}
    for isa in _native.supported_isas():
        done = run("run", smollm, "Name a colour.", "--json", "--temperature", 0, "--max-tokens", 6, FREEHOLD_ISA=isa)
        answers[isa] = json.loads(done.stdout)["tokens"]
    with_fma = {isa: tokens for isa, tokens in answers.items() if isa != "portable"}
    assert len({tuple(tokens) for tokens in with_fma.values()}) == 1


def test_show(smollm):
    info = json.loads(run("show", smollm, "--json").stdout)
    assert info["architecture"] == "llama"
    assert info["parameters"] == 134515008
    assert info["quantization"]["ffn_down"] == {"Q4_1": 30}
    assert info["licence"] == {"general.license": "apache-2.0"}
    page = " ".join(run("show", smollm).stdout.split())
    assert "8192 tokens" in page and info["sha256"] in page.replace(" ", "")
    assert "Openness open-weight: free to use and change" in page
    for row in info["summary"]["rows"]:
        assert f"{row['label']} {row['value']}" in page


def test_show_says_why_there_is_no_report(smollm, tmp_path):
    missing = "raise ModuleNotFoundError('not here', name='license-expression')"
    (tmp_path / "license_expression.py").write_text(missing)
    done = run("show", smollm, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0 and "134.5 M" in done.stdout
    error = "not examined a report needs the package license-expression; pip install 'freehold[inspect]'"
    assert error in " ".join(done.stdout.split())


def test_doctor_measures():
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["memory_bandwidth_gb_per_s"] > 0.5
    assert facts["instruction_set"] in facts["instruction_sets"]


def test_bench_profile(smollm):
    rows = json.loads(run("bench", smollm, "--profile", "--tokens", 4, "--json").stdout)["rows"]
    assert {"attention", "gate, up + swiglu", "down_proj"} <= {row["operation"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "no-such-model", "hi"), "neither a file, a folder nor a model in the catalogue"),
        (("run", "what is this?"), "is not a model"),
        (("run",), "standard input is empty"),
        (("run", "x", "--temperature", "hot"), "not a valid float"),
        (("run", "{model}", "hi", "--temperature", "-1"), "temperature: expected a number from 0 to 100, got -1.0"),
        (("run", "{model}", "hi", "--top-p", "nan"), "top_p: expected a number above 0 to 1, got nan"),
        (("run", "{model}", "hi", "--max-tokens", "0"), "max_tokens: expected an integer from 1"),
        (("run", "{model}", "hi", "--context", "99999"), "context: expected 2 to 8192 tokens"),
        (("run", "{model}", "hi " * 300, "--context", "64"), "tokens; the context holds 64"),
        (("run", "{model}", "hi", "--threads", "0"), "threads: expected 1 to 1024"),
        (("run", "{model}", "hi", "--quantize", "q9"), "quantize 'q9': unknown"),
        (("run", "{model}", "hi", "--quantize", "q8_0"), "quantize: the weights are quantized already (Q4_1, Q8_0)"),
        (("convert", "{model}", "{text}"), "exists already"),
        (("convert", "{model}", "{text}/out.gguf"), "out.gguf: cannot be written: Not a directory"),
        (("convert", "{model}", "x" * 300 + ".gguf"), "cannot be written: File name too long"),
        (("convert", "{model}", "{folder}/out.gguf", "--importance", "{model}"), "importance: "),
        (("convert", "{model}", "{folder}/out", "--quantize", "bf16", "--importance", "{model}"), "importance: "),
        (("run", "诗" * 200, "hi"), "neither a file, a folder nor a model in the catalogue"),
        (("run", "hf:" + "x" * 300, "hi"), "expected hf:org/name"),
        (("run", "", "hi"), "the model's name is empty"),
        (("show", ""), "the model's name is empty"),
        (("run", "{model}", "hi", "--raw", "--system", "x"), "--system: is said through the chat template"),
        (("bench", "{model}", "--prefill", ""), "--prefill: expected numbers from 1 with commas between, got ''"),
        (("bench", "{model}", "--prefill", "-5"), "--prefill: expected numbers from 1 with commas between, got '-5'"),
        (("bench", "{model}", "--depth", "1.5"), "--depth: expected numbers from 0 with commas between, got '1.5'"),
        (("bench", "{model}", "--profile", "--executor", "torch"), "--profile: the torch executor"),
        (("frob",), "No such command"),
        (("show", "{text}"), "not a GGUF file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, smollm, tmp_path):
    (tmp_path / "text.txt").write_text("hello")
    names = {"model": smollm, "text": tmp_path / "text.txt", "folder": tmp_path}
    done = run(*(argument.format(**names) for argument in arguments))
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert len(lines) <= 2
    assert not done.stdout


def test_piped_bytes_that_are_no_text(smollm):
    done = subprocess.run([FREEHOLD, "run", smollm], input=b"caf\xe9", capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == b"error: standard input: not UTF-8 text, at byte 3\n"


def test_standard_input_and_output_may_be_closed(smollm):
    command = f"{FREEHOLD} run {smollm} hi --max-tokens 2"
    for closed, output in (("<&-", True), (">&-", False)):
        done = subprocess.run(f"{command} {closed}", shell=True, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "length]" in done.stderr
        assert bool(done.stdout) == output
    done = subprocess.run(f"{FREEHOLD} run {smollm} <&-", shell=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "no prompt: standard input is empty" in done.stderr


@pytest.mark.parametrize("verb", ["run {} hi --max-tokens 2", "run {} hi --max-tokens 2 --json", "show {}", "list"])
def test_an_output_that_is_full(verb, smollm):
    command = f"{FREEHOLD} {verb.format(smollm)} < /dev/null > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: output: cannot be written: No space left on device"


def test_bench_says_what_it_leaves_out(smollm):
    figures = ("--context", 40, "--prefill", "8,64", "--depth", "0,64", "--batch", 1, "--tokens", 4, "--repeats", 1)
    done = run("bench", smollm, "--json", *figures)
    assert [(row["work"], row["prompt"]) for row in json.loads(done.stdout)["rows"]] == [("prefill", 8), ("decode", 0)]
    assert "note: prefill at 64: left out, the context holds 40 tokens" in done.stderr
    done = run("bench", smollm, "--context", 40, "--prefill", 64, "--depth", 64, "--batch", 1)
    assert done.returncode == 2 and "error: nothing to measure: the context holds 40 tokens" in done.stderr
    assert run("bench", smollm, "--context", 40, "--profile", "--batch", 1, "--tokens", 2).returncode == 0


def test_an_instruction_set_that_is_not_here(smollm):
    done = run("run", smollm, "hi", FREEHOLD_ISA="z80")
    assert done.returncode == 2
    assert "FREEHOLD_ISA=z80: this machine cannot run it" in done.stderr


def test_import_is_light():
    code = "import sys, freehold; print([m for m in ('torch', 'numpy', 'tokenizers', 'jinja2', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_truncated_model_is_refused(smollm, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(smollm.read_bytes()[:50_000_000])
    done = run("run", path, "hi")
    assert done.returncode == 2
    assert "truncated?" in done.stderr
