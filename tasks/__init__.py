"""What ``run.py`` does: a real ComfyUI to demonstrate, serve, test and measure the pack with. Standard library only."""

import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".run"  # everything these tasks make; deleting the folder starts over
WORKFLOWS = ROOT / "workflows"
INPUTS = WORKFLOWS / "input"  # the pictures that the workflows load
SMALL_MODEL = ROOT / "model" / "demo" / "weights" / "modality_forcing_small.safetensors"  # comes with the pack
HOST_VARIABLE = "MODALITY_FORCING_HOST"  # set by run.py for what it starts: the ComfyUI folder
PYTHON_VARIABLE = "MODALITY_FORCING_PYTHON"  # and the interpreter that runs it


class TaskError(RuntimeError):
    """Something a person has to mend; run.py prints the text without a traceback."""


def end_on_terminate() -> None:
    """Let a SIGTERM end this process as an exception does, so that the servers it started are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def named_path(variable: str) -> Path:
    """The path in an environment variable that run.py sets."""
    if variable not in os.environ:
        raise TaskError(f"{variable} is not set: start this through run.py, or set it (see tasks/__init__.py).")
    return Path(os.environ[variable])


def child_environment(host: Path, python: Path) -> dict[str, str]:
    """The environment variables under which run.py starts a task."""
    return {**os.environ, HOST_VARIABLE: str(host), PYTHON_VARIABLE: str(python), "PYTHONUNBUFFERED": "1"}
