"""Licence texts and model folders that the tests of licences share."""

from functools import cache
from pathlib import Path

import pytest

from freehold.inspection.licence import Finding, detect

SHARED = Path(__file__).parents[3] / "shared" / "data" / "licenses"
STANDARD = Path(__file__).parents[2] / "src" / "freehold" / "inspection" / "licence" / "data" / "standard"

MIT = f"MIT License\n\nCopyright (c) 2025 Somebody\n\n{(STANDARD / 'MIT.txt').read_text()}"
APACHE = (STANDARD / "Apache-2.0.txt").read_text()
BSD = f"Copyright 2025 Somebody\n\n{(STANDARD / 'BSD-3-Clause.txt').read_text()}"
OPENMDW = (STANDARD / "OpenMDW-1.0.txt").read_text()


def shared(name: str) -> str:
    """A lab's own text; the test is skipped when the shared data are not here."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path}: the licence texts are not here")
    return path.read_text("utf-8")


@cache
def found(name: str) -> Finding:
    """What a lab's own text is found to be."""
    return detect(shared(name))


def folder(parent: Path, name: str, **files: str) -> Path:
    """A model's folder; `README_md` stands for README.md, `code__LICENSE` for code/LICENSE."""
    path = parent / name
    path.mkdir(parents=True, exist_ok=True)
    for key, text in files.items():
        file = path / key.replace("__", "/").replace("_md", ".md").replace("_json", ".json").replace("_py", ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return path
