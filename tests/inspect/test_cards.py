"""Two dozen releases, each card a paraphrase of public facts: verdict, class, and what the card does and does not show."""

import json
import re
from pathlib import Path

import pytest
import yaml

from freehold.inspection.openness.osaid import Met
from freehold.inspection.report import inspect

CARDS = Path(__file__).parent / "cards"
EXPECTED = yaml.safe_load((CARDS / "expected.yaml").read_text("utf-8"))


def test_every_card_is_expected():
    assert {folder.name for folder in CARDS.iterdir() if folder.is_dir()} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_verdict_and_class(name):
    report, expected = inspect(CARDS / name), EXPECTED[name]
    openness = report.to_dict()["openness"]
    assert report.verdict == openness["verdict"] == expected["verdict"]
    assert openness["mof"]["class"] == expected["mof"]
    assert round(openness["mof"]["progress"]["3"]) == expected["progress"]
    for standing in ("present", "partial", "absent"):
        for topic in expected.get(standing, []):
            assert openness["topics"][topic]["standing"] == standing, topic
    for topic in expected.get("silent", []):
        assert topic not in openness["topics"], topic


@pytest.mark.parametrize("name", EXPECTED)
def test_every_claim_stands_where_it_says(name):
    """A quoted line is in the card at that line; a file exists; a field is declared."""
    openness = inspect(CARDS / name).to_dict()["openness"]
    claims = [evidence for topic in openness["topics"].values() for evidence in topic["evidence"]]
    assert claims
    for evidence in claims:
        text = (CARDS / name / evidence["file"]).read_text("utf-8")
        if evidence["place"].startswith("line ") and "aspects" not in evidence["quote"]:
            line = int(evidence["place"].removeprefix("line "))
            following = " ".join(" ".join(text.split("\n")[line - 1 :]).split())
            assert evidence["quote"].rstrip("…")[:60] in following
        elif found := re.fullmatch(r"([\w-]+), line (\d+)", evidence["place"]):
            lines = text.splitlines()[: int(found[2])]
            assert lines[-1].strip() and any(line.startswith(f"{found[1]}:") for line in lines)
        elif evidence["file"] == "config.json":
            assert evidence["place"] in json.loads(text)


def test_what_is_not_evidenced_is_not_guessed(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["SomethingForCausalLM"], "model_type": "something"}')
    openness = inspect(tmp_path).to_dict()["openness"]
    assert openness["verdict"] == "open-weight with use restrictions"
    assert openness["weights_licence"] == {"name": None, "open": False}
    assert "an open licence of the weights (none is evidenced)" in openness["missing_for_next"]
    assert openness["components"]["model_architecture"]["standing"] == "not evidenced"


def test_open_source_needs_every_element():
    report = inspect(CARDS / "olmo-2-1124-13b-instruct")
    assert all(element.met is Met.YES for element in report.examinations["openness"].osaid)
    assert report.examinations["openness"].verdict.missing == ()
    pythia = inspect(CARDS / "pythia-1.4b").to_dict()["openness"]
    assert pythia["missing_for_next"] == [
        "code that processed and filtered the data (data preprocessing code: not evidenced)"
    ]


def test_a_denial_is_not_a_publication(tmp_path):
    card = "---\nlicense: apache-2.0\n---\nTraining code is not released.\n\nEvaluation code will be released at https://example.org.\n"
    (tmp_path / "README.md").write_text(card)
    topics = inspect(tmp_path).to_dict()["openness"]["topics"]
    assert topics["training_code"]["standing"] == topics["evaluation_code"]["standing"] == "absent"


def test_a_model_inside_a_hub_folder_of_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# M\n")
    (tmp_path / "modeling_m.py").write_text("")
    components = inspect(tmp_path).to_dict()["openness"]["components"]
    assert components["model_parameters_final"]["evidence"] == [
        {"file": "model.safetensors", "place": "file", "quote": ""}
    ]
    assert components["model_architecture"]["evidence"][0]["file"] == "modeling_m.py"


def test_a_gguf_file_by_itself(smollm):
    report = inspect(smollm)
    assert report.verdict == "open-weight"
    licence = report.sections[0].rows[0]
    assert licence.value == "Apache-2.0"
    assert "general.license" in licence.evidence[0].place


def test_a_gguf_file_that_names_no_licence(qwen):
    report = inspect(qwen)
    assert report.verdict == "open-weight with use restrictions"
    assert any(
        "no licence is evidenced, and without one nobody may use it" in note for note in report.sections[0].notes
    )


def test_a_modified_licence_is_not_the_licence():
    kimi = inspect(CARDS / "kimi-k2-instruct").to_dict()["openness"]
    assert kimi["weights_licence"] == {"name": "Modified MIT", "open": False}
    assert "MIT" not in {component["licence"] for component in kimi["components"].values()}


def test_a_snapshot_of_the_hub_is_named_by_its_model(tmp_path):
    blobs, snapshot = tmp_path / "models--org--m" / "blobs", tmp_path / "models--org--m" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "x").write_text("---\nlicense: mit\n---\nWeights: https://huggingface.co/org/m\n")
    (snapshot / "README.md").symlink_to(blobs / "x")
    report = inspect(snapshot)
    assert (report.name, report.verdict) == ("org/m", "open-weight")
