"""A real ComfyUI for the tests of this folder; ``run.py test`` says which (by hand: see tasks/__init__.py)."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from modality_forcing.tasks.host.server import Server

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # for graphs.py

import random_case  # noqa: E402
from graphs import Case  # noqa: E402


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests, with folders of its own: files may be put under ``server.models``."""
    base: Path = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(HERE / "support_nodes", base / "custom_nodes" / "support_nodes")
    # Previews are off by default.
    arguments = ("--preview-method", "latent2rgb")
    with Server(base, arguments=arguments) as running:
        running.check_pack()
        yield running


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict:
    """Every node class of the server."""
    return server.object_info()


@pytest.fixture(scope="session")
def random_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of random models with their inputs, and their file names' stems by variant."""
    folder = tmp_path_factory.mktemp("random")
    return folder, {variant: random_case.write(folder, variant) for variant in random_case.SIZES}


@pytest.fixture
def make_case(server: Server, random_files: tuple, tmp_path: Path) -> Callable[[str], Case]:
    """Makes a random model of a variant ("v1" or "v2") known to the server."""
    folder, stems = random_files
    return lambda variant: Case(server, folder, stems[variant], tmp_path)


@pytest.fixture
def make_golden_case(server: Server, golden: Path, tmp_path: Path) -> Callable[[str], Case]:
    """Makes the golden case of a variant ("v1" or "v2") known to the server."""
    return lambda variant: Case(server, golden, f"{variant}_tiny", tmp_path)
