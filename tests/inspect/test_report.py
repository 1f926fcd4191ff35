"""The examinations together: openness rests on the licences that were read, not on what a card claims."""

import shutil
import struct
from pathlib import Path

import pytest

from conftest import shared_path
from freehold.errors import RequestError
from freehold.inspection.report import inspect

CARDS = Path(__file__).parent / "cards"


def model(folder, front, licence_text=None):
    folder.mkdir()
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    if licence_text is not None:
        shutil.copy(shared_path(licence_text), folder / "LICENSE")
    return folder


def test_every_examination_is_there():
    report = inspect(CARDS / "qwen3-8b")
    assert list(report.examinations) == ["openness", "licence", "trust", "cost"]
    assert len(report.sections) == 4
    assert report.to_dict().keys() >= {"name", "path", "verdict", "sections", "openness", "licence", "trust", "cost"}


def test_a_report_in_short(tmp_path):
    summary = inspect(CARDS / "llama-3.1-8b-instruct").summary().to_dict()
    rows = {row["label"]: row["value"] for row in summary["rows"]}
    assert rows["Openness"].startswith("open-weight with use restrictions: ")
    assert rows["Next"].startswith("For “open-weight” it lacks: an open licence of the weights")
    assert rows["MOF class"].startswith("Model Openness Framework 1.0: Unclassified; for Class III it lacks: ")
    assert "under Llama 3.1 Community License: not open" in rows["Licence"]
    assert "700 million" in rows["It limits"] and "Built with Llama" in rows["It asks"]
    assert rows["Trust"] == "nothing dangerous found in 2 files"
    assert summary["weights_licence"]["open"] is False
    (tmp_path / "README.md").write_text("---\nlicense: \x1b[31mred\u202e\n---\n")
    assert not {"\x1b", "\u202e"} & set(str(inspect(tmp_path).summary().to_dict()["rows"]))


def test_costs_in_short_of_a_file_behind_a_link(tmp_path, smollm):
    (tmp_path / "linked.gguf").symlink_to(smollm)
    summary = inspect(tmp_path / "linked.gguf", hash_files=False).summary().to_dict()
    assert summary["verdict"] == "open-weight" and summary["trust"] == "note"
    assert summary["parameters"] == {"total": 134_515_008, "active": 134_515_008, "stored": 134_515_008}
    assert summary["cache_bytes_per_token"] == 30 * 2 * 3 * 64 * 2  # layers, keys and values, heads, width, two bytes
    assert summary["at_context"]["memory_bytes"] == summary["weights_bytes"] + 8192 * summary["cache_bytes_per_token"]
    labels = [row["label"] for row in summary["rows"]]
    assert labels[-4:] == ["Parameters", "Weights", "Cache", "Memory"]


def test_a_card_that_says_mit_over_a_llama_licence(tmp_path):
    openness = inspect(model(tmp_path / "m", "license: mit", "data/licenses/llama-3-community-license.txt"))
    facts = openness.to_dict()["openness"]
    assert facts["verdict"] == "open-weight with use restrictions"
    assert facts["weights_licence"]["open"] is False
    assert facts["mof"]["progress"]["3"] < 20  # the code of its architecture alone


def test_mit_that_was_added_to_is_not_mit(tmp_path):
    openness = inspect(model(tmp_path / "m", "license: mit", "data/licenses/kimi-k2-modified-mit.txt"))
    assert openness.verdict == "open-weight with use restrictions"
    assert inspect(model(tmp_path / "r1", "license: mit", "data/licenses/deepseek-r1-MIT.txt")).verdict == "open-weight"


def test_a_use_is_answered_first():
    report = inspect(CARDS / "llama-3.1-8b-instruct", use="commercial service, 2M monthly users, EU")
    assert report.sections[0].verdict == "allowed if"
    assert any("Built with Llama" in row.value for row in report.sections[0].rows)
    assert report.verdict == "open-weight with use restrictions"
    with pytest.raises(RequestError, match="use: expected words about a use"):
        inspect(CARDS / "qwen3-8b", use="blue")


def test_a_gigabyte_is_not_read_without_digests(tmp_path):
    """A sparse file of a gigabyte: what is not asked for is not read."""
    header = b'{"w":{"dtype":"F32","shape":[268435456],"data_offsets":[0,1073741824]}}'
    folder = model(tmp_path / "m", "license: mit")
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + (1 << 30))
    report = inspect(folder, hash_files=False)
    assert report.to_dict()["openness"]["components"]["model_parameters_final"]["detail"] == "1 file, 1.07 GB"
    assert report.to_dict()["trust"]["files"][0]["sha256"] is None
