"""Vocabularies: one text for each id, and what plain text can turn into."""

import json

import gguf
import pytest

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.trust import examine
from freehold.inspection.trust.finding import Severity, Topic

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"


def texts(folder, severity=None):
    found = examine(Artefacts(folder), hash_files=False).findings
    return [f"{f.text} [{f.quote}]" for f in found if f.topic is Topic.TOKENIZER and severity in (None, f.severity)]


def added(content, token, special=True):
    return {"id": token, "content": content, "special": special}


def write(folder, vocab=None, tokens=(), config=None):
    vocab = vocab if vocab is not None else {"a": 0, "b": 1}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": list(tokens)}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE} | (config or {})))


def test_a_sound_one(tmp_path):
    write(
        tmp_path,
        tokens=[added("<|im_start|>", 2), added("<|im_end|>", 3), added("  ", 4, False)],
        config={"eos_token": "<|im_end|>"},
    )
    report = examine(Artefacts(tmp_path), hash_files=False)
    assert report.findings == ()
    assert [row.value for row in report.section().rows if row.label == "Tokenizer"] == ["5 tokens, one text each"]


@pytest.mark.parametrize(
    ("vocab", "tokens", "text"),
    [
        ({"a": 0, "b": 0}, [], "has 1 id with two texts [0: a, b]"),
        ({"a": 0, "b": 1}, [added("b", 2)], "has 1 text with two ids [b]"),
        ({"a": 0, "b": 1}, [added("c", 1)], "has 1 id with two texts [1: b, c]"),
        ({"a": -1, "b": 1}, [], "has 1 id below zero [-1]"),
        ({"a": 0, "b": 1}, [added("bank", 2, False)], "cuts text at 1 added token that are ordinary words [bank]"),
        (
            {"a": 0, "b": 1},
            [added("<|x\u200by|>", 2)],
            "has 1 added token with characters that cannot be seen [<|x\\u200by|>]",
        ),
        (
            {"a": 0, "b": 1},
            [added("<|im_start|>", 2), added("<|im_end|>", 3, False)],
            "has 1 turn mark that plain text can forge: not marked special [<|im_end|>]",
        ),
    ],
)
def test_what_is_wrong(tmp_path, vocab, tokens, text):
    write(tmp_path, vocab, tokens)
    assert text in texts(tmp_path, Severity.CAUTION)


def test_what_is_only_noted(tmp_path):
    write(tmp_path, {"a": 0, "b": 7}, [added("<|sep|>", 8, False), added("<think>", 9, False)])
    assert sorted(texts(tmp_path)) == [
        "has 1 token written like a mark, yet not marked special [<|sep|>]",
        "has no text for 6 ids up to the highest []",
    ]


def test_an_ordinary_token_that_ends_a_reply(tmp_path):
    write(tmp_path, tokens=[added("<|im_start|>", 2)], config={"eos_token": {"content": "b"}})
    assert "has an ordinary token for EOS: plain text can end a reply [b]" in texts(tmp_path, Severity.CAUTION)


def test_two_files_that_disagree(tmp_path):
    decoder = {"2": {"content": "<|im_start|>", "special": False}}
    write(tmp_path, tokens=[added("<|im_start|>", 2)], config={"added_tokens_decoder": decoder})
    (text,) = texts(tmp_path)
    assert text.startswith("and tokenizer.json disagree about 1 added token")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"model": 7}',
        '{"model": {"vocab": 3}, "added_tokens": [1, {"id": "x"}]}',
        '{"model": {"vocab": [["a", 0], 7]}}',
    ],
)
def test_damaged_ones_are_survived(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    examine(Artefacts(tmp_path), hash_files=False)


def write_gguf(path, tokens, types, **ids):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_chat_template(TEMPLATE)
    for name, value in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_a_vocabulary_of_gguf(tmp_path):
    tokens = ["a", "b", "a", "<|im_start|>", "<|im_end|>", "password"]
    write_gguf(tmp_path / "m.gguf", tokens, [1, 1, 1, 3, 4, 4], eos=1, bos=99)
    found = texts(tmp_path, Severity.CAUTION)
    assert found == [
        "has 1 text with two ids [a]",
        "cuts text at 1 added token that are ordinary words [password]",
        "has 1 turn mark that plain text can forge: not marked special [<|im_end|>]",
        "has an ordinary token for EOS: plain text can end a reply [b]",
        "names an id for BOS that the vocabulary does not have []",
    ]
