"""Servers that the tests share: real processes over real models."""

import pytest
from server_process import Server


@pytest.fixture(scope="session")
def server(smollm):
    with Server(smollm) as running:
        yield running


@pytest.fixture(scope="session")
def tool_server(qwen):
    """Over a model whose template knows tools."""
    with Server(qwen, "--context", 4096) as running:
        yield running
