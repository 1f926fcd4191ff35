"""What one text, or one name, is: a standard licence, one with further terms, a known lab's, or one of its own.

In this order: the texts on SPDX's list; what a text adds to the nearest of them; fingerprints of known texts; and, of
any text at all, its clauses. Only a listed open licence to which nothing is added is open.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from freehold.inspection.licence import known, standard
from freehold.inspection.licence.clauses import find_clauses
from freehold.inspection.licence.expression import Named, identify, names, open_because
from freehold.inspection.licence.prose import Prose, Sentence, words
from freehold.inspection.licence.terms import Clause, Finding, Openness, Sort

_MAX_POINTER_WORDS = 60
_TITLE = re.compile(r"\blicen[sc]e\b|\bagreement\b|\bterms\b|\bpolicy\b|许可|协议", re.IGNORECASE)
_GRANT = re.compile(
    r"\bgrant(?:s|ed)?\b|\bpermission is\b|\byou (?:may|can|are free to)\b|\bfree to\b|\bwe give you\b"
    r"|\blicensed to you\b|授予|授权",
    re.IGNORECASE,
)
_POINTER = re.compile(
    r"(?:[\w\s'-]{0,60}? (?:is|are) )?(?:licen[sc]ed|released|distributed|available)(?: to you)? under (?:the )?"
    r"(?:terms of )?(?:the )?([\w .,+-]{2,60}?)(?: licen[sc]e)?(?:[.,;:(\s]+(?:see )?\(?(?:https?://\S+)?\)?)?\.?",
    re.IGNORECASE,
)
_UNREAD = "Further terms that are not recognised here: read them."


def detect(text: str) -> Finding:
    """What a licence text is; never raises, whatever the text, and takes time in proportion to its length."""
    prose = Prose.of(text)
    found = words(prose.content)
    if len(found) <= _MAX_POINTER_WORDS and (pointed := pointer(prose.content)):
        return pointed
    sentences = prose.sentences()
    match = standard.match(prose) if len(found) > 20 else None
    if match is not None:
        return _standard(match, sentences, prose)
    return _own(prose, sentences)


def detect_name(name: str) -> Finding | None:
    """What a card's or a file's name for a licence stands for, without its text; None when it names none ("other")."""
    named = identify(name)
    return None if named is None else _named(named)


def pointer(text: str) -> Finding | None:
    """A short text that only names a licence ("Apache-2.0", "see https://…/MIT") and adds nothing to it."""
    plain = " ".join(text.split())
    named = identify(plain) if len(plain) < 60 else None
    if named is not None and (named.expression or named.tag in names()["own"]):
        return _named(named)
    match = _POINTER.fullmatch(plain)
    named = identify(match[1]) if match else None
    return _named(named) if named is not None and named.expression else None


def _named(named: Named) -> Finding:
    if named.expression:
        is_open, because = open_because(named.expression)
        openness = Openness.OPEN if is_open else Openness.NOT_OPEN
        clauses = standard.clauses_of(named.expression)
        return Finding(named.name, named.expression, openness, because, "by its name", clauses=clauses, has_text=False)
    like = names()["like"].get(named.tag, named.tag)
    texts = known.by_tag(like)
    clauses = tuple(clause for text in texts for clause in text.clauses)
    if texts:
        name = names()["own"].get(named.tag, texts[0].name)
        follows = f"; clauses as in {texts[0].name}, which it follows: compare them"
        how = "by its name" + ("" if like == named.tag else follows)
        return Finding(name, "", Openness.NOT_OPEN, "on no list of open licences", how, clauses=clauses, has_text=False)
    held_back = any(re.search(pattern, named.name, re.IGNORECASE) for pattern in names()["says"]["non_commercial"])
    plain = (
        "Its name says that commercial use is held back; its text is not here: read it."
        if held_back
        else "Its text is not here: read it."
    )
    kind, label = ("non_commercial", "Commercial use") if held_back else ("unread", "Further terms")
    clause = Clause(kind, label, Sort.LIMIT, plain, named.name)
    because = "a licence of its own, whose text is not here"
    return Finding(named.name, "", Openness.NOT_OPEN, because, "by its name", clauses=(clause,), has_text=False)


def _standard(match: standard.Match, sentences: Sequence[Sentence], prose: Prose) -> Finding:
    is_open, because = open_because(match.expression)
    asked = standard.clauses_of(match.expression, sentences)
    if match.is_exact:
        openness = Openness.OPEN if is_open else Openness.NOT_OPEN
        return Finding(
            match.expression, match.expression, openness, because, "by its text", likeness=1.0, clauses=asked
        )
    residual = tuple(sentence.text for sentence in match.residual)
    added = find_clauses(match.residual)
    if residual and not any(clause.sort is not Sort.FACT for clause in added):
        added += (_unread(match.residual[0]),)
    if not residual:
        added = (
            Clause(
                "unread", "Further terms", Sort.LIMIT, "Words of the standard text are missing or changed: read it.", ""
            ),
        )
    same = known.nearest(prose)
    name = f"{match.expression} with further terms" if residual else f"{match.expression}, incomplete or changed"
    because = (
        "terms are added to the standard text" if residual else "words of the standard text are missing or changed"
    )
    if prose.has_more:
        because += "; only its beginning was read"
    how = "by its text, and what that adds to the standard one"
    if same is not None and same.likeness == 1.0:
        name, how = same.name, "by the fingerprint of its words, and what they add to the standard text"
    clauses = tuple({(c.kind, c.plain): c for c in (*added, *asked)}.values())
    return Finding(name, "", Openness.NOT_OPEN, because, how, match.expression, "", 0.0, residual, clauses)


def _unread(sentence: Sentence) -> Clause:
    return Clause("unread", "Further terms", Sort.LIMIT, _UNREAD, sentence.text[:600], {}, "", sentence.line)


def _own(prose: Prose, sentences: Sequence[Sentence]) -> Finding:
    clauses = find_clauses(sentences)
    like = known.nearest(prose)
    title = _title(sentences)
    grants = _GRANT.search(prose.content) is not None
    restricts = any(clause.sort is Sort.LIMIT for clause in clauses)
    if not clauses and not grants:
        return Finding(title or "no licence text", "", Openness.UNKNOWN, "no words of a licence in it", "by its text")
    finding = Finding(
        title or "a licence of its own",
        "",
        Openness.NOT_OPEN,
        "on no list of open licences",
        "by its clauses",
        clauses=clauses,
    )
    finding = replace(finding, is_policy=not grants or _is_policy(title))
    if like is not None and like.likeness == 1.0:
        finding = replace(
            finding,
            name=like.name,
            expression=like.identifier,
            how="by the fingerprint of its words",
            nearest=like.name,
            likeness=1.0,
        )
    elif like is not None:
        how = f"by its clauses; {like.likeness:.0%} like {like.name}"
        finding = replace(
            finding, name=title or f"a text like {like.name}", how=how, nearest=like.name, likeness=like.likeness
        )
    if prose.has_more:
        finding = replace(finding, because=f"{finding.because}; only its beginning was read")
    if not restricts and not finding.is_policy and not finding.likeness:
        finding = replace(finding, clauses=(*clauses, _unread(sentences[0])))
    return finding


def _is_policy(title: str) -> bool:
    return re.search(r"\bpolicy\b|\bguidelines\b", title, re.IGNORECASE) is not None


def _title(sentences: Sequence[Sentence]) -> str:
    """The first line that is short and speaks of a licence."""
    for sentence in sentences[:6]:
        title = sentence.text.strip("#* ")
        if len(title) < 110 and _TITLE.search(title) and not title.endswith(":"):
            return title
    return ""
