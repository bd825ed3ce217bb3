"""A real ComfyUI for the tests of this folder; ``run.py test`` says which (by hand: see tasks/__init__.py)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from modality_forcing.tasks.server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests, with folders of its own: files may be put under ``server.models``."""
    base: Path = tmp_path_factory.mktemp("comfyui")
    with Server(base) as running:
        running.check_pack()
        yield running


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict:
    """Every node class of the server."""
    return server.object_info()
