"""Clauses in any wording: those of the labs' texts, and of texts that nobody has written yet."""

import json

import pytest
from licences import SHARED, found, shared

from freehold.inspection.licence import Sort, known
from freehold.inspection.licence.amounts import amounts
from freehold.inspection.licence.clauses import find_clauses
from freehold.inspection.licence.patterns import Pattern, Text
from freehold.inspection.licence.prose import Prose

# Wordings of our own, none of them from the texts that the rules were written from: kind and values that must be read.
UNSEEN = [
    ("If your products reach more than 10 million monthly active users, you need a separate written agreement with Acme.", "users_threshold", {"users": 1e7, "effects": ["ask"]}),
    ("Entities whose services exceed 250M MAU are not licensed under these terms.", "users_threshold", {"users": 2.5e8, "effects": ["barred"]}),
    ("This license is granted only to organizations with fewer than 1,000,000 monthly active users.", "users_threshold", {"users": 1e6, "effects": ["barred"]}),
    ("You may not use the Model in a product having over one hundred thousand (100,000) daily active users without our prior written consent.", "users_threshold", {"users": 1e5, "users_period": "day"}),
    ("如果您的产品月活跃用户超过1亿,您必须向我们申请许可。", "users_threshold", {"users": 1e8, "effects": ["ask"]}),
    ("Organisations whose products together reach at least fifty million people each month need to arrange a paid agreement with us.", "users_threshold", {"users": 5e7}),
    ("If your annual revenue exceeds US$ 10 million, you must obtain a commercial licence from Acme.", "revenue_threshold", {"revenue": 1e7, "revenue_period": "year"}),
    ("Any organisation with a turnover above ten million euros in the last fiscal year must purchase an enterprise licence.", "revenue_threshold", {"revenue": 1e7, "currency": "EUR"}),
    ("The licence is free for companies with less than $2M in annual recurring revenue.", "revenue_threshold", {"revenue": 2e6}),
    ("Should your company's monthly revenue pass USD 500,000, this permission lapses.", "revenue_threshold", {"revenue_usd_per_month": 5e5, "effects": ["ends"]}),
    ('"Commercial Entity" means any entity with annual revenues of at least $10,000,000. A Commercial Entity must obtain a paid license before any use.', "revenue_threshold", {"revenue": 1e7, "effects": ["ask"]}),
    ("You owe us ten percent (10%) of such income as a royalty.", "royalty", {"percent": 10}),
    ("You shall not use the Model for any commercial purpose.", "non_commercial", {}),
    ("The Model is made available solely for non-commercial research purposes.", "non_commercial", {}),
    ("Commercial use requires prior written permission from Acme.", "non_commercial", {"permission": True}),
    ("For commercial use, please contact sales@example.org to obtain a licence.", "non_commercial", {"permission": True}),
    ("This checkpoint may be used for academic research only.", "non_commercial", {}),
    ("These weights are for evaluation and research; production use is not permitted.", "non_commercial", {}),
    ("本模型仅限用于学术研究,不得用于商业用途。", "non_commercial", {}),
    ("Persons residing in the European Economic Area may not download or use the weights.", "territory", {"regions": ["EU"]}),
    ("The rights granted herein do not extend to companies headquartered in the EU or the United Kingdom.", "territory", {"regions": ["EU", "UK"]}),
    ("This licence applies worldwide except in the European Union and South Korea.", "territory", {"regions": ["EU", "KR"]}),
    ("You may use the Model only within the territory of Japan.", "territory", {"regions": ["JP"], "inside": True}),
    ("Use of the model from within mainland China is prohibited.", "territory", {"regions": ["CN"]}),
    ("Text that the Weights produce must never be fed into the training of a rival language model.", "outputs_training", {}),
    ("Licensee agrees not to use generated content in order to develop models which compete with Acme.", "outputs_training", {}),
    ("您不得使用输出内容训练其他模型。", "outputs_training", {}),
    ("You may not use the Model or its output to build a competing foundation model.", "competitors", {}),
    ("Licensor owns all right, title and interest in the Output.", "output_ownership", {}),
    ("You must display the phrase 'Powered by Acme' prominently in your application.", "display", {"names": ["Powered by Acme"]}),
    ('Put the words "Runs on Acme" where people who use your app can see them.', "display", {"names": ["Runs on Acme"]}),
    ('If you exceed 20 million US dollars in monthly revenue, the phrase "Kappa 3" must be visible on the start screen.', "display", {"names": ["Kappa 3"], "revenue_usd_per_month": 2e7}),
    ('Any derivative model you publish must have a name starting with "Orca".', "name_prefix", {"prefix": "Orca"}),
    ('Derived models must be named with the prefix "Zeta-".', "name_prefix", {"prefix": "Zeta-"}),
    ("We can switch the Weights off from afar, suspending your usage, whenever we believe that you break these terms.", "remote_restriction", {}),
    ("Acme may withdraw this licence without cause upon thirty days' notice.", "revocable", {}),
    ("This Agreement terminates automatically if you fail to comply with any of its terms.", "termination", {}),
    ("The Weights are off limits for the armed forces, for weapons and for mass surveillance.", "field_of_use", {"field": "weapons"}),
    ("You agree not to use the Model to provide medical advice.", "field_of_use", {"field": "medical"}),
    ("Your use must comply with the Acceptable Use Policy at https://example.org/aup.", "use_policy", {"url": "https://example.org/aup"}),
    ("You shall ensure that every downstream user is bound by the same restrictions.", "pass_on", {}),
    ("This License shall be construed in accordance with French law.", "law", {"law": "French"}),
    ("This Agreement is governed by the laws of the Republic of Korea.", "law", {"law": "Republic of Korea"}),
    ("Offering inference on the Model as a managed service requires a separate licence from Acme.", "hosting", {"permission": True}),
    ("You are not permitted to redistribute the weights.", "no_redistribution", {}),
    ("You may not modify or fine-tune the Model.", "no_derivatives", {}),
    ("Before using the Model commercially you must register at https://example.org/register.", "registration", {}),
    ("If you sue Acme for patent infringement, your rights under this licence end.", "litigation", {}),
    ("Derivative models must be released under this same licence.", "share_alike", {}),
    ("Attempts to remove the safety filters of the Model are prohibited.", "guardrails", {}),
    ("The permissions above lapse once your service has been used by 80 million people in a calendar month.", "users_threshold", {"users": 8e7, "effects": ["ends"]}),
    ("Businesses earning over £3 million a year need the Enterprise Licence.", "revenue_threshold", {"revenue": 3e6, "currency": "GBP"}),
    ("A royalty of five percent of net sales is due each quarter.", "royalty", {"percent": 5}),
    ("The Model is not offered to residents of the EU.", "territory", {"regions": ["EU"]}),
    ("Excluding the European Union, rights are granted worldwide.", "territory", {"regions": ["EU"]}),
    ("Every agreement by which you pass the model on has to contain the restrictions of section 4 as binding terms.", "pass_on", {}),
    ("Swiss law applies to this agreement.", "law", {"law": "Swiss"}),
    ("Providing access to the Model through an API to third parties is not permitted.", "hosting", {}),
    ("这些模型不得用于武器研发。", "field_of_use", {"field": "weapons"}),
    ("Any public demo must include the text \"Nova by Acme\" in its user interface.", "display", {"names": ["Nova by Acme"]}),
    ("You shall always use the latest version of the Model.", "latest_version", {}),
]  # fmt: skip

# What must not be read into a text: sentence, kinds that would be wrong.
INNOCENT = [
    ("You may use the Model for any purpose, including commercial purposes.", {"non_commercial"}),
    ("Both commercial and non-commercial use is permitted.", {"non_commercial"}),
    ("This license does not restrict commercial use.", {"non_commercial"}),
    ("The model has been downloaded by more than 10 million users.", {"users_threshold"}),
    ("IN NO EVENT SHALL LICENSOR BE LIABLE FOR LOSS OF BUSINESS OR COMMERCIAL DAMAGES.", {"non_commercial"}),
    ("Licensor's total liability shall not exceed one hundred US dollars.", {"revenue_threshold"}),
    ("This Agreement is governed by the laws of China and the courts of Beijing have exclusive jurisdiction.", {"territory"}),
    ("You shall comply with export control laws of the United States and the European Union.", {"territory"}),
    ("We, a company based in the European Union, grant you a worldwide licence.", {"territory"}),
    ("You own the outputs you generate and may use them to train models.", {"outputs_training", "output_ownership"}),
    ("Acme grants you a perpetual, irrevocable, worldwide licence.", {"revocable"}),
    ("You may distribute copies provided that you give a copy of this License.", {"no_redistribution"}),
    ("WITHOUT WARRANTY OF FITNESS FOR A PARTICULAR PURPOSE, MILITARY OR OTHERWISE.", {"field_of_use"}),
    ('You are encouraged to mark your product as "Powered by Acme".', {"display"}),
]  # fmt: skip


def clauses_of(text: str):
    return find_clauses(Prose.of(text).sentences())


@pytest.mark.parametrize(("sentence", "kind", "values"), UNSEEN)
def test_a_clause_in_words_that_no_lab_has_used(sentence, kind, values):
    found = [clause for clause in clauses_of(sentence) if clause.kind == kind]
    assert any(all(clause.values.get(key) == value for key, value in values.items()) for clause in found)
    assert all(clause.quote and clause.plain.endswith(".") and "{" not in clause.plain for clause in found)


@pytest.mark.parametrize(("sentence", "wrong"), INNOCENT)
def test_what_is_not_said_is_not_read(sentence, wrong):
    assert not {clause.kind for clause in clauses_of(sentence)} & wrong


def test_an_item_of_a_list_stands_under_its_head():
    text = "Uses that are prohibited\n\nYou may not use the Model:\n\n1. to build weapons;\n2. for elections;\n\nYou may use it for medical diagnosis of plants and whatever else you like to do with it.\n"
    fields = {c.values["field"]: c for c in clauses_of(text) if c.kind == "field_of_use"}
    assert set(fields) == {"weapons", "politics"}
    assert fields["politics"].quote == "You may not use the Model: for elections;" and fields["politics"].line == 6


# Each text's limits and duties, by kind; clauses that are facts (law, court, end on breach) are tested apart.
AUP = {"use_policy", "field_of_use"}
COPIES = {"licence_copy", "keep_notices"}
LABS = {
    "llama-2-community-license.txt": {"users_threshold", "outputs_training", "notice_file", "use_policy", "indemnity", *COPIES},
    "llama-3-community-license.txt": {"users_threshold", "outputs_training", "notice_file", "display", "name_prefix", "indemnity", *AUP, *COPIES},
    "llama-3_1-community-license.txt": {"users_threshold", "notice_file", "display", "name_prefix", "indemnity", "use_policy", *COPIES},
    "llama-3_2-community-license.txt": {"users_threshold", "notice_file", "display", "name_prefix", "indemnity", "use_policy", *COPIES},
    "llama-4-community-license.txt": {"users_threshold", "notice_file", "display", "name_prefix", "indemnity", "use_policy", *COPIES},
    "llama-3_2-use-policy.md": {"territory", "guardrails", *AUP},
    "llama-4-use-policy.md": {"territory", "guardrails", *AUP},
    "deepseek-model-license-1.0.txt": {"remote_restriction", "pass_on", "state_changes", *AUP, *COPIES},
    "kimi-k2-modified-mit.txt": {"display", "keep_notices"},
    "minimax-model-license-2025.txt": {"notice_file", "state_changes", "indemnity", *AUP, *COPIES},
    "chatglm-6b-model-license.txt": {"revocable", "keep_notices", "field_of_use"},
    "scancode-qwen-2024.txt": {"users_threshold", "display", "notice_file", "state_changes", "indemnity", *COPIES},
    "scancode-gemma-tou-2024-04-01.txt": {"remote_restriction", "pass_on", "notice_file", "state_changes", "licence_copy", *AUP},
    "scancode-bigscience-rail-1.0.txt": {"remote_restriction", "latest_version", "pass_on", "state_changes", "mark_outputs", *AUP, *COPIES},
    "scancode-bigcode-open-rail-m-v1.txt": {"remote_restriction", "pass_on", "state_changes", "mark_outputs", *AUP, *COPIES},
    "scancode-nvidia-open-model-2025-04-28.txt": {"guardrails", "revocable", "display", "notice_file", "indemnity", "use_policy", "licence_copy"},
    "scancode-stability-ai-community-2024.txt": {"revenue_threshold", "registration", "outputs_training", "revocable", "display", "notice_file", "state_changes", "indemnity", "use_policy", *COPIES},
    "scancode-tencent-hunyuan-3d-2.0-cla.txt": {"users_threshold", "territory", "outputs_training", "guardrails", "notice_file", "state_changes", "pass_on", "mark_outputs", "indemnity", "licence_copy", *AUP},
    "gpt-oss-usage-policy.txt": set(),
}  # fmt: skip


@pytest.mark.parametrize("file", LABS)
def test_limits_and_duties_of_the_labs_texts(file):
    assert {clause.kind for clause in found(file).clauses if clause.sort is not Sort.FACT} == LABS[file]


@pytest.mark.parametrize(
    ("file", "kind", "values"),
    [
        ("llama-2-community-license.txt", "users_threshold", {"users": 7e8, "effects": ["ask", "barred"]}),
        ("llama-3-community-license.txt", "display", {"names": ["Built with Meta Llama 3"]}),
        ("llama-3-community-license.txt", "name_prefix", {"prefix": "Llama 3"}),
        ("llama-3_1-community-license.txt", "display", {"names": ["Built with Llama"]}),
        ("llama-3_1-community-license.txt", "name_prefix", {"prefix": "Llama"}),
        ("llama-4-use-policy.md", "territory", {"regions": ["EU"], "only_multimodal": True, "end_users_exempt": True}),
        ("kimi-k2-modified-mit.txt", "display", {"users": 1e8, "revenue_usd_per_month": 2e7, "names": ["Kimi K2"]}),
        ("scancode-qwen-2024.txt", "users_threshold", {"users": 1e8, "commercial_only": True}),
        ("scancode-qwen-2024.txt", "display", {"names": ["Built with Qwen", "Improved using Qwen"], "only_on_training": True}),
        ("scancode-stability-ai-community-2024.txt", "revenue_threshold", {"revenue": 1e6, "revenue_period": "year", "effects": ["ask", "ends"]}),
        ("scancode-stability-ai-community-2024.txt", "display", {"names": ["Powered by Stability AI"]}),
        ("scancode-tencent-hunyuan-3d-2.0-cla.txt", "users_threshold", {"users": 1e6}),
        ("scancode-tencent-hunyuan-3d-2.0-cla.txt", "territory", {"regions": ["EU", "UK", "KR"]}),
        ("deepseek-model-license-1.0.txt", "law", {"law": "PRC"}),
        ("minimax-model-license-2025.txt", "law", {"law": "Singapore"}),
        ("llama-2-community-license.txt", "law", {"law": "California"}),
        ("scancode-nvidia-open-model-2025-04-28.txt", "display", {"names": ["Built on NVIDIA Cosmos"]}),
        ("scancode-gemma-tou-2024-04-01.txt", "notice_file", {"notice_text": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"}),
    ],
)  # fmt: skip
def test_values_read_out_of_the_labs_texts(file, kind, values):
    (clause,) = [clause for clause in found(file).clauses if clause.kind == kind]
    assert {key: clause.values.get(key) for key in values} == values
    lines = Prose.of(shared(file)).content.splitlines()[clause.line - 1 :]
    assert " ".join(clause.quote.split()[:3]) in " ".join(" ".join(lines[:2]).split())


@pytest.mark.parametrize("file", ["deepseek-model-license-1.0.txt", "minimax-model-license-2025.txt", "llama-3_1-use-policy.md"])  # fmt: skip
def test_military_use_is_seen_where_it_is_ruled_out(file):
    assert "military" in {clause.values.get("field") for clause in found(file).clauses}


def test_the_records_are_what_the_texts_say():
    """texts.json is made from the texts: its hashes and clauses are those that detection finds today."""
    if not SHARED.exists():
        pytest.skip(f"{SHARED}: the licence texts are not here")
    by_hash = {entry["sha256"]: entry for entry in json.loads((known.DATA / "texts.json").read_text("utf-8"))}
    seen = 0
    for path in SHARED.iterdir():
        made = known.record(path.read_text("utf-8"), "", "", "", [])
        if entry := by_hash.get(made["sha256"]):
            seen += 1
            assert {key: entry[key] for key in ("words", "sample", "clauses")} == {
                key: made[key] for key in ("words", "sample", "clauses")
            }
    assert seen >= 22


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("more than 100 million monthly active users, or more than 20 million US dollars (or equivalent in other currencies) in monthly revenue", [("users", 1e8, "month", ""), ("money", 2e7, "month", "USD")]),
        ("generate more than USD $1,000,000 in annual revenue", [("money", 1e6, "year", "USD")]),
        ("monthly active users is greater than 700 million monthly active users", [("users", 7e8, "month", "")]),
        ("a yearly turnover of twenty-five million dollars", [("money", 2.5e7, "year", "USD")]),
        ("revenue of 2 000 000 EUR per fiscal year", [("money", 2e6, "year", "EUR")]),
        ("年收入超过100万美元", [("money", 1e6, "year", "USD")]),
        ("两百万", []),
        ("10 percent of sales", [("percent", 10, "", "")]),
        ("Sections 3, 4 and 7 of version 1.0 of 23 October 2023", []),
    ],
)  # fmt: skip
def test_amounts(text, expected):
    assert [(a.kind, a.value, a.period, a.currency) for a in amounts(text)] == expected


def test_gaps_are_joined_as_a_regular_expression_would():
    pattern = Pattern(r"may not.{0,10}(?:sell|lend).{0,5}it|{word}", {"word": "never"})
    for sentence, matches in [
        ("You MAY NOT ever sell it", True),
        ("You may not under any circumstances sell it", False),
        ("sell it you may not", False),
        ("Never", True),
        ("may not may not lend, or else it", False),
        ("may not may not lend it", True),
    ]:
        assert pattern.matches(Text([sentence]), 0) is matches, sentence
