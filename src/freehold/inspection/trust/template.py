"""The chat template as a stranger's program: what it reaches for, what its text depends on, what it adds unasked.

It is read (its syntax tree) and tried (rendered in the sandbox on a few conversations): what comes out and stands in
none of the messages is the template's own.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.trust.finding import Finding, Severity, Topic, is_invisible, visible
from freehold.text.template import ChatTemplate

MAX_SOURCE_CHARACTERS = 256 << 10  # the longest that a lab publishes has 20,000
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_REACHING = re.compile(r"__\w*|^(mro|gi_frame|gi_code|cr_frame|f_globals|f_locals|f_back|func_globals|tb_frame)$")
_ESCAPES = ("lipsum", "cycler", "joiner", "config", "request", "self", "environ", "url_for", "get_flashed_messages")
_SECRETIVE = re.compile(
    r"ignore (all |any |the )?(previous|earlier|above|other)|(do not|don't|never|without) (tell|mention|reveal|disclos"
    r"|inform|let the user)|secretly|regardless of (what|the user)|(bypass|override) (the )?(user|system|safety)",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"https?://[^\s'\"<>]+|\b[\w.+-]+@[\w-]+\.\w{2,}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TemplateSource:
    file: str
    field: str  # of a JSON or GGUF file; empty: the whole file
    source: str
    variables: Mapping[str, str]

    def place(self, line: int) -> str:
        return f"{self.field}, line {line}" if self.field else f"line {line}"


def find_templates(artefacts: Artefacts, gguf: Mapping[str, Mapping[str, Any]]) -> list[TemplateSource]:
    """Every chat template in the folder or file; `gguf`: metadata by file."""
    found: list[TemplateSource] = []
    config = artefacts.json("tokenizer_config.json")
    config = config if isinstance(config, dict) else {}
    variables = {name: _token_text(config.get(name)) for name in _SPECIAL}
    for name, source in _named(config.get("chat_template")):
        found.append(TemplateSource("tokenizer_config.json", f"chat_template{name}", source, variables))
    for file in artefacts.files:
        if file.name.endswith(".jinja") and (text := artefacts.text(file.name)):
            found.append(TemplateSource(file.name, "", text.content, variables))
    separate = artefacts.json("chat_template.json")
    for name, source in _named(separate.get("chat_template") if isinstance(separate, dict) else None):
        found.append(TemplateSource("chat_template.json", f"chat_template{name}", source, variables))
    for file, metadata in gguf.items():
        for key, value in metadata.items():
            if key.startswith("tokenizer.chat_template") and isinstance(value, str):
                found.append(TemplateSource(file, key, value, _gguf_variables(metadata)))
    return found


def _named(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield "", value
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict) and isinstance(item.get("template"), str):
            yield f" {visible(item.get('name'), 40)!r}", item["template"]


def _token_text(value: Any) -> str:
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else ""


def _gguf_variables(metadata: Mapping[str, Any]) -> dict[str, str]:
    tokens, variables = metadata.get("tokenizer.ggml.tokens"), {}
    tokens = tokens if isinstance(tokens, list) else []
    for name, key in zip(_SPECIAL, ("bos", "eos", "unknown", "padding"), strict=True):
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(token, int) and 0 <= token < len(tokens):
            variables[name] = str(tokens[token])
    return variables


def lint(template: TemplateSource) -> list[Finding]:
    """What a reader must know of a template, the worst first."""
    linter = _Lint(template)
    linter.run()
    return sorted(linter.findings, key=lambda finding: -finding.severity)


class _Lint:
    def __init__(self, template: TemplateSource):
        self._template = template
        self.findings: list[Finding] = []

    def _add(self, severity: Severity, line: int, text: str, quote: str = "") -> None:
        place = self._template.place(line) if line else self._template.field
        finding = Finding(Topic.TEMPLATE, severity, self._template.file, text, place, visible(quote))
        if finding not in self.findings:
            self.findings.append(finding)

    def run(self) -> None:
        source = self._template.source
        self._invisible(source)
        if len(source) > MAX_SOURCE_CHARACTERS:
            self._add(Severity.CAUTION, 0, f"is {len(source)} characters long: too long to be a plain template")
            return
        try:
            self._read(source)
        except RecursionError:
            self._add(Severity.DANGER, 0, "is nested too deep to be read")

    def _read(self, source: str) -> None:
        from jinja2 import TemplateSyntaxError

        from freehold.inspection.trust.template_tree import Tree
        from freehold.text.sandbox import Sandbox

        sandbox = Sandbox()
        try:
            tree = Tree(sandbox.parse(source))
        except TemplateSyntaxError as error:
            self._add(Severity.CAUTION, error.lineno, f"is not a valid template: {visible(error.message)}")
            return
        self._reaches(tree.root)
        self._helpers(tree.root, sandbox)
        literals = tree.literals()
        self._hidden_texts(literals)
        self._triggers(tree, literals)
        self._try(literals)

    # Characters.

    def _invisible(self, source: str) -> None:
        for number, line in enumerate(source.split("\n"), 1):
            for character in filter(is_invisible, line):
                name = unicodedata.name(character, f"U+{ord(character):04X}")
                self._add(Severity.DANGER, number, f"holds a character that cannot be seen: {name}", line.strip())
                return

    # What it reaches for.

    def _reaches(self, root: Any) -> None:
        from jinja2 import nodes

        from freehold.inspection.trust.template_tree import folded

        for node in root.find_all((nodes.Getattr, nodes.Getitem, nodes.Name, nodes.Filter, nodes.Const)):
            name = {"Getattr": "attr", "Getitem": "arg", "Const": "value"}.get(type(node).__name__, "name")
            word = getattr(node, name)
            word = word.value if isinstance(word, nodes.Const) else word
            if not isinstance(word, str):
                continue
            if _REACHING.search(word) if not isinstance(node, nodes.Const) else re.search(r"__\w+__", word):
                self._add(Severity.DANGER, node.lineno, f"reaches for the interpreter by {visible(word, 40)!r}")
            elif isinstance(node, nodes.Filter) and word == "attr":
                self._add(Severity.DANGER, node.lineno, "takes attributes by a computed name (the filter attr)")
            elif isinstance(node, nodes.Name) and word in _ESCAPES and node.ctx == "load":
                self._add(Severity.CAUTION, node.lineno, f"uses {word!r}, by which sandboxes were escaped")
        for node in root.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            self._add(Severity.DANGER, node.lineno, "reads another template")
        for node in root.find_all((nodes.Add, nodes.Concat)):
            if re.search(r"__\w+__", folded(node)):
                self._add(Severity.DANGER, node.lineno, "puts together the name of an interpreter's attribute")

    def _helpers(self, root: Any, sandbox: Any) -> None:
        from jinja2 import TemplateAssertionError, meta, nodes

        for kind, known, what in ((nodes.Filter, sandbox.filters, "filter"), (nodes.Test, sandbox.tests, "test")):
            for node in root.find_all(kind):
                if node.name not in known:
                    self._add(
                        Severity.CAUTION, node.lineno, f"uses the {what} {visible(node.name, 40)!r}: there is none"
                    )
        try:
            # On a tree of its own: jinja2 changes what it walks there.
            undeclared = meta.find_undeclared_variables(sandbox.parse(self._template.source)) - sandbox.globals.keys()
        except TemplateAssertionError:  # for an unknown filter or test, which is said above
            undeclared = set()
        for node in root.find_all(nodes.Call):
            if isinstance(node.node, nodes.Name) and node.node.name in undeclared:
                self._add(
                    Severity.CAUTION, node.lineno, f"calls {visible(node.node.name, 40)!r}, which nothing defines"
                )
        for node in root.find_all(nodes.Filter):
            if node.name == "random":
                self._add(Severity.CAUTION, node.lineno, "chooses at random")

    # What its text depends on.

    def _triggers(self, tree: Any, literals: list[Any]) -> None:
        from jinja2 import nodes

        from freehold.inspection.trust.template_tree import Mark

        covered = {t for literal in literals if _is_prose(literal.text) for t in literal.triggers}
        for trigger in tree.triggers():
            if trigger in covered and not trigger.word.strip().startswith("/"):
                continue  # the text itself is named below
            switch = trigger.mark is Mark.WORDS and trigger.word.strip().startswith("/")
            severity = Severity.NOTE if switch else Severity.CAUTION
            text = f"is another text depending on {trigger.mark.value}"
            self._add(severity, trigger.line, text + (", as a switch" if switch else ""), trigger.word)
        for literal in literals:
            worst = [t for t in literal.triggers if not t.word.strip().startswith("/")]
            if worst and _is_prose(literal.text):
                text = f"adds a text of its own depending on {worst[0].mark.value} ({visible(worst[0].word, 40)!r})"
                self._add(Severity.DANGER, literal.line, text, literal.text.strip())
        for node in tree.root.find_all(nodes.Call):
            if getattr(node.node, "name", "") == "strftime_now":
                self._add(Severity.NOTE, node.lineno, "writes the day's date into the prompt")

    # What it adds unasked.

    def _hidden_texts(self, literals: list[Any]) -> None:
        for literal in literals:
            for character in filter(is_invisible, literal.text):
                name = unicodedata.name(character, f"U+{ord(character):04X}")
                self._add(
                    Severity.DANGER, literal.line, f"writes a character that cannot be seen: {name}", literal.text
                )
                break
            if found := _SECRETIVE.search(literal.text):
                self._add(
                    Severity.DANGER, literal.line, "adds an instruction to hide or overrule", _around(literal, found)
                )
            if found := _ADDRESS.search(literal.text):
                self._add(Severity.CAUTION, literal.line, "adds an address", _around(literal, found))

    def _try(self, literals: list[Any]) -> None:
        template = ChatTemplate(self._template.source, self._template.variables)
        outputs = {}
        for name, messages in _CONVERSATIONS.items():
            try:
                outputs[name] = template.render(messages)
            except Exception as error:  # whatever a stranger's program raises is its own fault
                if name == "alone":
                    self._add(Severity.CAUTION, 0, "fails on the simplest conversation", str(error))
        prose = [literal for literal in literals if _is_prose(literal.text)]
        before: set[str] = set()
        for name, severity, text in (
            ("with a system message", Severity.CAUTION, "adds a text of its own even beside a system message"),
            ("alone", Severity.NOTE, "gives a system prompt of its own where there is none"),
            ("long", Severity.DANGER, "adds a text of its own in a long conversation"),
        ):
            for literal in prose:
                if literal.text.strip() in outputs.get(name, "") and literal.text not in before:
                    before.add(literal.text)
                    self._add(severity, literal.line, text, literal.text.strip())
        for name, output in outputs.items():
            rest = _not_accounted_for(output, _CONVERSATIONS[name], [literal.text for literal in literals])
            if _is_prose(rest):
                self._add(Severity.DANGER, 0, "puts a text together out of pieces", rest)
                break
        if others := [x for x in prose if x.text not in before and not x.triggers]:
            about = "about tools" if all(x.about_tools for x in others) else "of its own"
            count = "one text" if len(others) == 1 else f"{len(others)} texts"
            self._add(Severity.NOTE, others[0].line, f"has {count} {about} for other cases", others[0].text.strip())


_CONVERSATIONS: dict[str, list[dict[str, str]]] = {
    "with a system message": [
        {"role": "system", "content": "q1zx q2zx"},
        {"role": "user", "content": "q3zx q4zx"},
        {"role": "assistant", "content": "q5zx q6zx"},
        {"role": "user", "content": "q7zx q8zx"},
    ],
    "alone": [{"role": "user", "content": "q3zx q4zx"}],
    "long": [
        {"role": role, "content": f"q{number}zx"} for number in range(30) for role in ("user", "assistant")
    ] + [{"role": "user", "content": "q9zx"}],
}  # fmt: skip


def _is_prose(text: str) -> bool:
    """Whether a text holds a sentence beside markup: four words, or eight characters of a script without spaces."""
    plain = re.sub(r"<[^<>]{0,80}>|\[[^\[\]]{0,40}\]", " ", text)
    words = re.findall(r"[^\W\d_]{2,}", plain)
    unspaced = sum("぀" <= c <= "鿿" or "가" <= c <= "힣" for c in plain)
    return (len(words) >= 4 and sum(map(len, words)) >= 16) or unspaced >= 8


def _not_accounted_for(output: str, messages: list[dict[str, str]], literals: list[str]) -> str:
    """The words of an output that stand neither in a message nor in a text of the template of two words or more."""
    known = [message["content"] for message in messages]
    known += [text for text in literals if re.search(r"\w\W+\w|[<>\[\]|｜]", text)]
    for text in sorted({t.strip() for t in known if t.strip()}, key=len, reverse=True):
        output = output.replace(text, " ")
    roles = {"system", "user", "assistant", "model", "developer"}
    return " ".join(dict.fromkeys(word for word in output.split() if word.strip("<>|:[]#*/").lower() not in roles))


def _around(literal: Any, found: re.Match[str]) -> str:
    return literal.text[max(0, found.start() - 60) : found.end() + 60].strip()
