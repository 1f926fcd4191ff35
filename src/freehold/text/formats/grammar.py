"""Writes Lark grammars in the dialect of llguidance (its docs/syntax.md and docs/json_schema.md).

Two things decide how a marker is written. A special token is never part of a text, so it must be named; a marker that
is ordinary text must be looked for while any text is allowed, which takes a lazy rule (the shortest match).
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from freehold.text.formats.values import resolve, types_of

ANY = r"/(.|\n)*/"
# The formats that llguidance enforces; to JSON Schema 2020-12 a format that is not known is a note, not a condition.
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
_COMBINED = ("anyOf", "oneOf", "allOf", "not", "if", "$ref", "patternProperties", "dependentSchemas", "propertyNames")


class UnconstrainableError(Exception):
    """The format cannot be held to this schema by a grammar."""


class Grammar:
    """Rules written one after the other; `special` holds the special tokens' texts with their ids, if known."""

    def __init__(self, special: Mapping[str, int | None]):
        self._special = special
        self._rules: dict[str, str] = {}

    def rule(self, body: str, *, prefix: str = "rule", options: str = "") -> str:
        """The name of a rule (or, with an upper-case prefix, of a terminal) with this body."""
        line = f"{options}: {body}"
        for name, known in self._rules.items():
            if known == line and name.startswith(prefix):
                return name
        name = f"{prefix}_{len(self._rules)}"
        self._rules[name] = line
        return name

    def render(self, start: str) -> str:
        lines = [f"start: {start}", *(f"{name}{line}" for name, line in self._rules.items())]
        return "%llguidance {}\n" + "\n".join(lines) + "\n"

    def literal(self, text: str) -> str:
        """`text`, the special tokens in it by their names."""
        return " ".join(self._token(piece) if special else _quoted(piece) for piece, special in self._split(text))

    def upto(self, marker: str, content: str = ANY) -> str:
        """A text that the regex `content` allows, and `marker`, which is not in it."""
        pieces = self._split(marker)
        specials = [at for at, (_, special) in enumerate(pieces) if special]
        if not specials:
            inner = self.rule(content, prefix="TEXT")
            return self.rule(f"{inner} {_quoted(marker)}", prefix="upto", options="[lazy]")
        before = "".join(piece for piece, _ in pieces[: specials[0]])
        head = self.rule(f"{content} {_quoted(before)}" if before else content, prefix="TEXT")
        return f"{head} {self.literal(marker[len(before) :])}"

    def without(self, marker: str) -> str:
        """Any text without `marker`."""
        if any(special for _, special in self._split(marker)):
            return self.rule(ANY, prefix="TEXT")
        escaped = re.escape(marker).replace("/", r"\/")
        return self.rule(rf"{ANY} & ~/(?s:.*){escaped}(?s:.*)/", prefix="TEXT")

    def text(self, content: str = ANY) -> str:
        return self.rule(content, prefix="TEXT")

    def newlines(self) -> str:
        """Empty lines, if any; not without end, which a model that cannot write what must follow would use."""
        return self.rule(r"/\n{1,4}/", prefix="TEXT") + "?"

    def json(self, schema: Any, root: Mapping[str, Any]) -> str:
        """A JSON value that satisfies `schema`, a part of `root`."""
        if not isinstance(schema, Mapping):
            schema = {} if schema else {"not": {}}
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return self.rule(f"%json {json.dumps(_known_formats({**definitions, **schema}))}", prefix="json")

    def arguments(self, schema: Mapping[str, Any]) -> str:
        """A JSON object that satisfies a tool's whole schema."""
        return self.json({"type": "object", **schema}, schema)

    def string(self, schema: Any, root: Mapping[str, Any], end: str, *, others: bool) -> str:
        """The bare text of a string that satisfies `schema`, and the marker `end`.

        With `others`, values that `schema` lists and that are no strings are among them, as JSON.
        """
        schema = resolve(schema, root)
        if not isinstance(schema, Mapping):
            return self.upto(end)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            texts = [value for value in values if isinstance(value, str)]
            texts += [json.dumps(value) for value in values if others and not isinstance(value, str)]
            return self.choice([self.literal(text + end) for text in texts])
        if "pattern" in schema and ("minLength" in schema or "maxLength" in schema):
            raise UnconstrainableError
        if "pattern" in schema:
            return self.upto(end, _pattern(schema["pattern"]))
        if "minLength" in schema or "maxLength" in schema:
            return self.upto(end, rf"/(.|\n){{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}/")
        return self.upto(end)

    @staticmethod
    def sequence(*parts: str) -> str:
        return " ".join(part for part in parts if part)

    def choice(self, options: list[str]) -> str:
        return self.rule(" | ".join(options))

    def _token(self, text: str) -> str:
        number = self._special[text]
        if number is not None:
            return f"<[{number}]>"
        if not re.fullmatch(r"<[^<>\s\[]+>", text):
            raise UnconstrainableError  # the dialect can name this token by its id only
        return text

    def _split(self, text: str) -> list[tuple[str, bool]]:
        """Pieces of `text` and whether each is a special token."""
        inside = sorted((token for token in self._special if token in text), key=len, reverse=True)
        if not inside:
            return [(text, False)] if text else []
        pieces = re.split(f"({'|'.join(map(re.escape, inside))})", text)
        return [(piece, at % 2 == 1) for at, piece in enumerate(pieces) if piece]


def members(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], set[str], Any]:
    """(properties, required ones, schema of others or None) of a tool whose arguments are written one by one.

    Raises UnconstrainableError where the object as a whole has conditions.
    """
    if any(key in schema for key in _COMBINED) or types_of(schema, schema).isdisjoint({"object"}):
        raise UnconstrainableError
    properties = schema.get("properties") or {}
    others = schema.get("additionalProperties", None if "properties" in schema else True)
    required = set(schema.get("required", ()))
    if required - set(properties):
        raise UnconstrainableError
    return properties, required, others or None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _pattern(pattern: str) -> str:
    """A JSON schema's pattern, which may match anywhere in the text unless it is anchored, as one for all the text."""
    before = "" if pattern.startswith("^") else r"(.|\n)*"
    after = "" if pattern.endswith("$") and not pattern.endswith(r"\$") else r"(.|\n)*"
    inner = pattern.removeprefix("^") if before == "" else pattern
    inner = inner.removesuffix("$") if after == "" else inner
    if re.search(r"\(\?[=!<]|(?<!\\)[$^](?![^\[]*\])", inner):
        raise UnconstrainableError  # no such conditions in the dialect's regexes
    escaped = re.sub(r"(?<!\\)/", r"\/", inner)
    return f"/{before}({escaped}){after}/"


def _known_formats(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: value if key in ("const", "enum", "default", "examples") else _known_formats(value)
            for key, value in schema.items()
            if not (key == "format" and isinstance(value, str) and value not in _FORMATS)
        }
    return [_known_formats(item) for item in schema] if isinstance(schema, list) else schema
