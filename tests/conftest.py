"""Where the real test models are; tests that need one are skipped with a reason when it is not there."""

import os
from pathlib import Path

import pytest

SMOLLM = "smollm2-135m-q4_1.gguf"
QWEN = "qwen2.5-coder-0.5b-q4_k_m.gguf"


def model_path(name: str) -> Path:
    folder = os.environ.get("FREEHOLD_TEST_MODELS") or Path.home() / ".cache" / "freehold-test-models"
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{name} is not in {path.parent}: fetch it with get_models.py or set FREEHOLD_TEST_MODELS")
    return path


@pytest.fixture(scope="session")
def smollm() -> Path:
    return model_path(SMOLLM)


@pytest.fixture(scope="session")
def qwen() -> Path:
    return model_path(QWEN)


@pytest.fixture(scope="session", params=[SMOLLM, QWEN])
def real_model(request) -> Path:
    return model_path(request.param)


def shared_path(name: str) -> Path:
    """A file or folder of the reference data that lies beside the repository."""
    path = Path(__file__).parents[2] / "shared" / name
    if not path.exists():
        pytest.skip(f"{path}: the reference data is not beside the repository")
    return path
