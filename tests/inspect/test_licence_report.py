"""A model's folder: which licence is whose, what is inherited, and what contradicts."""

import json

import gguf
import pytest
from licences import APACHE, BSD, MIT, folder, shared

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.findings import Status
from freehold.inspection.licence import LicenceReport, Openness, examine

LLAMA_3_1 = "llama-3_1-community-license.txt"


def card(text: str = "", **fields: str) -> str:
    return "---\n" + "".join(f"{key}: {value}\n" for key, value in fields.items()) + f"---\n{text}\n"


def config(kind: str, **more) -> str:
    return json.dumps({"model_type": kind, **more})


@pytest.fixture
def report_of(tmp_path):
    def make(name: str, **files: str) -> LicenceReport:
        return examine(Artefacts(folder(tmp_path, name, **files)))

    return make


def kinds(report: LicenceReport) -> set[str]:
    return {clause.kind for clause in report.clauses}


def test_a_text_and_a_card_that_agree(report_of):
    report = report_of("thing", README_md=card(license="mit"), LICENSE=MIT, config_json=config("qwen3"))
    assert report.is_open and report.weights.expression == "MIT" and report.conflicts == ()
    assert [evidence.file for evidence in report.weights.evidence] == ["LICENSE", "README.md"]
    assert report.weights.evidence[1].place == "license, line 2"
    assert report.code.because == "there is no code in these files"
    assert report.data.name == "not evidenced" and report.data.openness is Openness.UNKNOWN


def test_nothing_that_names_a_licence(report_of):
    report = report_of("thing", README_md="# A model\n\nIt is good.\n")
    assert not report.is_open and report.weights.openness is Openness.UNKNOWN
    assert report.section().verdict == "No licence for the weights is evidenced"


@pytest.mark.parametrize(
    ("files", "weights", "code", "data"),
    [
        ({"LICENSE-MODEL": APACHE, "LICENSE-CODE": MIT}, "Apache-2.0", "MIT", ""),
        ({"LICENSE": MIT, "MODEL_LICENSE": APACHE, "run_py": ""}, "Apache-2.0", "MIT", ""),
        ({"LICENSE": BSD, "run_py": ""}, "BSD-3-Clause", "BSD-3-Clause", ""),
        ({"README_md": card(license="apache-2.0"), "data__LICENSE": MIT}, "Apache-2.0", "", "MIT"),
        ({"README_md": card(license="apache-2.0"), "model_py": "# SPDX-License-Identifier: BSD-3-Clause\n"}, "Apache-2.0", "BSD-3-Clause", ""),
        ({"README_md": "The code is released under the MIT License; the model weights are licensed under Apache License 2.0.\n"}, "Apache-2.0", "MIT", ""),
        ({"README_md": "The dataset is available under CC-BY-4.0.\n"}, "", "", "CC-BY-4.0"),
        ({"README_md": card(license="[mit, apache-2.0]")}, "MIT AND Apache-2.0", "", ""),
        ({"README_md": card(license="MIT OR GPL-3.0")}, "MIT OR GPL-3.0-only", "", ""),
        ({"LICENSE.md": MIT, "THIRD_PARTY_LICENSES.txt": "Not for commercial use."}, "MIT", "", ""),
    ],
)  # fmt: skip
def test_which_part_a_source_speaks_of(report_of, files, weights, code, data):
    report = report_of("thing", **files)
    assert (report.weights.expression, report.code.expression, report.data.expression) == (weights, code, data)


def test_a_modified_licence_is_not_read_as_the_one_it_is_made_from(report_of):
    said = "\n## License\n\nBoth the code and the model weights are released under the Modified MIT License.\n"
    report = report_of("thing", README_md=card(said, license="other", license_name="modified-mit"))
    assert report.weights.name == report.code.name == "Modified MIT"
    assert report.conflicts == () and not report.is_open


def test_a_list_and_quotes_in_the_front_matter(report_of):
    text = "---\nlanguage:\n  - en\n  - de\nlicense: 'apache-2.0'  # as before\nbase_model:\n- meta-llama/Llama-2-7b\n---\n"
    report = report_of("thing", README_md=text)
    assert report.weights.name == "Apache-2.0"
    assert [parent.name for parent in report.parents] == ["meta-llama/Llama-2-7b"]


def test_other_falls_back_on_its_name_and_says_that_the_text_is_missing(report_of):
    report = report_of("thing", README_md=card(license="other", license_name="qwen-research"))
    assert report.weights.name == "Qwen Research License" and not report.is_open
    assert kinds(report) == {"non_commercial"}
    known = report_of("Other", README_md=card(license="gemma"))
    assert {"pass_on", "remote_restriction"} <= kinds(known)
    assert "its text is not in the folder" in known.section().notes[1]
    assert all(clause.line == 0 for clause in known.clauses)


def test_a_card_that_says_mit_over_a_llama_text(report_of):
    report = report_of("my-model", README_md=card(license="mit"), LICENSE=shared(LLAMA_3_1))
    assert report.weights.name == "Llama 3.1 Community License" and not report.is_open
    (conflict,) = report.conflicts
    assert (
        conflict.plain == "README.md (license, line 2) says MIT, but LICENSE (line 1) is Llama 3.1 Community License."
    )
    assert [evidence.file for evidence in conflict.evidence] == ["README.md", "LICENSE"]


def test_a_card_that_says_mit_over_mit_with_a_clause(report_of):
    text = f"{MIT}\nAbove 5 million monthly active users you shall display “Zeta” on the screen.\n"
    report = report_of("thing", README_md=card(license="mit"), LICENSE=text)
    assert not report.is_open and report.weights.expression == ""
    assert "adds terms to it: “Above 5 million" in report.conflicts[0].plain
    fitting = report_of("other", README_md=card(license="other", license_name="modified-mit"), LICENSE=text)
    assert fitting.conflicts == ()


@pytest.mark.parametrize(
    ("files", "relation"),
    [
        ({"README_md": card(license="mit", base_model="meta-llama/Llama-3.1-8B")}, "derived"),
        ({"README_md": card(license="mit", base_model="meta-llama/Llama-3.1-8B", base_model_relation="merge")}, "merge"),
        ({"README_md": card(license="mit"), "adapter_config_json": '{"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}'}, "adapter"),
        ({"README_md": card(license="mit"), "config_json": config("llama", _name_or_path="meta-llama/Llama-3.1-8B")}, "derived"),
        ({"README_md": card(license="mit"), "mergekit_config.yml": "models:\n  - model: meta-llama/Llama-3.1-8B\n"}, "merge"),
    ],
)  # fmt: skip
def test_a_derived_model_inherits(report_of, files, relation):
    report = report_of("my-model", **files)
    assert not report.is_open and report.weights.expression == "MIT"
    (parent,) = report.parents
    assert (parent.name, parent.relation, parent.family) == ("meta-llama/Llama-3.1-8B", relation, "Llama 3.1")
    inherited = [clause for clause in report.clauses if clause.from_parent == "meta-llama/Llama-3.1-8B"]
    assert {"users_threshold", "display", "name_prefix", "notice_file", "use_policy"} <= {c.kind for c in inherited}
    declared, named = report.conflicts
    assert declared.plain.startswith("It is declared to be under MIT, but it is ")
    assert "asks that the name of a model made from it begin with “Llama”; this one is called my-model" in named.plain
    assert report.section().verdict.startswith(
        "The weights are declared to be under MIT, but Llama 3.1 Community License follows: not open"
    )


def test_a_derived_model_that_does_as_it_should(report_of):
    files = {"README_md": card(license="llama3.1", base_model="meta-llama/Llama-3.1-8B"), "LICENSE": shared(LLAMA_3_1)}
    report = report_of("Llama-3.1-8B-cats", **files, NOTICE="Llama 3.1 is licensed under …")
    assert report.conflicts == () and report.has_notice_file
    assert report_of("Qwen3-cats", README_md=card(license="mit", base_model="Qwen/Qwen3-8B")).conflicts == ()


@pytest.mark.parametrize(
    ("name", "family", "licence"),
    [
        ("DeepSeek-R1-Distill-Llama-8B", "Llama 3.1", "Llama 3.1 Community License"),
        ("DeepSeek-R1-Distill-Llama-70B", "Llama 3.3", "Llama 3.3 Community License"),
        ("Llama-3.2-3B-Instruct-abliterated", "Llama 3.2", "Llama 3.2 Community License"),
        ("gemma-2-9b-it-GGUF", "Gemma", "Gemma Terms of Use"),
        ("Qwen2.5-72B-Instruct-AWQ", "Qwen2.5 72B", "Qwen License Agreement"),
        ("Qwen2.5-3B-Instruct", "Qwen2.5 3B", "Qwen Research License"),
    ],
)
def test_a_name_tells_what_it_is_made_from(report_of, name, family, licence):
    report = report_of(name, README_md=card(license="mit"))
    (parent,) = report.parents
    assert parent.family == family and parent.licence.name == licence and not report.is_open
    assert report.conflicts


@pytest.mark.parametrize("name", ["Qwen2.5-7B-Instruct", "gemma-4-E4B-it", "TinyLlama-1.1B", "Mistral-7B-v0.3", "DeepSeek-R1", "GLM-4.6"])  # fmt: skip
def test_names_of_open_models_make_no_conflict(report_of, name):
    report = report_of(name, README_md=card(license="apache-2.0"))
    assert report.is_open and report.conflicts == ()


def test_a_parent_whose_terms_are_not_known(report_of):
    report = report_of("thing", README_md=card(license="mit", base_model="somebody/mystery-7b"))
    (parent,) = report.parents
    assert parent.licence is None and report.conflicts == ()
    row = next(row for row in report.section().rows if row.label == "Lineage")
    assert row.status is Status.UNKNOWN and "its terms are not known here" in row.value


GEMMA_TOKENS = {"added_tokens_decoder": {"106": {"content": "<start_of_turn>"}, "107": {"content": "<end_of_turn>"}}}


def test_a_tokenizer_that_is_anothers_leaves_openness_in_doubt(report_of):
    files = {"config_json": config("llama", vocab_size=256000), "tokenizer_config_json": json.dumps(GEMMA_TOKENS)}
    report = report_of("thing", README_md=card(license="apache-2.0"), **files)
    (conflict,) = report.conflicts
    assert "its tokenizer is that of Gemma" in conflict.plain and "Gemma Terms of Use" in conflict.plain
    assert report.weights.openness is Openness.UNKNOWN
    assert {"pass_on", "remote_restriction"} <= kinds(report)


def test_a_gguf_that_says_apache_over_a_gemma_tokenizer(tmp_path):
    path = tmp_path / "thing.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.license", "apache-2.0")
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(256_000)] + ["<start_of_turn>", "<end_of_turn>"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = examine(Artefacts(path))
    assert report.weights.name == "Apache-2.0" and not report.is_open
    (conflict,) = report.conflicts
    assert [evidence.place for evidence in conflict.evidence] == ["general.license", "tokenizer.ggml.tokens"]


def test_a_gguf_names_its_base_models(tmp_path):
    path = tmp_path / "thing.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.license", "mit")
    writer.add_string("general.base_model.0.name", "Llama 3.1 8B")
    writer.add_string("general.base_model.0.repo_url", "https://huggingface.co/meta-llama/Llama-3.1-8B")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = examine(Artefacts(path))
    assert [(parent.family, parent.evidence.place) for parent in report.parents] == [
        ("Llama 3.1", "general.base_model.0.name")
    ]
    assert len(report.conflicts) == 1


def test_the_real_files(real_model):
    report = examine(Artefacts(real_model))
    if "smollm" in real_model.name:
        assert report.is_open and report.weights.evidence[0].place == "general.license"
    else:
        assert report.weights.name == "not evidenced" and report.parents[0].licence.expression == "Apache-2.0"


def test_a_use_policy_beside_an_open_licence(report_of):
    lawful = "We hope that our models are used well. By using them you agree to comply with all applicable law.\n"
    assert report_of("gpt-like", LICENSE=APACHE, USAGE_POLICY=lawful).is_open
    strict = "Acceptable Use Policy\n\nYou may not use the model:\n- for military purposes;\n- to make weapons.\n"
    report = report_of("other", LICENSE=APACHE, **{"USE_POLICY.md": strict})
    assert not report.is_open and "a use policy beside it" in report.weights.because
    assert {clause.file for clause in report.clauses if clause.kind == "field_of_use"} == {"USE_POLICY.md"}


def test_the_regions_of_llama_4_stand_in_its_policy(report_of):
    files = {"LICENSE": shared("llama-4-community-license.txt"), "USE_POLICY.md": shared("llama-4-use-policy.md")}
    report = report_of(
        "Llama-4-Scout",
        README_md=card(license="other", license_name="llama4"),
        config_json=config("llama4", vision_config={}),
        **files,
    )
    (region,) = [clause for clause in report.clauses if clause.kind == "territory"]
    assert region.values["regions"] == ["EU"] and region.file == "USE_POLICY.md"
    assert report.is_multimodal is True and report.conflicts == ()


def test_section_and_dict(report_of):
    report = report_of("my-model", README_md=card(license="mit"), LICENSE=shared(LLAMA_3_1))
    section = report.section()
    assert section.notes[0] == "This is information read out of the files by a program, not legal advice."
    assert sum("legal advice" in note for note in section.notes) == 1
    labels = [row.label for row in section.rows]
    assert labels[:4] == ["Weights", "Code", "Data", "Contradiction"]
    notice = next(row for row in section.rows if row.label == "Notice file")
    assert notice.value.endswith("All Rights Reserved”. There is none here.") and notice.status is Status.PARTIAL
    assert notice.evidence[0].file == "LICENSE" and notice.evidence[0].place == "line 28"
    value = json.loads(json.dumps(report.to_dict()))
    assert value["is_open"] is False and value["weights"]["scope"] == "weights" and value["conflicts"]
    assert {"kind", "plain", "quote", "values", "file", "line"} <= value["clauses"][0].keys()


def test_hostile_folders(tmp_path, report_of):
    bomb = "---\n" + "a: &a [x]\n" * 10_000 + "license: mit\x1b[31m\n"
    report = report_of("bomb", README_md=bomb, LICENSE="\x00" * 1000, **{"config_json": "[" * 100_000})
    assert report.weights.openness is Openness.UNKNOWN
    report = report_of("long", README_md=card("# x\n" + "licensed under the " * 2_000_000, license="mit"))
    assert report.weights.expression == "MIT"
    report = report_of("escape", README_md=card(license="mit\x1b[31m"))  # no YAML: its fields are not read
    assert report.weights.expression == ""
    path = folder(tmp_path, "link")
    outside = tmp_path / "outside.txt"
    outside.write_text(MIT)
    (path / "LICENSE").symlink_to(outside)
    assert examine(Artefacts(path)).weights.openness is Openness.UNKNOWN
