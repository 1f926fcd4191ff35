"""Cards from nobody knows whom: caps, aliases, odd front matters, lines that are cited."""

import time

import pytest

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import parse_card, read_card
from freehold.inspection.report import inspect


def test_front_matter_and_lines():
    card = parse_card(
        "README.md",
        "---\nlicense: mit\ndatasets: [a/b, c/d]\n---\n\n# Title\n\nOne sentence\nover two lines. Another.\n",
    )
    assert card.declared("license") == ("mit",)
    assert card.declared("datasets") == ("a/b", "c/d")
    assert card.declared("base_model") == ()
    assert [(f.evidence.place, f.evidence.quote) for f in card.fields("datasets")] == [
        ("datasets, line 3", "a/b"),
        ("datasets, line 3", "c/d"),
    ]
    assert card.field_evidence("license").place == "license, line 2"
    listed = parse_card("README.md", "---\ntags:\n- one\n- {a: 1}\n- two\n---\n")
    assert [(f.value, f.evidence.place) for f in listed.fields("tags")] == [
        ("one", "tags, line 3"),
        ("two", "tags, line 5"),
    ]
    assert [(s.text, s.line, s.heading) for s in card.sentences] == [
        ("# Title", 6, "Title"),
        ("One sentence over two lines.", 8, "Title"),
        ("Another.", 9, "Title"),
    ]
    assert parse_card("README.md", "no front matter\n---\nlicense: mit\n").front_matter == {}


@pytest.mark.parametrize(
    ("front", "problem"),
    [
        ("a: &x [1, 2]\nlicense: *x", "expected no YAML alias, got *x"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "expected no YAML alias"),
        ("license: [", "front matter: "),
        ("license: mit\nlicense: other", "line 3: expected each key once, got license again"),
        ("- license", "front matter: expected a mapping, got list"),
        ("a: " + "[" * 60 + "]" * 60, "expected at most 50 levels of nesting"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("x: " + "y" * (1 << 19), "front matter: expected at most"),
    ],
)
def test_a_front_matter_that_is_refused_is_said_to_be(tmp_path, front, problem):
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\nText.\n")
    card = read_card(Artefacts(tmp_path))
    assert problem in card.problem
    assert card.front_matter == {}
    assert any(problem in note for note in inspect(tmp_path).sections[0].notes)


def test_a_hundred_megabytes_of_readme(tmp_path):
    with (tmp_path / "README.md").open("wb") as stream:
        stream.write(b"---\nlicense: mit\n---\nThe training code is at https://example.org.\n")
        stream.truncate(100 << 20)
        stream.seek(100 << 20)
        stream.write(b"The weights are released. " * 1000)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    before = time.process_time()
    report = inspect(tmp_path)
    assert time.process_time() - before < 20  # a cap that does not hold takes minutes
    assert report.to_dict()["openness"]["topics"]["training_code"]["standing"] == "present"
    assert "README.md is longer than what was read of it." in report.sections[0].notes


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("---\nlicense: mit\n---\nThe training code is at https://example.org.\n")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").symlink_to(tmp_path / "secret")
    report = inspect(folder)
    assert report.to_dict()["openness"]["topics"] == {}
    assert report.verdict == "closed"
