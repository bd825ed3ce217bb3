"""Makes the repository importable as ``modality_forcing`` whatever its folder is called, and finds ../shared."""

import os
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
_SECONDS = "pure_seconds"  # what a worker reports them as


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the ring of pure tests may take: it is the one that people run while they work."""
    parser.addoption(PURE_LIMIT, type=float, help="processor seconds that tests/pure may take in all")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For ``-n auto``: two workers for the whole run, none for a part of it or where its prints are wanted."""
    whole = config.args == config.getini("testpaths") and not config.option.keyword
    return 2 if whole and config.option.capture != "no" and (os.cpu_count() or 1) > 1 else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes whole files, and one of them the browser ring: two browsers at once would wait for each other."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "browser" if nodeid.startswith("tests/browser/") else nodeid.split("::")[0]

    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Add up the processor time of the pure ring, which other work on the machine does not count in."""
    before = time.process_time()
    result = yield
    if item.path.parent.name == "pure":
        _add_pure_seconds(item.config, time.process_time() - before)
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a worker took; one that broke down has nothing to say."""
    _add_pure_seconds(node.config, getattr(node, "workeroutput", {}).get(_SECONDS, 0.0))


def _add_pure_seconds(config: pytest.Config, seconds: float) -> None:
    config.stash[_pure_seconds] = config.stash.get(_pure_seconds, 0.0) + seconds


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if the pure ring took longer than it may."""
    limit, seconds = session.config.getoption(PURE_LIMIT), session.config.stash.get(_pure_seconds, 0.0)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_SECONDS] = seconds
    elif limit is not None and seconds > limit:
        print(f"\nthe pure ring took {seconds:.1f} s of processor time, more than {limit:.0f}")  # noqa: T201
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden files; tests that need it are skipped where the checkout has none beside it."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"golden files are not at {folder}")
    return folder
