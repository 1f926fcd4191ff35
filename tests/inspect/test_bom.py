"""Bills of materials, against the schema and the model that the formats' own packages carry."""

import hashlib
import io
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from safetensors.numpy import save_file
from spdx_python_model import v3_0_1

from freehold.cli import cli
from freehold.errors import RequestError
from freehold.inspection.artefacts import Artefacts
from freehold.inspection.trust.bom import bill_of_materials

THEN = datetime(2026, 11, 25, 12, tzinfo=UTC)
CARD = """---
license: apache-2.0
base_model: [someone/base-7b]
base_model_relation: finetune
datasets: [someone/a-set, "a set of our own"]
language: [en, zh]
pipeline_tag: text-generation
model-index:
- name: x
  results:
  - dataset: {name: HellaSwag}
    metrics: [{type: accuracy, value: 42.1}]
---
# A model

It answers questions about the weather in short sentences.
"""


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FREEHOLD_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    save_file({"a": np.ones((2, 3), np.float16)}, folder / "model.safetensors")
    return folder


def bom(folder, form):
    return bill_of_materials(Artefacts(folder), form, created=THEN)


def check_cyclonedx(document):
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(document)) is None


def elements(document):
    objects = v3_0_1.SHACLObjectSet()
    v3_0_1.JSONLDDeserializer().read(io.StringIO(json.dumps(document)), objects)
    missing = objects.link()
    assert not missing
    return objects


def test_cyclonedx_is_valid_and_complete(folder):
    document = bom(folder, "cyclonedx")
    check_cyclonedx(document)
    model = document["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "my-model")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    assert model["pedigree"]["ancestors"][0]["name"] == "someone/base-7b"
    digests = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    assert digests == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    card = model["modelCard"]
    assert card["modelParameters"]["modelArchitecture"] == "LlamaForCausalLM"
    assert [data["ref"] for data in card["modelParameters"]["datasets"]] == [
        c["bom-ref"] for c in document["components"]
    ]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [
        {"type": "accuracy", "value": "42.1", "slice": "HellaSwag"}
    ]
    assert {"name": "freehold:stored_values", "value": "6"} in card["properties"]


def test_spdx_is_valid_and_complete(folder):
    objects = elements(bom(folder, "spdx"))
    (document,) = objects.foreach_type("SpdxDocument")
    (model,) = document.rootElement
    assert (model.name, list(model.ai_typeOfModel)) == ("my-model", ["LlamaForCausalLM"])
    related = {
        r.relationshipType.rsplit("/", 1)[-1]: [e.name for e in r.to] for r in objects.foreach_type("Relationship")
    }
    assert related == {
        "contains": ["README.md", "config.json", "model.safetensors"],
        "trainedOn": ["someone/a-set", "a set of our own"],
        "descendantOf": ["someone/base-7b"],
        "hasDeclaredLicense": ["Apache-2.0"],
    }
    hashes = [f.verifiedUsing[0].hashValue for f in objects.foreach_type("software_File")]
    assert [len(value) for value in hashes] == [64, 64, 64]
    assert v3_0_1.ProfileIdentifierType.ai in document.profileConformance


@pytest.mark.parametrize("form", ["cyclonedx", "spdx"])
def test_the_same_model_gives_the_same_bill(folder, form):
    assert bom(folder, form) == bom(folder, form)
    first = json.dumps(bom(folder, form))
    (folder / "config.json").write_text("{}")
    assert json.dumps(bom(folder, form)) != first


CARDS = [
    "",
    "no front matter",
    "---\nlicense: other\nlicense_name: my-own\nlicense_link: https://example.org/l\n---\n",
    "---\nlicense: other\nlicense_name: my-own\nlicense_link: javascript:alert(1)\n---\n",
    "---\nlicense: [mit, cc-by-4.0]\ndatasets: {a: b}\nbase_model: 7\nlanguage: \x1b[31m\n---\n",
    "---\nlicense: <b>mit</b>\ndatasets: ['../../x', '<script>', 'a b', '']\nmodel-index: [1, {results: [2, {metrics: [3]}]}]\n---\n",
    "---\n: [\n---\n",
]


@pytest.mark.parametrize("card", CARDS)
def test_whatever_a_card_says_the_bill_is_valid(folder, card):
    (folder / "README.md").write_text(card)
    check_cyclonedx(bom(folder, "cyclonedx"))
    elements(bom(folder, "spdx"))


def test_a_licence_of_its_own_has_its_name(folder):
    (folder / "README.md").write_text(CARDS[2])
    (licence,) = bom(folder, "cyclonedx")["metadata"]["component"]["licenses"]
    assert licence == {"license": {"name": "my-own", "url": "https://example.org/l", "acknowledgement": "declared"}}
    assert "LicenseRef-my-own" in json.dumps(bom(folder, "spdx"))


def test_a_real_file(smollm):
    document = bom(smollm, "cyclonedx")
    check_cyclonedx(document)
    elements(bom(smollm, "spdx"))
    model = document["metadata"]["component"]
    assert (model["publisher"], model["licenses"][0]["license"]["id"]) == ("HuggingFaceTB", "Apache-2.0")
    assert model["components"][0]["hashes"][0]["content"].startswith("b179c9523d0e6a0f")


def test_an_unknown_format(tmp_path):
    with pytest.raises(RequestError, match=r"format 'xml': expected one of cyclonedx, spdx"):
        bill_of_materials(Artefacts(tmp_path), "xml")


def test_from_the_command_line(folder):
    assert json.loads(CliRunner().invoke(cli, ["bom", str(folder)]).output)["specVersion"] == "1.7"
    elements(json.loads(CliRunner().invoke(cli, ["bom", str(folder), "--format", "spdx"]).output))
