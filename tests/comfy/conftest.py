"""A real ComfyUI for the tests of this folder; ``run.py test`` says which (by hand: see tasks/__init__.py)."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from modality_forcing.tasks.host.server import Server

HERE = Path(__file__).parent
torch.set_num_threads(1)
sys.path.append(str(HERE))  # for graphs.py

from graphs import Case  # noqa: E402


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests, with folders of its own: files may be put under ``server.models``."""
    base: Path = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(HERE / "support_nodes", base / "custom_nodes" / "support_nodes")
    # The networks of the tests are tiny: several threads only wait for each other. Previews are off by default.
    arguments = ("--preview-method", "latent2rgb")
    with Server(base, arguments=arguments, variables={"OMP_NUM_THREADS": "1"}) as running:
        running.check_pack()
        yield running


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict:
    """Every node class of the server."""
    return server.object_info()


@pytest.fixture
def make_case(server: Server, golden: Path, tmp_path: Path) -> Callable[[str], Case]:
    """Makes the golden case of a variant ("v1" or "v2") known to the server."""
    return lambda variant: Case(server, golden, variant, tmp_path)
