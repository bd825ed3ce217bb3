"""``run.py demo [serve]``: run the shipped workflows on a real ComfyUI and show where the results are."""

import importlib
import json
import shutil
import sys
import time
from pathlib import Path

from . import INPUTS, WORK, WORKFLOWS, TaskError, end_on_terminate
from .bench import PACKAGE, import_as_package
from .serve import free_port_from, stay, user_server
from .server import GraphError, Server
from .workflow import to_api

# In the order of the story: both at once, one from the other, then what is built on them.
DEMOS = ("joint", "image_to_depth", "depth_to_image", "joint_then_refine", "depth_for_controlnet")
RESULTS = WORK / "demo"
# The inputs that name a file in models/diffusion_models.
LOADERS = {"UNETLoader": "unet_name", "ModalityForcingLoadModel": "model_name"}
RANDOM_CHECKPOINT = "modality_forcing_random.safetensors"


def run_demos(server: Server) -> list[Path]:
    """Run every demo workflow and copy what it saves into RESULTS; returns the copies."""
    paths = [WORKFLOWS / f"{name}.json" for name in DEMOS]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise TaskError(f"There is no demo workflow in {WORKFLOWS}; expected {', '.join(DEMOS)} (.json).")
    checkpoint = _checkpoint(server)
    info = server.object_info()
    results = []
    for path in paths:
        print(f"{path.stem} ...", end=" ", flush=True)
        started = time.monotonic()
        prompt = to_api(json.loads(path.read_text(encoding="utf-8")), info)
        _fit(prompt, server, checkpoint)
        try:
            outputs = server.run(prompt)
        except GraphError as error:
            print("failed")
            raise TaskError(f"{path.name}: {error}\nThe log is {server.log}") from error
        print(f"{time.monotonic() - started:.1f} s")
        results += _keep(server, outputs, RESULTS / path.stem)
    return results


def _checkpoint(server: Server) -> str:
    """The name of the checkpoint to use: an installed one of ours, else one of random weights that is made here."""
    installed = [name for name in _offered(server) if "modality" in name.lower() and name != RANDOM_CHECKPOINT]
    if installed:
        return installed[0]
    path = server.models / "diffusion_models" / RANDOM_CHECKPOINT
    print(
        "No trained Modality Forcing checkpoint is installed: the workflows run on RANDOM weights, and the results "
        f"are noise.\nFor real ones put the released checkpoint into {path.parent}, under a name with 'modality' in it."
    )
    if not path.is_file():
        import_as_package()
        importlib.import_module(f"{PACKAGE}.model.demo.random_checkpoint").write(path)
    return RANDOM_CHECKPOINT


def _offered(server: Server) -> list[str]:
    return server.get_json("/object_info/UNETLoader")["UNETLoader"]["input"]["required"]["unet_name"][0]


def _fit(prompt: dict, server: Server, checkpoint: str) -> None:
    """Put the checkpoint into the loaders and the workflow's pictures onto the server."""
    for node in prompt.values():
        if node["class_type"] in LOADERS:
            node["inputs"][LOADERS[node["class_type"]]] = checkpoint
        picture = node["inputs"].get("image")
        if isinstance(picture, str) and (INPUTS / picture).is_file():
            node["inputs"]["image"] = server.upload_image(INPUTS / picture)


def _keep(server: Server, outputs: dict, folder: Path) -> list[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kept = []
    for files in (files for output in outputs.values() for files in output.values()):
        for file in files:
            if isinstance(file, dict) and file.get("type") == "output":
                path = folder / file["filename"]
                path.write_bytes(server.view(file["filename"], file.get("subfolder", ""), file["type"]))
                kept.append(path)
    return kept


def main(arguments: list[str]) -> int:
    """Run the demos; with ``serve`` keep the server. Returns the exit status."""
    end_on_terminate()
    serve = arguments == ["serve"]
    try:
        with user_server(free_port_from(8188) if serve else 0) as server:
            server.check_pack()
            results = run_demos(server)
            print("\nResults:", *results, sep="\n  ")
            if serve:
                stay(server)
    except TaskError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
