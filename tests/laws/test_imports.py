"""Imports point one way: cli -> serve, inspection -> api -> engine -> models, executors -> ops (CONVENTIONS, Imports).

Imports inside functions and under TYPE_CHECKING count.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import freehold

ROOT = Path(freehold.__file__).parent
ALL = {"errors", "files", "_native", "__version__"}  # what anybody may import
BESIDE = {"weights", "text", "store"}
ENGINE = {"engine", "models", "executors", "ops", "streams", "embeddings"}
# Part of the house -> what stands to its right. What is not named here, such as `api` and `loading`, joins parts.
MAY_IMPORT = {
    "cli": {"serve", "inspection", "convert", "api", "loading"} | ENGINE | BESIDE,
    "serve": {"api", "loading"} | ENGINE | BESIDE,
    "inspection": {"api", "loading"} | ENGINE | BESIDE,
    "engine": {"models", "executors", "ops"},
    "models": {"ops"},
    "executors": {"models", "ops"},  # of models: how parameters are named, not what a model is
    "ops": set(),
    "weights": set(),
    "text": set(),
    "store": set(),
}


def imported(path: Path) -> Iterator[str]:
    """Parts of freehold that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("freehold."))


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_point_one_way(part):
    files = [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").exists() else sorted((ROOT / part).rglob("*.py"))
    assert files
    allowed = MAY_IMPORT[part] | ALL | {part}
    wrong = {(str(path.relative_to(ROOT)), name) for path in files for name in imported(path) if name not in allowed}
    assert wrong == set()


def test_an_executor_knows_no_model_and_a_model_no_executor():
    families = {path.stem for path in (ROOT / "models").glob("*.py")} - {"parameters"}
    for path in (ROOT / "executors").rglob("*.py"):
        tree = ast.parse(path.read_text())
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not {module.removeprefix("freehold.models.") for module in modules} & families, path
