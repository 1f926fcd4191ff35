"""Where the sources of a model's licence contradict each other, or what the model is made from."""

import re
from collections.abc import Iterable, Sequence

from freehold.inspection.licence.sources import Kind, Source
from freehold.inspection.licence.terms import Conflict, Finding, Parent, ScopeFinding, Sort


def between_sources(weights: ScopeFinding, sources: Sequence[Source]) -> Iterable[Conflict]:
    """Fields and statements that name another licence than the text, or than the first field."""
    if not weights.findings:
        return
    first_evidence, first = weights.findings[0]
    told: set[str] = set()
    for evidence, finding in weights.findings[1:]:
        is_policy = any(source.kind is Kind.POLICY and source.evidence == evidence for source in sources)
        if is_policy or finding.name in told or agree(finding, first):
            continue
        told.add(finding.name)
        where, there = f"{evidence.file} ({evidence.place})", f"{first_evidence.file} ({first_evidence.place})"
        plain = f"{where} says {finding.name}, but {there} is {first.name}."
        if first.base and first.base == finding.expression:
            added = _shortened(first.residual)
            plain = f"{where} says {finding.name}, but the text in {first_evidence.file} adds terms to it: “{added}”"
        yield Conflict(plain, (evidence, first_evidence))


def _shortened(residual: Sequence[str]) -> str:
    text = residual[0] if residual else "words are missing or changed"
    return text if len(text) <= 240 else text[:239] + "…"


def agree(one: Finding, other: Finding) -> bool:
    """Whether two findings can be the same licence: a tag and its text, a name and its expression."""
    if one.expression and other.expression:
        return one.expression == other.expression or one.expression in other.expression.split(" AND ")
    if one.name == other.name or (one.is_open != other.is_open):
        return one.name == other.name
    if one.base or other.base:  # a modified standard text, by its name or by the text
        text, name = (one, other) if one.base else (other, one)
        return not name.expression and (text.base.lower() in name.name.lower() or not name.has_text)
    known, plain = _letters(one.nearest or one.name), _letters(other.nearest or other.name)
    return known in plain or plain in known or _same_clauses(one, other) or not (_is_named(one) and _is_named(other))


def _letters(name: str) -> str:
    name = name.lower().split("(")[0]
    for word in ("meta", "license", "licence", "agreement", "community", "terms of use", "model", "1.0"):
        name = name.replace(word, "")
    return "".join(c for c in name if c.isalnum())


def _same_clauses(one: Finding, other: Finding) -> bool:
    kinds = [{(c.kind, c.plain) for c in finding.clauses if c.sort is not Sort.FACT} for finding in (one, other)]
    return bool(kinds[0]) and len(kinds[0] & kinds[1]) >= 0.8 * min(len(kinds[0]), len(kinds[1]))


def _is_named(finding: Finding) -> bool:
    """Whether a finding is a licence that is known, so that another one next to it is a contradiction."""
    return bool(finding.expression or finding.likeness >= 0.5 or any(c.kind != "unread" for c in finding.clauses))


def with_parents(weights: ScopeFinding, parents: Sequence[Parent], name: str) -> Iterable[Conflict]:
    """A declared licence that leaves out what a parent's asks; a name that a parent's licence does not allow."""
    declared = [(evidence, finding) for evidence, finding in weights.findings if not finding.is_policy]
    for parent in parents:
        licence = parent.licence
        if licence is None or licence.is_open:
            continue
        contradicting = [(evidence, finding) for evidence, finding in declared if not agree(finding, licence)]
        if contradicting:
            evidence, finding = contradicting[0]
            declared_as = f"It is declared to be under {finding.name}"
            plain = f"{declared_as}, but {parent.described}, and the {licence.name} follows what is made from it."
            yield Conflict(plain, (evidence, parent.evidence))
        yield from _name_conflict(parent, licence, name)


def _name_conflict(parent: Parent, licence: Finding, name: str) -> Iterable[Conflict]:
    if parent.is_mark or parent.relation.startswith(("itself", "quantized")):
        return
    for clause in licence.clauses:
        prefix = str(clause.values.get("prefix", ""))
        if clause.kind != "name_prefix" or _plain_name(name).startswith(_plain_name(prefix)):
            continue
        asked = f"The {licence.name} asks that the name of a model made from it begin with “{prefix}”"
        yield Conflict(f"{asked}; this one is called {name}.", (parent.evidence, clause.evidence))


def _plain_name(name: str) -> str:
    return re.sub(r"[\s_]+", "-", name.lower())
