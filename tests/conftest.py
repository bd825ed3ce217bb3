"""Makes the repository importable as ``modality_forcing`` whatever its folder is called, and finds ../shared."""

import os
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported, and for all that the tests start: their networks are tiny, so that threads would only wait
# for each other, and sums must not be split differently in the processes that are compared.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# The root folder's own `nodes/` and `model/` must not hide ComfyUI's modules of the same names.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
if "modality_forcing" not in sys.modules:
    package = types.ModuleType("modality_forcing")
    package.__path__ = [str(ROOT)]
    sys.modules["modality_forcing"] = package


PURE_LIMIT = "--pure-limit"
_pure_seconds = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the ring of pure tests may take: it is the one that people run while they work."""
    parser.addoption(PURE_LIMIT, type=float, help="processor seconds that tests/pure may take in all")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Add up the processor time of the pure ring, which other work on the machine does not count in."""
    before = time.process_time()
    result = yield
    if item.path.parent.name == "pure":
        item.config.stash[_pure_seconds] = item.config.stash.get(_pure_seconds, 0.0) + time.process_time() - before
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if the pure ring took longer than it may."""
    limit, seconds = session.config.getoption(PURE_LIMIT), session.config.stash.get(_pure_seconds, 0.0)
    if limit is not None and seconds > limit:
        print(f"\nthe pure ring took {seconds:.1f} s of processor time, more than {limit:.0f}")  # noqa: T201
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden files; tests that need it are skipped where the checkout has none beside it."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"golden files are not at {folder}")
    return folder
