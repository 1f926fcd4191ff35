"""A chat template held against the one that its lab publishes, where the catalogue knows that one's hash."""

import hashlib
from dataclasses import dataclass
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.trust.finding import Finding, Severity, Topic
from freehold.inspection.trust.template import TemplateSource
from freehold.store.catalogue import CATALOGUE, CatalogueEntry


@dataclass(frozen=True)
class Comparison:
    """`entry`: the catalogue's, when the model is one of its models; `same`: whether the template is that one's."""

    template: TemplateSource
    sha256: str
    entry: CatalogueEntry | None

    @property
    def same(self) -> bool:
        return self.entry is not None and self.entry.template_sha256 == self.sha256

    @property
    def sentence(self) -> str:
        if self.same and self.entry:
            return f"the one that the catalogue has for {self.entry.name} (sha256 {self.sha256[:12]}…)"
        return f"sha256 {self.sha256[:12]}…, which the catalogue does not know"

    @property
    def finding(self) -> Finding | None:
        if self.entry is None or self.same:
            return None
        text = f"is another chat template than the catalogue has for {self.entry.name}"
        return Finding(Topic.TEMPLATE, Severity.CAUTION, self.template.file, text, self.template.field)

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.template.file,
            "field": self.template.field,
            "sha256": self.sha256,
            "catalogue": self.entry.name if self.entry else None,
            "same_as_catalogue": self.same if self.entry else None,
        }


def compare_with_the_labs(artefacts: Artefacts, template: TemplateSource) -> Comparison:
    """The model is taken for a catalogue's by the name that its file carries, or by the file's own."""
    sha256 = hashlib.sha256(template.source.encode("utf-8", "surrogatepass")).hexdigest()
    gguf = artefacts.gguf
    names = {artefacts.path.stem.lower(), f"{gguf.get('general.basename')}-{gguf.get('general.size_label')}".lower()}
    entries = [entry for entry in CATALOGUE if entry.template_sha256 and entry.name in names]
    return Comparison(template, sha256, entries[0] if entries else None)
