"""Whether a use is allowed: each lab's flagship, each kind of clause, and what is said in words."""

import json

import pytest
from licences import APACHE, MIT, folder, shared

from freehold.errors import RequestError
from freehold.inspection.artefacts import Artefacts
from freehold.inspection.licence import LicenceReport, Use, Verdict, answer, examine, parse_use

STARTUP = "commercial service, 2M monthly users, EU"
GIANT = "commercial service, 800M monthly users, $50M monthly revenue, US"

# Flagships by what their repositories hold; verdicts for the start-up and for the giant.
FLAGSHIPS = {
    "DeepSeek-R1": ({"license": "mit"}, {"LICENSE": "MIT"}, "allowed", "allowed"),
    "DeepSeek-V3": ({}, {"LICENSE-CODE": "MIT", "LICENSE-MODEL": "deepseek-model-license-1.0.txt"}, "allowed if", "allowed if"),
    "GLM-4.6": ({"license": "mit"}, {}, "allowed", "allowed"),
    "Qwen3-235B-A22B": ({"license": "apache-2.0"}, {"LICENSE": "APACHE"}, "allowed", "allowed"),
    "Qwen2.5-72B-Instruct": ({"license": "other", "license_name": "qwen"}, {"LICENSE": "scancode-qwen-2024.txt"}, "allowed", "not allowed"),
    "QwQ-32B": ({"license": "apache-2.0"}, {}, "allowed", "allowed"),
    "ERNIE-4.5-21B-A3B": ({"license": "apache-2.0"}, {}, "allowed", "allowed"),
    "gpt-oss-120b": ({"license": "apache-2.0"}, {"LICENSE": "APACHE", "USAGE_POLICY": "gpt-oss-usage-policy.txt"}, "allowed", "allowed"),
    "Kimi-K2-Instruct": ({"license": "other", "license_name": "modified-mit"}, {"LICENSE": "kimi-k2-modified-mit.txt"}, "allowed if", "allowed if"),
    "MiniMax-Text-01": ({"license": "other"}, {"LICENSE-MODEL": "minimax-model-license-2025.txt"}, "allowed if", "allowed if"),
    "Llama-3.1-8B-Instruct": ({"license": "llama3.1"}, {"LICENSE": "llama-3_1-community-license.txt"}, "allowed if", "not allowed"),
    "Llama-4-Scout-17B-16E": ({"license": "other", "license_name": "llama4"}, {"LICENSE": "llama-4-community-license.txt", "USE_POLICY.md": "llama-4-use-policy.md"}, "not allowed", "not allowed"),
    "gemma-2-9b-it": ({"license": "gemma"}, {}, "allowed if", "allowed if"),
    "aya-like": ({"license": "cc-by-nc-4.0"}, {}, "not allowed", "not allowed"),
    "nameless": ({}, {}, "not allowed", "not allowed"),
}  # fmt: skip


def text_of(name: str) -> str:
    return {"MIT": MIT, "APACHE": APACHE}.get(name) or shared(name)


@pytest.fixture
def report_of(tmp_path):
    def make(name: str = "thing", text: str = "", **fields: str) -> LicenceReport:
        files = {"README_md": "---\n" + "".join(f"{key}: {value}\n" for key, value in fields.items()) + "---\n"}
        return examine(Artefacts(folder(tmp_path, name, **files, **({"LICENSE": text} if text else {}))))

    return make


@pytest.mark.parametrize("name", FLAGSHIPS)
def test_flagships(tmp_path, name):
    fields, texts, small, large = FLAGSHIPS[name]
    front = "---\n" + "".join(f"{key}: {value}\n" for key, value in fields.items()) + "---\n"
    report = examine(
        Artefacts(folder(tmp_path, name, README_md=front, **{key: text_of(text) for key, text in texts.items()}))
    )
    assert report.conflicts == ()
    for use, verdict in ((STARTUP, small), (GIANT, large)):
        reply = answer(report, use)
        assert reply.verdict == verdict, reply.summary
        assert bool(reply.refusals) == (verdict == "not allowed")
        assert all(reason.clause.quote for reason in reply.refusals + reply.conditions if reason.clause)
        assert reply.summary.lower().startswith(verdict)
        json.dumps(reply.to_dict())


def test_above_llamas_limit_the_clause_is_quoted(report_of):
    report = report_of("Llama-3.1-8B", shared("llama-3_1-community-license.txt"), license="llama3.1")
    reply = answer(report, Use(commercial=True, monthly_users=700_000_001))
    assert "greater than 700 million monthly active users" in reply.refusals[0].clause.quote
    assert reply.refusals[0].plain.startswith(
        "You have 700 million, which is over the limit. Above 700 million monthly active users"
    )
    assert answer(report, Use(commercial=True, monthly_users=700_000_000)).verdict is Verdict.ALLOWED_IF
    unsaid = answer(report, Use(commercial=True))
    assert any(reason.plain.startswith("You stay below the limit.") for reason in unsaid.conditions)


def test_kimis_name_is_shown_above_either_limit(report_of):
    report = report_of("Kimi-K2", shared("kimi-k2-modified-mit.txt"))
    for use, verdict in [
        (Use(commercial=True, monthly_users=101e6), "allowed if"),
        (Use(commercial=True, monthly_users=1e6, monthly_revenue_usd=21e6), "allowed if"),
        (Use(commercial=True, monthly_users=1e6, monthly_revenue_usd=1e6), "allowed"),
        (Use(commercial=False), "allowed"),
    ]:
        assert answer(report, use).verdict == verdict, use


@pytest.mark.parametrize(
    ("clause", "use", "verdict", "word"),
    [
        ("You may not use it for commercial purposes.", "commercial", "not allowed", "Commercial use"),
        ("You may not use it for commercial purposes.", "research", "allowed", ""),
        ("You may not use it for commercial purposes.", "EU", "allowed if", "not commercial"),
        ("Companies with more than $1M in annual revenue must obtain a licence from us.", "commercial, $100,000 monthly revenue", "not allowed", "over the limit"),
        ("Companies with more than $1M in annual revenue must obtain a licence from us.", "commercial, $800,000 annual revenue", "allowed", ""),
        ("Companies with more than €1M in annual revenue must obtain a licence from us.", "commercial", "allowed if", "below the limit"),
        ("This license does not apply in the European Union.", "Germany", "not allowed", "European Union"),
        ("This license does not apply in the European Union.", "Japan", "allowed", ""),
        ("This license does not apply in the European Union.", "commercial", "allowed if", "regions"),
        ("You may use it only in Japan.", "Japan", "allowed", ""),
        ("You may use it only in Japan.", "US", "not allowed", "United States"),
        ("You must not use outputs to train other models.", "train models on outputs", "not allowed", "outputs"),
        ("You must not use outputs to train other models.", "no training of models on outputs", "allowed", ""),
        ("You may not use it for military purposes.", "military", "not allowed", "military"),
        ("You may not use it for military purposes.", "commercial", "allowed", ""),
        ("You may not offer it as a hosted service.", "hosted API", "not allowed", "hosted service"),
        ("You may not offer it as a hosted service.", "in-house", "allowed if", "as a service"),
        ("You may not distribute it.", "we ship it on-device", "not allowed", "passed on"),
        ("You may not modify the Software.", "fine-tuned", "not allowed", "changed"),
        ("You shall prominently display “Zeta” on your website.", "service", "allowed if", "Zeta"),
        ("Commercial users must register at https://example.org first to use it.", "commercial", "allowed if", "register"),
        ("All of this holds on Tuesdays, as our cat has decided.", "research", "allowed if", "not recognised"),
    ],
)  # fmt: skip
def test_what_a_clause_does_to_a_use(report_of, clause, use, verdict, word):
    reply = answer(report_of(text=f"{MIT}\n\n{clause}\n"), use)
    assert reply.verdict == verdict, reply
    assert word in " ".join(reason.plain for reason in reply.refusals or reply.conditions)


def test_share_alike_and_notices_bind_who_passes_copies_on(report_of):
    report = report_of(license="gpl-3.0")
    assert answer(report, "in-house, commercial").verdict == "allowed"
    reply = answer(report, "commercial, redistribute, fine-tuned")
    assert reply.verdict == "allowed if"
    assert {reason.clause.kind for reason in reply.conditions} == {"share_alike", "source", "keep_notices"}
    network = answer(report_of("served", license="agpl-3.0"), "service, fine-tuned")
    assert any("network" in reason.plain for reason in network.conditions)


def test_a_regional_limit_of_multimodal_models_spares_a_text_model(tmp_path):
    files = {"LICENSE": shared("llama-3_2-community-license.txt"), "USE_POLICY.md": shared("llama-3_2-use-policy.md")}
    text_only = examine(Artefacts(folder(tmp_path, "Llama-3.2-1B", config_json='{"model_type": "llama"}', **files)))
    assert answer(text_only, "commercial, EU, 1M monthly users").verdict == "allowed if"
    vision = examine(
        Artefacts(folder(tmp_path, "Llama-3.2-11B-Vision", config_json='{"model_type": "mllama"}', **files))
    )
    reply = answer(vision, "commercial, EU, 1M monthly users")
    assert reply.verdict == "not allowed" and "Users of a product that holds it are exempt" in reply.refusals[0].plain


def test_a_lineage_decides_and_the_contradiction_is_told(report_of):
    reply = answer(report_of("cats", license="mit", base_model="meta-llama/Llama-3.1-8B"), GIANT)
    assert reply.verdict == "not allowed" and reply.refusals[0].clause.from_parent == "meta-llama/Llama-3.1-8B"
    assert "(MIT and Llama 3.1 Community License)" in reply.summary and "contradict" in reply.summary
    unknown = answer(report_of("dogs", license="mit", base_model="somebody/mystery"), "commercial")
    assert (
        unknown.verdict == "allowed if"
        and "somebody/mystery, whose terms are not known here" in unknown.conditions[0].plain
    )


@pytest.mark.parametrize(
    ("text", "use"),
    [
        (STARTUP, Use(commercial=True, serves=True, monthly_users=2e6, regions=("EU",))),
        ("non-commercial research", Use(commercial=False)),
        ("a start-up, 1,500,000 monthly active users, $12M revenue a year", Use(commercial=True, monthly_users=1.5e6, monthly_revenue_usd=1e6)),
        ("in-house, no training of models on outputs, UK and Germany", Use(redistributes=False, trains_models_on_outputs=False, regions=("UK", "EU"))),
        ("we fine-tune it and publish the adapter; military", Use(modifies=True, redistributes=True, fields=("military",))),
        ("distil it, US", Use(trains_models_on_outputs=True, regions=("US",))),
    ],
)  # fmt: skip
def test_a_use_in_words(text, use):
    assert parse_use(text) == use


def test_words_that_are_not_understood_are_refused():
    with pytest.raises(RequestError) as error:
        parse_use("commercial, purple elephants")
    assert error.value.message == "use: expected words about a use, got 'purple elephants'"
    assert "2M monthly users" in error.value.hint
    with pytest.raises(RequestError, match="use: expected words about a use, got ''"):
        parse_use(" , ")
