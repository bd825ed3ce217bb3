"""``run.py demo [serve]``: the three modes on a real ComfyUI with the bundled small model, and where results are."""

import json
import shutil
import sys
import time
from pathlib import Path

from . import INPUTS, SMALL_MODEL, WORK, WORKFLOWS, TaskError, end_on_terminate
from .host.server import GraphError, Server
from .pictures.contact_sheet import Row, write_sheet
from .serve import free_port_from, stay, user_server
from .workflows.convert import to_api
from .workflows.small import CRACKS, EDGE, FAR, GUIDANCE, SIDE, SIDE_VIEW, STEPS

# In the order of the story: both at once, then one from the other.
DEMOS = ("joint", "image_to_depth", "depth_to_image")
RESULTS = WORK / "demo"

SMALL_LOADER = "ModalityForcingLoadSmall"
# What a small model stands in for, and the output that it does so with.
LOADERS = {"ModalityForcingLoadModel": 0, "UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}
SIZES = {"ModalityForcingEmptyLatent": ("width", "height"), "ModalityForcingFitImage": ("max_side",)}


def run_demos(server: Server) -> list[Path]:
    """Run every demo workflow and copy what it saves into RESULTS; returns the copies, the contact sheet first."""
    print(f"The model is {SMALL_MODEL.name}: small, of procedural scenes, to show how the graphs work.", flush=True)
    info = server.object_info()
    shutil.rmtree(RESULTS, ignore_errors=True)
    rows, results = [], []
    for name in DEMOS:
        print(f"{name} ...", end=" ", flush=True)
        started = time.monotonic()
        graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
        prompt = use_small_model(to_api(graph, info), SMALL_MODEL.name)
        resize(prompt, SIDE, STEPS)
        guide(prompt, GUIDANCE)
        if name == "joint":
            add_side_view(prompt)
        given = upload_pictures(prompt, server)
        try:
            outputs = server.run(prompt)
        except GraphError as error:
            print("failed")
            raise TaskError(f"{name}: {error}\nThe log is {server.log}") from error
        kept = _keep(server, outputs, RESULTS / name)
        seconds = time.monotonic() - started
        print(f"{seconds:.1f} s")
        pictures = [*given, *(path for path in kept if path.suffix == ".png")]
        rows.append(Row(f"{name.replace('_', ' ')}   {seconds:.1f} s", pictures, given=len(given)))
        results += kept
    return [write_sheet(RESULTS / "contact_sheet.png", rows), *results]


def use_small_model(prompt: dict, model_name: str) -> dict:
    """The prompt with one Load Small Model in place of its loaders of model, text encoder and image autoencoder."""
    outputs = {key: LOADERS[node["class_type"]] for key, node in prompt.items() if node["class_type"] in LOADERS}
    if not outputs:
        raise ValueError(f"the prompt loads no model by any of {', '.join(LOADERS)}")
    small = str(1 + max(map(int, prompt)))

    def moved(value):
        is_link = isinstance(value, list) and value[0] in outputs
        return [small, outputs[value[0]]] if is_link else value

    result = {
        key: {**node, "inputs": {name: moved(value) for name, value in node["inputs"].items()}}
        for key, node in prompt.items()
        if key not in outputs
    }
    return {**result, small: {"class_type": SMALL_LOADER, "inputs": {"model_name": model_name}}}


def resize(prompt: dict, side: int, steps: int) -> None:
    """Set the prompt's sizes in pixels and its steps."""
    for node in prompt.values():
        node["inputs"].update(dict.fromkeys(SIZES.get(node["class_type"], ()), side))
        if node["class_type"] == "ModalityForcingSchedule":
            node["inputs"]["steps"] = steps


def guide(prompt: dict, cfg: float) -> None:
    """Set the guidance of the prompt's samplers, where there is any."""
    for node in prompt.values():
        if node["inputs"].get("cfg", 1.0) != 1.0:
            node["inputs"]["cfg"] = cfg


def add_side_view(prompt: dict) -> None:
    """Add a picture of the point cloud from the side."""
    cloud = next(key for key, node in prompt.items() if node["class_type"] == "ModalityForcingPointCloud")
    prompt[cloud]["inputs"] |= {"far": FAR, "edge_threshold": EDGE}
    geometry = prompt[cloud]["inputs"]["geometry"]
    view, saved = (str(number + max(map(int, prompt))) for number in (1, 2))
    move = {"right": 0.0, "up": 0.0, "forward": 0.0, "roll_deg": 0.0, **SIDE_VIEW}
    size = {"frames": 1, "width": 0, "height": 0, "fov_x_deg": 0.0, "edge_threshold": 0.0, "cracks": CRACKS}
    inputs = {"geometry": geometry, "point_cloud": [cloud, 0], **move, **size}
    prompt[view] = {"class_type": "ModalityForcingRenderView", "inputs": inputs}
    kept = {"images": [view, 0], "filename_prefix": "modality_forcing/joint_from_the_side"}
    prompt[saved] = {"class_type": "SaveImage", "inputs": kept}


def upload_pictures(prompt: dict, server: Server) -> list[Path]:
    """Put the pack's own example pictures that the prompt loads onto the server; returns their paths."""
    pictures = []
    for node in prompt.values():
        if node["class_type"] == "LoadImage" and (INPUTS / node["inputs"]["image"]).is_file():
            pictures.append(INPUTS / node["inputs"]["image"])
            node["inputs"]["image"] = server.upload_image(pictures[-1])
    return pictures


def _keep(server: Server, outputs: dict, folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    kept = []
    for key in sorted(outputs, key=int):
        for file in [*outputs[key].get("images", []), *outputs[key].get("3d", [])]:
            path = folder / file["filename"]
            path.write_bytes(server.view(file["filename"], file["subfolder"], file["type"]))
            kept.append(path)
    return kept


def main(arguments: list[str]) -> int:
    """Run the demos; with ``serve`` keep the server. Returns the exit status."""
    end_on_terminate()
    serve = arguments == ["serve"]
    started = time.monotonic()
    try:
        with user_server(free_port_from(8188) if serve else 0) as server:
            server.check_pack()
            results = run_demos(server)
            print(f"\nDone in {time.monotonic() - started:.0f} s. Results:", *results, sep="\n  ", flush=True)
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
