"""Every source that speaks of a licence: texts in the folder, the card's fields and words, metadata, heads of code."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import Card, Field
from freehold.inspection.findings import Evidence
from freehold.inspection.licence.detect import detect, detect_name
from freehold.inspection.licence.expression import names
from freehold.inspection.licence.prose import Prose, printable
from freehold.inspection.licence.terms import Finding
from freehold.inspection.openness.licences import licence_lists

_MAX_TEXT_BYTES = 1 << 20
_MAX_LICENCE_FILES = 20
_MAX_CODE_FILES = 50
_MAX_CARD_CHARACTERS = 1 << 16
_HEAD_BYTES = 4096

_LICENCE_FILE = re.compile(
    r"(?:^|[\w .-]*[-_. ])?(?:licen[sc]e|copying|unlicense|eula|terms)(?:[-_. ].*)?$", re.IGNORECASE
)
_POLICY_FILE = re.compile(
    r"(?:acceptable|prohibited)?[-_ ]?(?:use|usage|uses)[-_ ]polic(?:y|ies)(?:\..*)?$|acceptable[-_ ]use.*",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"third[-_ ]?party|3rd[-_ ]?party|(?:^|/)(?:vendor|node_modules|deps)/|notices?(?:\.|$)", re.IGNORECASE
)
_TEXT_NAMES = ("", ".txt", ".md", ".rst", ".markdown", ".text")

_SCOPE_NAMES = {
    "code": re.compile(r"(?:^|[/_. -])(?:code|src)(?:[/_. -]|$)", re.IGNORECASE),
    "data": re.compile(r"(?:^|[/_. -])(?:data|datasets?|corpus)(?:[/_. -]|$)", re.IGNORECASE),
    "weights": re.compile(r"(?:^|[/_. -])(?:models?|weights?|checkpoints?)(?:[/_. -]|$)", re.IGNORECASE),
}
_SAYS = re.compile(
    r"\b(?:licen[sc]ed?|released|distributed|available|subject to|governed by|published|open-?sourced)\b", re.IGNORECASE
)
_OF_PARENT = re.compile(
    r"\b(?:derived from|originally|base model|based on|built (?:on|upon)|fine-?tuned from|thank|acknowledg)",
    re.IGNORECASE,
)
_PARTS = {
    "code": re.compile(r"\b(?:code|source|codebase|scripts?|software|repo(?:sitory)?|project)\b", re.IGNORECASE),
    "weights": re.compile(
        r"\b(?:weights|models?|parameters|checkpoints?)\b|^(?!.*\bcode\b).*\b(?:project|repo(?:sitory)?)\b",
        re.IGNORECASE,
    ),
    "data": re.compile(r"\b(?:data|datasets?|corpus|corpora|annotations)\b", re.IGNORECASE),
}
_SPLIT = re.compile(r"[;,.]\s+|\s+(?:while|whereas|but)\s+|\s+and\s+(?=the (?:model|weights|code|data))", re.IGNORECASE)
_BOTH = re.compile(r"\s*both\s", re.IGNORECASE)
_SPDX_HEAD = re.compile(r"SPDX-License-Identifier:\s*([\w.+() -]{2,80})")
_APACHE_HEAD = "Licensed under the Apache License, Version 2.0"


class Kind(StrEnum):
    """How much a source weighs: a text is the licence, a policy stands beside it, the rest only names one."""

    TEXT = "text"
    POLICY = "policy"
    FIELD = "field"
    STATEMENT = "statement"


@dataclass(frozen=True, slots=True)
class Source:
    """`scope`: weights, code or data; empty for a text that does not say which."""

    scope: str
    kind: Kind
    evidence: Evidence
    finding: Finding


def gather(artefacts: Artefacts, card: Card) -> list[Source]:
    return [*_files(artefacts), *_fields(artefacts, card), *_statements(card), *_code_heads(artefacts)]


def _files(artefacts: Artefacts) -> Iterator[Source]:
    count = 0
    for file in artefacts.files:
        base = file.name.rsplit("/", 1)[-1]
        _, dot, suffix = base.rpartition(".")
        is_text = (dot + suffix).lower() in _TEXT_NAMES or not dot or suffix.isdigit() or len(suffix) > 6
        is_policy = _POLICY_FILE.match(base) is not None
        if not is_text or file.outside or _OTHERS.search(file.name) or not (is_policy or _LICENCE_FILE.match(base)):
            continue
        text = artefacts.text(file.name, _MAX_TEXT_BYTES)
        count += 1
        if text is None or count > _MAX_LICENCE_FILES:
            continue
        finding = detect(text.content).at(file.name)
        kind = Kind.POLICY if is_policy or finding.is_policy else Kind.TEXT
        if kind is Kind.TEXT and not finding.clauses and finding.openness == "unknown":
            continue  # a file of that name without the words of a licence
        first = next((s for s in Prose.of(text.content, 2000).sentences()), None)
        place = f"line {first.line}" if first else "file"
        yield Source(
            _scope_of(file.name),
            kind,
            Evidence(file.name, place, first.text[:200] if first else ""),
            finding,
        )


def _scope_of(name: str) -> str:
    """The part that a file's name or folder speaks of; empty when it does not say."""
    return next((scope for scope, pattern in _SCOPE_NAMES.items() if pattern.search(name)), "")


def _fields(artefacts: Artefacts, card: Card) -> Iterator[Source]:
    if card.is_written:
        yield from _first_named(card, "license", "license_name")
    yield from _named(_gguf_fields(artefacts))
    config = artefacts.config.get("license")
    if isinstance(config, str):
        config = printable(config[:200])
        yield from _named([Field(config, Evidence("config.json", "license", config))])


def _first_named(card: Card, *keys: str) -> Iterator[Source]:
    """Of the first key whose value is the name of a licence."""
    for key in keys:
        if named := list(_named(card.fields(key))):
            yield from named
            return


def _gguf_fields(artefacts: Artefacts) -> list[Field]:
    for key in ("general.license", "general.license.name"):
        value = artefacts.gguf.get(key)
        if isinstance(value, str) and detect_name(value):
            return [Field(printable(value), Evidence(artefacts.gguf_files[0].name, key, printable(value[:200])))]
    return []


def _named(fields: Iterable[Field]) -> Iterator[Source]:
    for field in fields:
        if finding := detect_name(printable(field.value)):
            yield Source("weights", Kind.FIELD, field.evidence, finding.at(field.evidence.file))


def _statements(card: Card) -> Iterator[Source]:
    """Sentences of the card such as "The code is under MIT; use of the weights is subject to the Model License"."""
    for sentence in Prose.of(card.text, _MAX_CARD_CHARACTERS).sentences():
        if not _SAYS.search(sentence.text) or len(sentence.text) > 1000:
            continue
        for part in _parts(sentence.text):
            name = _name_in(part)
            if not name or _OF_PARENT.search(part):
                continue
            line = sentence.line + card.first_line - 1
            evidence = Evidence(card.file, f"line {line}", sentence.text[:300])
            subject = part.lower().split(name.lower())[0]
            for scope, pattern in _PARTS.items():
                finding = detect_name(name) if pattern.search(subject) and _SAYS.search(part) else None
                if finding is not None:
                    yield Source(scope, Kind.STATEMENT, evidence, finding.at(card.file))


def _parts(sentence: str) -> Iterator[str]:
    """What is said of one thing after the other; "both the code and the weights" are one thing."""
    both = ""
    for part in _SPLIT.split(sentence):
        part = f"{both} and {part}" if both else part
        both = part if _BOTH.match(part) and not _SAYS.search(part) else ""
        if not both:
            yield part


def _name_in(text: str) -> str:
    found = _names().search(text)
    return re.sub(r"\s+", " ", found[0]) if found else ""


@cache
def _names() -> re.Pattern[str]:
    """Names of licences as a sentence writes them; short words only together with "license"."""
    known = [*licence_lists().names, *(name.lower() for name in names()["own"].values())]
    written = [re.escape(name) for name in known if re.search(r"\d|licen[sc]e|agreement|terms", name)]
    more = [
        r"modified mit(?: licen[sc]e)?",
        r"mit(?= licen[sc]e|\b(?=[.,;)]|$))",
        r"cc[- ]by(?:-[a-z]{2}){0,2}[- ]\d\.\d",
        r"llama[- ]?\d(?:\.\d)? (?:community )?licen[sc]e",
        r"openmdw(?:-\d\.\d)?",
    ]
    pattern = "|".join(sorted(written, key=len, reverse=True) + more).replace(r"\ ", r"[\s-]")
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE)


def _code_heads(artefacts: Artefacts) -> Iterator[Source]:
    """Licences that code files name in their first lines, each once."""
    seen: set[str] = set()
    code = [file for file in artefacts.files if file.name.endswith(".py") and not file.outside]
    for file in code[:_MAX_CODE_FILES]:
        text = artefacts.text(file.name, _HEAD_BYTES)
        if text is None:
            continue
        found = _SPDX_HEAD.search(text.content)
        at = found.start() if found else text.content.find(_APACHE_HEAD)
        name = found[1].strip() if found else "Apache-2.0" if at >= 0 else ""
        if name and name not in seen and (finding := detect_name(name)):
            seen.add(name)
            line = text.content.count("\n", 0, at) + 1
            yield Source("code", Kind.FIELD, Evidence(file.name, f"line {line}", name), finding.at(file.name))
