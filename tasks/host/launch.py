"""Start ComfyUI's main.py: ``python launch.py HOST [ComfyUI's arguments]``. Runs in the host's interpreter.

Adds what a machine without an accelerator needs and changes nothing of ComfyUI itself.
"""

import runpy
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PROBE = "import torch; a = getattr(torch, 'accelerator', torch.cuda); print(a.is_available())"


def main() -> None:
    host = Path(sys.argv[1])
    arguments = sys.argv[2:]
    cpu_build = version("torch").endswith("+cpu")
    if "--cpu" not in arguments and (cpu_build or not _has_accelerator()):
        arguments.append("--cpu")
    if cpu_build:
        keep_torchvision_importable()
    # This file's own folder must not stand in the path: ComfyUI is what `import server` means from here on.
    sys.path[0] = str(host)
    sys.argv = [str(host / "main.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def keep_torchvision_importable() -> None:
    """Declare the two operators that ``import torchvision`` asks for when its compiled part does not load.

    The torchvision of the package index is built for a CUDA torch; with a CPU build of torch its library stays out and
    the import stops at the first of these operators. ComfyUI needs only the import. Nothing is declared where it works.
    """
    try:
        version("torchvision")
        import torchvision  # noqa: F401
    except PackageNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _has_accelerator() -> bool:
    # In a process of its own: ComfyUI sets up the allocator and the visible devices before torch may be imported.
    return subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True).stdout.strip() == "True"


if __name__ == "__main__":
    main()
