"""Can these files be trusted? What they are, what they would run, whether they are sound, what they say unasked.

Nothing in them is run or unpacked: each is read by its bytes, with caps. What was looked at is said, and so is what
was not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.figures import in_bytes
from freehold.inspection.findings import Evidence, Row, Section, Status
from freehold.inspection.trust.files import Examination
from freehold.inspection.trust.finding import Finding, Severity, Topic
from freehold.inspection.trust.known_templates import Comparison, compare_with_the_labs
from freehold.inspection.trust.template import TemplateSource, find_templates, lint
from freehold.inspection.trust.tensors import Sampled, sample
from freehold.inspection.trust.tokenizer import check_tokenizers
from freehold.store.digest import Progress, sha256_of_files

MAX_ROWS = 8  # of one topic
SIGNATURES = (".sig", ".sigstore", ".sigstore.json")


@dataclass(frozen=True)
class TrustReport:
    """`sha256` by file, of those of which it is known; `kinds`: what each file is by its content."""

    findings: tuple[Finding, ...]
    kinds: dict[str, str]
    sizes: dict[str, int]
    sha256: dict[str, str]
    sampled: Sampled
    templates: tuple[Comparison, ...]
    vocabularies: dict[str, int]  # tokens by file
    signatures: tuple[str, ...]  # files that look like one; none is verified here

    @property
    def worst(self) -> Severity:
        return max((finding.severity for finding in self.findings), default=Severity.NOTE)

    @property
    def verdict(self) -> str:
        gravest = [f for f in self.findings if f.severity is self.worst]
        first = next((f for f in gravest if f.topic is Topic.CODE), gravest[0] if gravest else None)
        if first is None or self.worst is Severity.NOTE:
            return f"nothing dangerous found in {_files(len(self.kinds))}"
        count = len(gravest)
        kind = "danger" if self.worst is Severity.DANGER else "to look at"
        more = f" (and {count - 1} more)" if count > 1 else ""
        return f"{kind}: {first.file} {first.text}{more}"

    def summary(self) -> tuple[Row, ...]:
        status = Status.GOOD if self.worst is Severity.NOTE else _STATUS[self.worst]
        return (Row("Trust", self.verdict, status),)

    def section(self) -> Section:
        rows = [self._files_row()]
        for topic in Topic:
            rows += _rows(topic, [f for f in self.findings if f.topic is topic], self._fine(topic))
        rows.append(self._signature_row())
        notes = (self._sampling_note(), "Freehold runs no code from a model's files and loads no pickle.")
        return Section("Trust", self.verdict, tuple(rows), tuple(note for note in notes if note))

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "worst": self.worst.name.lower(),
            "findings": [finding.to_dict() for finding in self.findings],
            "files": [
                {"name": name, "kind": kind, "bytes": self.sizes[name], "sha256": self.sha256.get(name)}
                for name, kind in self.kinds.items()
            ],
            "templates": [template.to_dict() for template in self.templates],
            "tensors": {
                "sampled": self.sampled.num_tensors,
                "sampled_bytes": self.sampled.num_bytes,
                "total": self.sampled.total_tensors,
                "total_bytes": self.sampled.total_bytes,
            },
            "signatures": list(self.signatures),
        }

    def _files_row(self) -> Row:
        largest_first = sorted(self.sha256, key=lambda name: -self.sizes[name])
        digests = tuple(Evidence(name, f"sha256 {self.sha256[name]}") for name in largest_first)
        hashed = f", sha256 of {len(self.sha256)}" if len(self.sha256) > 1 else ""
        return Row(
            "Files", f"{_files(len(self.kinds))}, {in_bytes(sum(self.sizes.values()))}{hashed}", evidence=digests
        )

    def _fine(self, topic: Topic) -> str | None:
        """What to say of a topic about which nothing was found; None: there was nothing to look at."""
        s = self.sampled
        if topic is Topic.CODE:
            return "no pickle, no executable, no code that asks to be run"
        if topic is Topic.STRUCTURE and s.total_tensors:
            return f"sound: {s.total_tensors:,} tensors, no hole, no overlap"
        if topic is Topic.TEMPLATE and self.templates:
            return "; ".join(dict.fromkeys(template.sentence for template in self.templates))
        if topic is Topic.TOKENIZER and self.vocabularies:
            return f"{', '.join(f'{n:,}' for n in self.vocabularies.values())} tokens, one text each"
        if topic is Topic.TENSORS and s.num_tensors:
            return f"{s.num_tensors:,} of {s.total_tensors:,} sampled, nothing strange"
        return None

    def _sampling_note(self) -> str:
        s = self.sampled
        if not s.total_tensors:
            return ""
        share = f"{s.num_bytes / 1e6:,.1f} of {s.total_bytes / 1e6:,.1f} MB"
        return f"Weights were sampled ({share} in {s.num_tensors:,} of {s.total_tensors:,} tensors), not read whole."

    def _signature_row(self) -> Row:
        if self.signatures:
            value = f"{', '.join(self.signatures)}: not verified here; freehold verify does, with the signer's key"
            return Row("Signature", value, Status.UNKNOWN, tuple(Evidence(name, "file") for name in self.signatures))
        return Row("Signature", "none: nothing here says who made these files", Status.UNKNOWN)


def examine(artefacts: Artefacts, *, hash_files: bool = True, progress: Progress | None = None) -> TrustReport:
    """Examine a model's files. `hash_files=False` leaves out the one part that must read all of them: digests are then
    told of files that were read before and have not changed.
    """
    files = Examination(artefacts)
    files.run()
    templates = find_templates(artefacts, files.gguf)
    findings = files.findings + _lint_each(templates)
    comparisons = tuple(compare_with_the_labs(artefacts, template) for template in templates)
    findings += [finding for comparison in comparisons if (finding := comparison.finding)]
    findings += _versions(templates)
    literals = "\n".join(template.source for template in templates)
    of_tokenizers, vocabularies = check_tokenizers(artefacts, files.gguf, literals)
    findings += of_tokenizers
    sampled = sample(files.weights)
    findings += sampled.findings
    readable = {file.name: file.path for file in artefacts.files if not file.outside}
    return TrustReport(
        findings=tuple(sorted(findings, key=lambda finding: -finding.severity)),
        kinds=files.kinds,
        sizes={file.name: file.num_bytes for file in artefacts.files},
        sha256=sha256_of_files(readable, progress=progress, only_remembered=not hash_files),
        sampled=sampled,
        templates=comparisons,
        vocabularies={vocabulary.file: len(vocabulary.pairs) for vocabulary in vocabularies},
        signatures=tuple(f.name for f in artefacts.files if f.name.endswith(SIGNATURES)),
    )


def _lint_each(templates: Sequence[TemplateSource]) -> list[Finding]:
    """Findings of each text once, however often it stands in the folder."""
    seen: dict[str, TemplateSource] = {}
    for template in templates:
        seen.setdefault(template.source, template)
    return [finding for template in seen.values() for finding in lint(template)]


def _versions(templates: Sequence[TemplateSource]) -> list[Finding]:
    """Readers take a template from different places: where they differ, so does the prompt."""
    whole = [t for t in templates if "'" not in t.field and "chat_template." not in t.field]
    if len({template.source for template in whole}) < 2:
        return []
    others = ", ".join(template.file for template in whole[1:])
    text = f"holds another chat template than {others}"
    return [Finding(Topic.TEMPLATE, Severity.CAUTION, whole[0].file, text, whole[0].field)]


_STATUS = {Severity.DANGER: Status.BAD, Severity.CAUTION: Status.PARTIAL, Severity.NOTE: Status.NEUTRAL}


def _rows(topic: Topic, findings: list[Finding], fine: str | None) -> list[Row]:
    if all(finding.severity is Severity.NOTE for finding in findings) and fine:
        notes = "; ".join(dict.fromkeys(finding.text for finding in findings[:4]))
        return [Row(topic.value, fine + (f"; {notes}" if notes else ""), Status.GOOD, _evidence(findings))]
    rows = [
        Row(topic.value, f"{f.file} {f.text}{f' ({f.place})' if f.place else ''}", _STATUS[f.severity], _evidence([f]))
        for f in findings[:MAX_ROWS]
    ]
    if rest := findings[MAX_ROWS:]:
        rows.append(Row(topic.value, f"and {len(rest)} more", _STATUS[rest[0].severity], _evidence(rest)))
    return rows


def _evidence(findings: Sequence[Finding]) -> tuple[Evidence, ...]:
    return tuple(Evidence(f.file, f.place, f.quote) for f in findings)


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"
