"""A person's own evidence: shown with who asserts it, and each mistake in the file named."""

import shutil
from pathlib import Path

import pytest

from freehold.errors import ModelFileError
from freehold.inspection.report import inspect

CARDS = Path(__file__).parent / "cards"

CLAIMS = """
asserted_by: Ada Lovelace, 2026-11-01
claims:
  research_paper: {status: present, licence: CC-BY-4.0, source: https://arxiv.org/abs/2501.00656}
  datasets: {status: present, licence: ODC-By-1.0, note: read in the data sets' own cards}
  evaluation_data: {status: present, licence: MIT}
"""


@pytest.fixture
def olmo(tmp_path):
    return Path(shutil.copytree(CARDS / "olmo-2-1124-13b-instruct", tmp_path / "olmo"))


def test_a_person_completes_what_the_card_leaves_out(olmo):
    assert inspect(olmo).to_dict()["openness"]["mof"]["class"] == 0
    (olmo / "evidence.yaml").write_text(CLAIMS)
    report = inspect(olmo)
    openness = report.to_dict()["openness"]
    assert (openness["mof"]["class"], openness["mof"]["label"]) == (1, "Class I - Open Science Model")
    evidence = openness["components"]["evaluation_data"]["evidence"]
    assert evidence == [
        {
            "file": "evidence.yaml",
            "place": "claims.evaluation_data",
            "quote": "",
            "asserted_by": "Ada Lovelace, 2026-11-01",
        }
    ]
    assert any(
        "Stated by persons and not by the artefacts: research paper (Ada Lovelace, 2026-11-01)" in n
        for n in report.sections[0].notes
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims: {}", "evidence.yaml: asserted_by: expected the name of who asserts it, got None"),
        ("asserted_by: A", "evidence.yaml: claims: expected a mapping of topic to claim, got NoneType"),
        ("- a", "evidence.yaml: expected a mapping, got list"),
        (
            "asserted_by: A\nclaims: {training_cod: {status: present}}",
            "evidence.yaml: claims.training_cod: no such topic",
        ),
        (
            "asserted_by: A\nclaims: {training_code: {status: maybe}}",
            "evidence.yaml: claims.training_code.status: expected present, partial or absent, got 'maybe'",
        ),
        (
            "asserted_by: A\nclaims: {training_code: yes}",
            "evidence.yaml: claims.training_code: expected status, licence, source and note, got 'True'",
        ),
        ("a: &x [1]\nb: *x", "evidence.yaml: line 2: expected no YAML alias, got *x"),
    ],
)
def test_a_mistake_is_named(olmo, text, message):
    (olmo / "evidence.yaml").write_text(text)
    with pytest.raises(ModelFileError) as caught:
        inspect(olmo)
    assert message in caught.value.message
