"""Imports ComfyUI, then the pack with diffusers and open3d broken; prints how long the pack took and what it brought.

Usage: python import_pack.py COMFYUI_FOLDER PACK_FOLDER. Used by a test and by `run.py bench import`.
"""

import importlib.util
import json
import os
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path

BROKEN = ("diffusers", "open3d")


class Broken(MetaPathFinder):
    """Fails as a package does whose compiled part does not load."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BROKEN:
            raise ImportError(f"{name}: DLL load failed (broken on purpose)")
        return None


def main(host: str, pack: str) -> None:
    sys.path[:] = [host, *(p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent)]
    os.chdir(host)
    sys.argv = [sys.argv[0], "--cpu"]
    launch = importlib.util.spec_from_file_location("launch", Path(pack) / "tasks" / "host" / "launch.py")
    module = importlib.util.module_from_spec(launch)
    launch.loader.exec_module(module)
    module.keep_torchvision_importable()
    import comfy.options

    comfy.options.enable_args_parsing()
    import aiohttp.web  # noqa: F401  # ComfyUI's server has it before any pack
    import comfy.sd  # noqa: F401
    import comfy_api.latest  # noqa: F401

    import nodes  # noqa: F401

    before = set(sys.modules)
    sys.meta_path.insert(0, Broken())
    spec = importlib.util.spec_from_file_location(
        "pack_under_test", Path(pack) / "__init__.py", submodule_search_locations=[pack]
    )
    start = time.perf_counter()
    package = importlib.util.module_from_spec(spec)
    sys.modules["pack_under_test"] = package
    spec.loader.exec_module(package)
    seconds = time.perf_counter() - start
    new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
    sys.stdout.write(json.dumps({"seconds": seconds, "nodes": len(package.NODES), "new_modules": new}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
