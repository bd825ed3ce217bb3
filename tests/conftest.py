"""Makes the repository importable as ``modality_forcing`` whatever its folder is called, and finds ../shared."""

import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# The root folder's own `nodes/` and `model/` must not hide ComfyUI's modules of the same names.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
if "modality_forcing" not in sys.modules:
    package = types.ModuleType("modality_forcing")
    package.__path__ = [str(ROOT)]
    sys.modules["modality_forcing"] = package


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden files; tests that need it are skipped where the checkout has none beside it."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"golden files are not at {folder}")
    return folder
