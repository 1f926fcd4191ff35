"""The vocabulary: is each id one text and each text one id, and what can plain text turn into?"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.trust.finding import Finding, Severity, Topic, is_invisible, visible
from freehold.text.vocabulary import CONTROL, UNKNOWN, UNUSED, USER_DEFINED

# Written like a mark of a turn, not like a word: <|im_start|>, <｜User｜>, [INST], <bos>, </s>, <start_of_turn>.
_CONTROL_LIKE = re.compile(r"<[|｜].{1,60}[|｜]>|\[/?[A-Z_]{3,30}\]|</?s>|<(bos|eos|pad|unk|start_of_\w+|end_of_\w+)>")
_WORD = re.compile(r"[▁Ġ ]?[^\W\d_]{2,}")
_MANY = 8  # examples of one kind of problem; the rest is counted


@dataclass
class Vocabulary:
    """What a file says: `texts` in order of ids (GGUF) or as (text, id) pairs; `added`: text -> is it special?"""

    file: str
    pairs: Sequence[tuple[str, int]]
    added: dict[str, bool] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)  # eos and bos: their text


def check_tokenizers(
    artefacts: Artefacts, gguf: Mapping[str, Mapping[str, Any]], template_literals: str
) -> tuple[list[Finding], list[Vocabulary]]:
    """What is wrong with each vocabulary, and those that there are.

    `gguf`: metadata by file; `template_literals`: the texts of the chat templates, in which turn marks stand.
    """
    vocabularies = list(_vocabularies(artefacts, gguf))
    findings = [
        Finding(Topic.TOKENIZER, severity, vocabulary.file, text, quote=visible(quote))
        for vocabulary in vocabularies
        for severity, text, quote in _check(vocabulary, template_literals)
    ]
    return findings + _disagreement(artefacts), vocabularies


def _vocabularies(artefacts: Artefacts, gguf: Mapping[str, Mapping[str, Any]]) -> Iterator[Vocabulary]:
    for file, metadata in gguf.items():
        tokens = metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, list) and tokens and all(isinstance(text, str) for text in tokens):
            yield _gguf(file, metadata, tokens)
    value = artefacts.json("tokenizer.json")
    if isinstance(value, dict):
        yield _tokenizer_json(value, artefacts.json("tokenizer_config.json"))


def _gguf(file: str, metadata: Mapping[str, Any], tokens: Sequence[str]) -> Vocabulary:
    vocabulary = Vocabulary(file, [(text, token) for token, text in enumerate(tokens)])
    types = metadata.get("tokenizer.ggml.token_type")
    types = types if isinstance(types, list) and len(types) == len(tokens) else []
    special = (CONTROL, UNKNOWN, UNUSED)
    vocabulary.added = {
        text: kind in special
        for text, kind in zip(tokens, types, strict=False)
        if kind in (*special, USER_DEFINED) or _CONTROL_LIKE.fullmatch(text)
    }
    for name in ("eos", "bos"):
        token = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(token, int) and 0 <= token < len(tokens):
            vocabulary.ends[name] = tokens[token]
        elif token is not None:
            vocabulary.ends[name] = ""
    return vocabulary


def _tokenizer_json(value: dict[str, Any], config: Any) -> Vocabulary:
    model = value.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    pairs: list[tuple[str, int]] = []
    if isinstance(vocab, dict):
        pairs = [(text, token) for text, token in vocab.items() if type(token) is int]
    elif isinstance(vocab, list):  # unigram: (text, score) in order of ids
        pairs = [(item[0], token) for token, item in enumerate(vocab) if _is_piece(item)]
    token_of = dict(pairs)
    vocabulary = Vocabulary("tokenizer.json", pairs)
    for token, item in _added(value).items():
        text = item["content"]
        vocabulary.added[text] = item.get("special") is True
        if token_of.get(text) != token:
            pairs.append((text, token))
    if isinstance(config, dict):
        for name in ("eos", "bos"):
            text = config.get(f"{name}_token")
            text = text.get("content") if isinstance(text, dict) else text
            if isinstance(text, str):
                vocabulary.ends[name] = text
    return vocabulary


def _is_piece(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and isinstance(item[0], str)


def _added(value: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Added tokens by id, as far as they are described soundly."""
    items = value.get("added_tokens")
    sound = (item for item in (items if isinstance(items, list) else ()) if isinstance(item, dict))
    return {i["id"]: i for i in sound if type(i.get("id")) is int and isinstance(i.get("content"), str)}


def _check(vocabulary: Vocabulary, template: str) -> Iterator[tuple[Severity, str, str]]:
    yield from _bijection(vocabulary.pairs)
    if words := [text for text in vocabulary.added if _WORD.fullmatch(text)]:
        yield Severity.CAUTION, f"cuts text at {_count(words, 'added token')} that are ordinary words", _list(words)
    hidden = [text for text in vocabulary.added if any(map(is_invisible, text))]
    if hidden:
        yield (
            Severity.CAUTION,
            f"has {_count(hidden, 'added token')} with characters that cannot be seen",
            _list(hidden),
        )
    plain = [text for text, special in vocabulary.added.items() if not special and _CONTROL_LIKE.fullmatch(text)]
    used = [text for text in plain if text in template]
    if used:
        yield (
            Severity.CAUTION,
            f"has {_count(used, 'turn mark')} that plain text can forge: not marked special",
            _list(used),
        )
    if unused := [text for text in plain if text not in used]:
        yield Severity.NOTE, f"has {_count(unused, 'token')} written like a mark, yet not marked special", _list(unused)
    for name, text in vocabulary.ends.items():
        if not text:
            yield Severity.CAUTION, f"names an id for {name.upper()} that the vocabulary does not have", ""
        elif not vocabulary.added.get(text, False) and vocabulary.added:
            yield (
                Severity.CAUTION,
                f"has an ordinary token for {name.upper()}: plain text can {_does(name)} a reply",
                text,
            )


def _does(name: str) -> str:
    return "end" if name == "eos" else "begin"


def _bijection(pairs: Sequence[tuple[str, int]]) -> Iterator[tuple[Severity, str, str]]:
    texts = Counter(text for text, _ in pairs)
    ids = Counter(token for _, token in pairs)
    if twice := [text for text, count in texts.items() if count > 1]:
        yield Severity.CAUTION, f"has {_count(twice, 'text')} with two ids", _list(twice)
    if shared := [token for token, count in ids.items() if count > 1]:
        examples = [text for text, token in pairs if token == shared[0]]
        yield Severity.CAUTION, f"has {_count(shared, 'id')} with two texts", f"{shared[0]}: {_list(examples)}"
    if ids and (missing := max(ids) + 1 - len(ids)) > 0:
        yield Severity.NOTE, f"has no text for {missing} ids up to the highest", ""
    if negative := [token for token in ids if token < 0]:
        yield Severity.CAUTION, f"has {_count(negative, 'id')} below zero", _list(map(str, negative))


def _disagreement(artefacts: Artefacts) -> list[Finding]:
    """tokenizer.json and tokenizer_config.json say each what is special; readers differ in whom they believe."""
    value, config = artefacts.json("tokenizer.json"), artefacts.json("tokenizer_config.json")
    decoder = config.get("added_tokens_decoder") if isinstance(config, dict) else None
    if not isinstance(value, dict) or not isinstance(decoder, dict):
        return []
    ours = _added(value)
    other = [
        f"{token}: {item.get('content')!r}, {theirs.get('content')!r}"
        for token, theirs in decoder.items()
        if token.isdecimal() and isinstance(theirs, dict) and (item := ours.get(int(token)))
        if (item.get("content"), item.get("special")) != (theirs.get("content"), theirs.get("special"))
    ]
    if not other:
        return []
    text = f"and tokenizer.json disagree about {_count(other, 'added token')}"
    return [Finding(Topic.TOKENIZER, Severity.CAUTION, "tokenizer_config.json", text, quote=visible(_list(other)))]


def _count(items: Sequence[Any], what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 or what.endswith('s') else 's'}"


def _list(texts: Any) -> str:
    texts = list(texts)
    return ", ".join(texts[:_MANY]) + (f" and {len(texts) - _MANY} more" if len(texts) > _MANY else "")
