"""What a licence text is: standard, standard with something added, a lab's own, unknown; whatever its form."""

import random
import re
import textwrap

import pytest
from licences import APACHE, BSD, MIT, OPENMDW, found, shared

from freehold.inspection.licence import Finding, Openness, Sort, detect

STANDARD = {"MIT": MIT, "Apache-2.0": APACHE, "BSD-3-Clause": BSD, "OpenMDW-1.0": OPENMDW}

FURTHER_TERMS = [
    "Commercial use requires a separate written agreement.",
    "You may not use it in the army.",
    "If you have more than ten million users, ask us first.",
    "You shall display our logo.",
    "All of this holds on Tuesdays, as our cat has decided.",
    "<p>Research only</p>",
    "<!-- not for companies -->",
    "Provided, however, that no copies leave the country.",
]


def kinds(finding: Finding) -> set[str]:
    return {clause.kind for clause in finding.clauses}


@pytest.mark.parametrize("name", STANDARD)
def test_standard_texts_are_open_however_they_are_set(name):
    text = STANDARD[name]
    for form in (text, text.upper(), textwrap.fill(text, 40), " ".join(text.split()), text.replace("\n", "\r\n")):
        finding = detect(form)
        assert (finding.expression, finding.openness) == (name, Openness.OPEN)
        assert finding.clauses and finding.residual == ()


def test_the_holder_does_not_matter_and_the_quote_has_its_line():
    finding = detect(MIT.replace("Somebody", "Hangzhou Someone & Sons, Ltd. <mail@example.org>"))
    assert finding.expression == "MIT"
    (clause,) = finding.clauses
    assert clause.kind == "keep_notices" and clause.quote.startswith("The above copyright notice")
    assert MIT.splitlines()[clause.line - 1].startswith("The above copyright notice")


@pytest.mark.parametrize("term", FURTHER_TERMS)
@pytest.mark.parametrize("name", ["MIT", "BSD-3-Clause"])
def test_whatever_is_added_to_a_standard_text_is_never_that_licence(name, term):
    text = STANDARD[name]
    middle = text.index("\n\n", len(text) // 3)
    for changed in (f"{text}\n\n{term}\n", f"{term}\n\n{text}", f"{text[:middle]}\n\n{term}{text[middle:]}"):
        finding = detect(changed)
        assert finding.openness is Openness.NOT_OPEN and finding.expression == ""
        assert finding.base == name
        words = re.sub(r"<[^a-zA-Z]*p?>|</p>|<!-- | -->", "", term)
        assert any(words.split()[-1].rstrip(".") in quote for quote in finding.residual)
        assert any(clause.sort is not Sort.FACT for clause in finding.clauses if clause.kind != "keep_notices")


@pytest.mark.parametrize("name", ["MIT", "Apache-2.0", "BSD-3-Clause"])
def test_words_put_anywhere_into_a_standard_text(name):
    """A template has room for names: nothing that restricts may hide there."""
    text, chance = STANDARD[name], random.Random(7)
    places = [match.start() for match in re.finditer(r"\b\w", text)]
    added = ["except for commercial use", "for research only", "(but not in the EU)", "unless you are a company"]
    for place in chance.sample(places, 8):
        assert not detect(f"{text[:place]}{chance.choice(added)} {text[place:]}").is_open


@pytest.mark.parametrize("name", ["MIT", "Apache-2.0", "OpenMDW-1.0"])
def test_a_text_that_is_cut_short_or_changed(name):
    text = STANDARD[name]
    finding = detect(text[: len(text) // 2])
    assert finding.openness is not Openness.OPEN and finding.expression == ""
    assert not detect(text.replace("without", "with")).is_open


def test_two_standard_texts_in_one_file():
    finding = detect(f"{MIT}\n\n{BSD}")
    assert finding.expression == "MIT AND BSD-3-Clause" and finding.is_open


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("Apache-2.0", "Apache-2.0"),
        ("MIT", "MIT"),
        ("This model is licensed under the Apache License, Version 2.0.", "Apache-2.0"),
        ("Released under the MIT License (https://opensource.org/licenses/MIT).", "MIT"),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
    ],
)
def test_a_file_that_only_names_a_licence(text, expression):
    finding = detect(text)
    assert finding.expression == expression and not finding.has_text
    assert finding.is_open == (expression != "CC-BY-NC-4.0")


def test_a_name_with_a_condition_is_not_that_licence():
    assert not detect("Licensed under the MIT License, for research only.").is_open
    assert not detect("MIT, but not for companies").is_open


@pytest.mark.parametrize("text", ["", "   \n", "See the website.", "\x00\x1b[31m", "Lorem ipsum dolor sit amet."])
def test_what_is_no_licence_is_unknown(text):
    finding = detect(text)
    assert finding.openness is Openness.UNKNOWN and finding.clauses == ()


KNOWN = {
    "llama-2-community-license.txt": "Llama 2 Community License",
    "llama-3_1-community-license.txt": "Llama 3.1 Community License",
    "llama-4-community-license.txt": "Llama 4 Community License",
    "deepseek-model-license-1.0.txt": "DeepSeek License Agreement 1.0",
    "kimi-k2-modified-mit.txt": "Kimi K2 Modified MIT License",
    "minimax-model-license-2025.txt": "MiniMax Model License (2025)",
    "chatglm-6b-model-license.txt": "ChatGLM-6B License",
    "scancode-qwen-2024.txt": "Qwen License Agreement (2024-09-19)",
    "scancode-gemma-tou-2024-04-01.txt": "Gemma Terms of Use (2024-04-01)",
}


@pytest.mark.parametrize("file", KNOWN)
def test_a_labs_own_text_is_known_by_its_words(file):
    text = shared(file)
    assert found(file).name == KNOWN[file]
    finding = detect(textwrap.fill(text.split("---\n")[-1].upper(), 50))
    assert finding.name == KNOWN[file] and finding.openness is Openness.NOT_OPEN
    altered = detect(text.replace("You", "Thou", 3) + "\nFees of 3 % of revenue are payable as a royalty.\n")
    assert altered.openness is Openness.NOT_OPEN and "royalty" in kinds(altered)
    if "kimi" not in file:
        assert altered.nearest == KNOWN[file] and 0.5 < altered.likeness < 1


def test_a_scancode_record_above_a_text_is_no_part_of_it():
    plain, recorded = found("deepseek-model-license-1.0.txt"), detect(shared("scancode-deepseek-la-1.0.txt"))
    assert plain.name == recorded.name and kinds(plain) == kinds(recorded)


@pytest.mark.parametrize(
    "text",
    [
        "not " * 30_000,
        '"' * 100_000,
        'must display "' * 20_000,
        "1. must not:\n" * 20_000,
        "one hundred and " * 20_000,
        "x" * 100_000_000,
        "\n" * 1_000_000,
        "9," * 100_000,
        MIT * 100,
    ],
    ids=lambda text: f"{text[:12]!r}*{len(text)}",
)
def test_hostile_texts_end_and_are_not_open(text):
    assert not detect(text).is_open


def test_a_licence_that_goes_on_beyond_what_is_read_is_not_open():
    assert detect(MIT).is_open
    finding = detect(MIT + "\n" * 200_000 + "Not for you.")
    assert not finding.is_open and "only its beginning was read" in finding.because


def test_control_characters_do_not_reach_the_report():
    finding = detect(f"{MIT}\n\nYou \x1b[31mmust\x1b[0m pay\u202e us a royalty of 3 % of revenue.\u200b\n")
    assert "royalty" in kinds(finding)
    assert not re.search(
        r"[\x00-\x08\x1b\u200b\u202e]", finding.residual[0] + "".join(c.quote for c in finding.clauses)
    )
