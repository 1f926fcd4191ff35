"""Clauses of a licence text, found by the rules of data/clauses.toml: a small engine, in which no licence is named."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from freehold.inspection.licence import values as read
from freehold.inspection.licence.amounts import amounts
from freehold.inspection.licence.patterns import Pattern, Text
from freehold.inspection.licence.prose import Sentence
from freehold.inspection.licence.terms import Clause, Sort

DATA = Path(__file__).parent / "data"
MAX_QUOTE = 600
_LOOK_AHEAD = 3  # sentences after a threshold in which its effect may stand
_DEFINED = re.compile(
    r'"([^"]{3,60})"\)?\s*(?:means|shall mean|refers to|is any|:)|\((?:an?|the|each,? an?)?\s*"([^"]{3,60})"\)'
)
_FOLLOWS = re.compile(
    r"(?:You|Licensee|Such|In (?:this|such|that|any such) (?:case|event)|To continue|Above|Beyond|Otherwise)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    label: str
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: str
    label: str
    sort: Sort
    plain: Mapping[str, str]  # by variant: "", "bare", "permission", "inside"
    all: tuple[Pattern, ...]
    any: tuple[Pattern, ...]
    any_banned: tuple[Pattern, ...]
    none: tuple[Pattern, ...]
    unless: tuple[Pattern, ...]
    unless_none: tuple[Pattern, ...]
    amount: str
    regions: bool
    names_beside: Pattern | None
    no_amount: bool
    ban: bool
    once: bool
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Words:
    macros: Mapping[str, str]
    effects: tuple[_Named, ...]
    regions: tuple[_Named, ...]
    fields: tuple[_Named, ...]
    not_: Pattern
    permission: Pattern


def find_clauses(sentences: Sequence[Sentence]) -> tuple[Clause, ...]:
    """Every clause that the rules see, in the order of the rules; prohibited fields of use last."""
    text = Text([sentence.text for sentence in sentences])
    found = [clause for rule in _rules() for clause in _apply(rule, sentences, text)]
    return tuple(_merged([*found, *_fields(sentences, text)]))


def regions_in(text: str) -> list[str]:
    """Names of the regions that a short text speaks of."""
    return [region.name for region in words().regions if region.pattern.found_in(text)]


def fields_in(text: str) -> list[str]:
    return [field.name for field in words().fields if field.pattern.found_in(text)]


def region_label(name: str) -> str:
    return next((region.label for region in words().regions if region.name == name), name)


def field_label(name: str) -> str:
    return next((field.label for field in words().fields if field.name == name), name)


@cache
def words() -> _Words:
    data = tomllib.loads((DATA / "words.toml").read_text("utf-8"))
    macros = data["macros"]

    def named(key: str) -> tuple[_Named, ...]:
        return tuple(_Named(e["name"], e.get("label") or e["plain"], Pattern(e["pattern"], macros)) for e in data[key])

    not_, permission = Pattern("{not}", macros), Pattern("{permission}", macros)
    return _Words(macros, named("effects"), named("regions"), named("fields"), not_, permission)


@cache
def region_names() -> Mapping[str, re.Pattern[str]]:
    """Countries by the region that they belong to."""
    data = tomllib.loads((DATA / "words.toml").read_text("utf-8"))
    return {name: re.compile(pattern, re.IGNORECASE) for name, pattern in data["region_of"].items()}


@cache
def _rules() -> tuple[_Rule, ...]:
    return tuple(_rule(entry) for entry in tomllib.loads((DATA / "clauses.toml").read_text("utf-8"))["clause"])


def _rule(entry: Mapping[str, Any]) -> _Rule:
    def patterns(*keys: str) -> tuple[Pattern, ...]:
        return tuple(Pattern(source, words().macros) for key in keys for source in entry.get(key, ()))

    variants = {"": "plain", "bare": "plain_bare", "permission": "plain_permission", "inside": "plain_inside"}
    return _Rule(
        entry["kind"],
        entry["label"],
        Sort(entry["sort"]),
        {variant: entry[key] for variant, key in variants.items() if key in entry},
        patterns("all"),
        patterns("any"),
        patterns("any_banned"),
        patterns("none"),
        patterns("unless"),
        patterns("unless_none"),
        entry.get("amount", ""),
        entry.get("regions", False),
        Pattern(entry["names_beside"], words().macros) if "names_beside" in entry else None,
        entry.get("no_amount", False),
        entry.get("ban", False),
        entry.get("once", False),
        tuple(entry.get("values", ())),
    )


def _apply(rule: _Rule, sentences: Sequence[Sentence], text: Text) -> Iterable[Clause]:
    places = _places(rule, text)
    if not places or any(_excused(rule, text, index) for pattern in rule.unless for index in pattern.indices(text)):
        return
    indices = sorted(places)
    if rule.once:  # the first pattern says it best, and of two languages the one that more people read
        indices.sort(key=lambda index: _is_chinese(sentences[index].text))
    for patterns in [(pattern,) for pattern in rule.any] if rule.once and rule.any else [rule.any]:
        for index in indices:
            clause = _clause(rule, sentences, text, index) if _holds(rule, patterns, sentences, text, index) else None
            if clause is not None:
                yield clause
                if rule.once:
                    return


def _places(rule: _Rule, text: Text) -> set[int]:
    """Sentences in which the words of a rule occur at all."""
    found = set(range(len(text.sentences)))
    for pattern in rule.all:
        found &= pattern.indices(text) if found else found
    if found and rule.any:
        found &= {index for pattern in (*rule.any, *rule.any_banned) for index in pattern.indices(text)}
    return found


def _excused(rule: _Rule, text: Text, index: int) -> bool:
    """Whether a sentence says that the rule does not hold of this text."""
    said = any(pattern.matches(text, index) for pattern in rule.unless)
    return said and not any(pattern.matches(text, index) for pattern in rule.unless_none)


def _is_chinese(text: str) -> bool:
    return sum("\u4e00" <= character <= "\u9fff" for character in text) * 3 > len(text)


def _holds(rule: _Rule, patterns: Sequence[Pattern], sentences: Sequence[Sentence], text: Text, index: int) -> bool:
    if patterns and not any(pattern.matches(text, index) for pattern in patterns):
        in_list = any(pattern.matches(text, index) for pattern in rule.any_banned)
        if not in_list or not _banned(sentences, text, index):
            return False
    if not all(pattern.matches(text, index) for pattern in rule.all) or any(p.matches(text, index) for p in rule.none):
        return False
    return not rule.ban or _banned(sentences, text, index)


def _banned(sentences: Sequence[Sentence], text: Text, index: int) -> bool:
    """Whether a sentence says "not", or is an item of a list that does."""
    return words().not_.matches(text, index) or (bool(sentences[index].head) and _is_ban(sentences[index].head))


def _clause(rule: _Rule, sentences: Sequence[Sentence], text: Text, index: int) -> Clause | None:
    """The clause with its values; None when an amount or a region that it needs is not in the sentence."""
    sentence = sentences[index]
    values: dict[str, Any] = {}
    stated = amounts(sentence.text) if rule.amount or rule.no_amount else []
    if rule.amount:
        values |= read.threshold_of(stated, rule.amount)
        if not values:
            return None
    if rule.no_amount and any(amount.kind in ("users", "money") for amount in stated):
        return None  # a threshold: told by its own rule
    for name in rule.values:
        values |= _value(name, sentences, text, index)
    if rule.regions and not values.get("regions"):
        return None
    if rule.names_beside and not values.get("names") and rule.names_beside.matches(text, index):
        return None
    return Clause(rule.kind, rule.label, rule.sort, _plain(rule, values), _quote(sentence), values, "", sentence.line)


def _value(name: str, sentences: Sequence[Sentence], text: Text, index: int) -> dict[str, Any]:
    sentence = sentences[index].text
    if name == "effects":
        return {"effects": _effects(sentences, text, index)}
    if name == "regions":
        return {"regions": _regions(sentences, text, index)}
    if name == "inside":
        only = re.search(
            r"(?i)\b(?:only|solely|exclusively|limited|restricted)\b.{0,30}\b(?:in|within|inside|to)\b", sentence
        )
        named = any(region.pattern.matches(text, index) for region in words().regions)
        return (
            {"inside": True}
            if only and named and not re.search(r"(?i)\bnot\b|\bexclud|\bexcept|\boutside", sentence)
            else {}
        )
    if name == "permission":
        return {"permission": True} if words().permission.matches(text, index) else {}
    if name == "end_users_exempt":
        return read.READERS[name](" ".join(s.text for s in sentences[index : index + 2]))
    return read.READERS[name](sentence)


def _effects(sentences: Sequence[Sentence], text: Text, index: int) -> list[str]:
    """What follows from a threshold: in its sentence, else in the next ones, else where its defined term is used."""
    following = index + 1 if index + 1 < len(sentences) and _FOLLOWS.match(sentences[index + 1].text) else index
    found = _effects_at(text, [index, following])
    defined = _DEFINED.search(sentences[index].text)
    if defined:
        term = (defined[1] or defined[2]).lower()
        users = [i for i, words_ in enumerate(text.sentences) if term in words_ and i != index]
        found = _effects_at(text, users) or found
    return found or _effects_at(text, range(index + 1, min(index + _LOOK_AHEAD, len(sentences))))


def _effects_at(text: Text, indices: Iterable[int]) -> list[str]:
    indices = list(indices)
    return [e.name for e in words().effects if any(e.pattern.matches(text, index) for index in indices)]


def _regions(sentences: Sequence[Sentence], text: Text, index: int) -> list[str]:
    """Regions named in the sentence; for a territory that is only referred to, those of its definition."""
    found = [region.name for region in words().regions if region.pattern.matches(text, index)]
    if found or "territory" not in text.sentences[index]:
        return found
    for other, sentence in enumerate(text.sentences):
        if '"territory"' in sentence and ("exclud" in sentence or "except" in sentence):
            return [region.name for region in words().regions if region.pattern.matches(text, other)]
    return []


def _fields(sentences: Sequence[Sentence], text: Text) -> Iterable[Clause]:
    """Fields of use that a prohibition, or an item of a list of prohibitions, names: each once."""
    is_use, not_a_ban = Pattern("{use}", words().macros), Pattern("{not_a_ban}", words().macros)
    seen: set[str] = set()
    named = {field.name: field.pattern.indices(text) for field in words().fields}
    for index in sorted(set().union(*named.values())):
        sentence = sentences[index]
        banned = words().not_.matches(text, index) and is_use.matches(text, index)
        if not (banned or (sentence.head and _is_ban(sentence.head))) or not_a_ban.matches(text, index):
            continue
        for field in words().fields:
            if field.name not in seen and index in named[field.name] and field.pattern.matches(text, index):
                seen.add(field.name)
                plain, values = f"Not for: {field.label}.", {"field": field.name}
                quote = _quote(sentence)
                yield Clause("field_of_use", "Prohibited use", Sort.LIMIT, plain, quote, values, "", sentence.line)


@cache
def _is_ban(head: str) -> bool:
    return (
        words().not_.found_in(head)
        or re.search(r"(?i)\b(?:prohibited|restricted) uses?\b|\buse restrictions\b", head) is not None
    )


def _plain(rule: _Rule, values: Mapping[str, Any]) -> str:
    said = dict.fromkeys(re.findall(r"\{(\w+)\}", "".join(rule.plain.values())), "")
    said |= _said(values)
    variant = next((key for key in ("permission", "inside") if values.get(key) and key in rule.plain), "")
    template = rule.plain[variant]
    needed = [key for key in re.findall(r"\{(\w+)\}", template) if key not in ("where", "url")]
    if any(not said[key] for key in needed) and "bare" in rule.plain:
        template = rule.plain["bare"]
    sentence = template.format_map(said)
    return _with_condition(sentence, values) if rule.kind == "display" else sentence


def _said(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as words."""
    said = {key: str(value) for key, value in values.items()}
    if "users" in values:
        said["users"] = read.users_shown(values)
    if "revenue" in values:
        said["revenue"] = read.money_shown(values)
    if "percent" in values:
        said["percent"] = f"{values['percent']:g} %"
    if "effects" in values:
        labels = {effect.name: effect.label for effect in words().effects}
        said["effects"] = ", ".join(labels[name] for name in values["effects"]) or "read what the clause asks"
        if "names" in values and "display" in values["effects"]:
            said["effects"] = said["effects"].replace("its name", " or ".join(f"“{name}”" for name in values["names"]))
    if "names" in values:
        said["names"] = " or ".join(f"“{name}”" for name in values["names"])
    if "regions" in values:
        said["regions"] = ", ".join(region_label(name) for name in values["regions"])
        said["regions"] += " (multimodal models)" if values.get("only_multimodal") else ""
    if "where" in values:
        said["where"] = " " + " or ".join(values["where"])
    if "url" in values:
        said["url"] = f": {values['url']}"
    if "prefix" in values:
        said["prefix"] = f"“{values['prefix']}”"
    if "notice_text" in values:
        said["notice_text"] = f"“{values['notice_text']}”"
    return said


def _with_condition(sentence: str, values: Mapping[str, Any]) -> str:
    parts = [read.users_shown(values)] if "users" in values else []
    parts += [read.money_shown(values) + " in revenue"] if "revenue" in values else []
    return f"Above {' or '.join(parts)}: {sentence[0].lower()}{sentence[1:]}" if parts else sentence


def _quote(sentence: Sentence) -> str:
    text = sentence.text
    if sentence.head and len(sentence.head) + len(text) < MAX_QUOTE and _is_ban(sentence.head):
        text = f"{sentence.head} {text}"
    return text if len(text) <= MAX_QUOTE else text[: MAX_QUOTE - 1].rstrip() + "…"


def _merged(clauses: Iterable[Clause]) -> list[Clause]:
    """The same threshold told twice (an introduction, then the clause) is one, with all that follows from it."""
    kept: dict[tuple[Any, ...], Clause] = {}
    for clause in clauses:
        values = clause.values
        key = (clause.kind, clause.plain)
        if clause.kind in ("users_threshold", "revenue_threshold"):
            key = (clause.kind, values.get("users"), values.get("revenue_usd_per_month"))
        elif clause.kind == "territory":
            key = (clause.kind, tuple(values.get("regions", ())), values.get("inside", False))
        elif clause.kind == "non_commercial":
            key = (clause.kind,)
        known = kept.get(key)
        if known is None or (len(values.get("effects", ())) > len(known.values.get("effects", ()))):
            kept[key] = clause
    shown = {_threshold(clause) for clause in kept.values() if clause.kind == "display"}
    return [
        clause
        for clause in kept.values()
        if not (_only_shows(clause) and any(_threshold(clause) <= of for of in shown))
    ]


def _threshold(clause: Clause) -> frozenset[Any]:
    return frozenset(
        key + str(clause.values[key]) for key in ("users", "revenue_usd_per_month") if key in clause.values
    )


def _only_shows(clause: Clause) -> bool:
    """A threshold above which nothing is asked but a name: told by the clause about the name."""
    return clause.kind.endswith("_threshold") and clause.values["effects"] == ["display"]


def restore(kind: str, quote: str, values: Mapping[str, Any]) -> Clause:
    """A clause from what is kept of it in a record; it has no line, for its text is not at hand."""
    if kind == "field_of_use":
        return Clause(kind, "Prohibited use", Sort.LIMIT, f"Not for: {field_label(values['field'])}.", quote, values)
    rule = next(rule for rule in _rules() if rule.kind == kind)
    return Clause(kind, rule.label, rule.sort, _plain(rule, values), quote, values)
