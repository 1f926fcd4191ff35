"""Values that a model writes as plain text between tags, as JSON: the tool's schema says of which type each is."""

import json
from collections.abc import Mapping
from typing import Any

_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
ALL_TYPES = frozenset([*_NAMES.values(), "null"])
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


def load_json(text: str) -> Any:
    """By the letter of RFC 8259 (no NaN); raises ValueError, also where the nesting is too deep."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def resolve(schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema that a local `$ref` points to; a reference that leads nowhere allows anything."""
    for _ in range(16):
        if not (isinstance(schema, Mapping) and isinstance(reference := schema.get("$ref"), str)):
            return schema
        schema = root
        for part in reference.removeprefix("#").strip("/").split("/"):
            schema = schema.get(part, {}) if isinstance(schema, Mapping) and part else schema
    return {}


def types_of(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that `schema` allows; all of them where it does not say."""
    schema = resolve(schema, root)
    if not isinstance(schema, Mapping):
        return ALL_TYPES
    if "const" in schema or "enum" in schema:
        return frozenset(_type_of(value) for value in [*schema.get("enum", []), *_constant(schema)]) or ALL_TYPES
    if "type" in schema:
        types = schema["type"]
        return frozenset([types] if isinstance(types, str) else types)
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return frozenset().union(*(types_of(option, root) for option in schema[key]))
    return ALL_TYPES


def _constant(schema: Mapping[str, Any]) -> list[Any]:
    return [schema["const"]] if "const" in schema else []


def _type_of(value: Any) -> str:
    return "null" if value is None else _NAMES[type(value)]


def as_json(text: str, types: frozenset[str]) -> str:
    """`text` as the JSON of a value of one of `types`.

    It is the number, list or other thing that it spells if `types` allow that, and a string if not: a value that does
    not fit its schema is the tool's to refuse, not ours to lose.
    """
    if types == {"string"}:
        return json.dumps(text, ensure_ascii=False)
    spelled = text.strip()
    spelled = _PYTHON_WORDS.get(spelled, spelled)
    try:
        kind = _type_of(load_json(spelled))
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
    fits = kind in types or (kind == "integer" and "number" in types) or (kind == "number" and "integer" in types)
    if fits and not (kind == "string" and "string" in types):
        return spelled
    return json.dumps(text, ensure_ascii=False)
