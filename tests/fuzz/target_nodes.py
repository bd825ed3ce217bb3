"""The nodes of geometry and depth files, called as ComfyUI calls them: any value on any input.

Needs COMFYUI_PATH: test_fuzz.py sets it to the host that `run.py test` found.
"""

import importlib
import importlib.util
import os
import random
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hostile import NUMBERS, OBJECTS, Silent, tensor
from target_geometry import good_packet, harmed

ROOT = Path(__file__).resolve().parents[2]
FILES = ("camera", "depth", "depth_files", "images", "mesh", "metric", "pictures", "pointcloud", "views")


def _show(text: str, _node: str) -> None:
    if "<" in text:
        raise Silent(f"shown as HTML by some browsers: {text}")


def _nodes() -> dict[str, type]:
    """Our node classes by id, imported on ComfyUI's CPU."""
    host = os.environ["COMFYUI_PATH"]
    sys.path.insert(0, host)
    sys.argv = [sys.argv[0], "--cpu"]
    spec = importlib.util.spec_from_file_location("launch", ROOT / "tasks" / "host" / "launch.py")
    launch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launch)
    launch.keep_torchvision_importable()
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths  # noqa: F401
    from modality_forcing import nodes as pack

    server = types.ModuleType("server")  # the real one starts a web server's worth of imports
    server.PromptServer = SimpleNamespace(instance=SimpleNamespace(send_progress_text=_show, last_node_id="1"))
    sys.modules["server"] = server

    modules = [importlib.import_module(f"{pack.__name__}.{name}") for name in FILES]
    # Open3D takes seconds to load and a second for each surface: tests/tiny/test_geometry_open3d.py is about it.
    nodes = [node for module in modules for node in module.NODES if node.__name__ != "PoissonMesh"]
    return {node.define_schema().node_id: node for node in nodes}


NODES = _nodes()


def case(rng: random.Random, folder: Path) -> None:
    import folder_paths

    folder_paths.set_output_directory(str(folder))
    node = NODES[rng.choice(sorted(NODES))]
    node.hidden = SimpleNamespace(unique_id="1", prompt={"1": {"class_type": "x"}}, extra_pnginfo={"workflow": {}})
    packet = good_packet(rng)
    inputs: dict[str, Any] = {}
    wrong = rng.random() < 0.6
    for entry in node.define_schema().inputs:
        if entry.optional and rng.random() < 0.5:
            continue
        good = _good(rng, entry, packet)
        inputs[entry.id] = _wrong(rng, entry, good) if wrong and rng.random() < 0.35 else good
    result = node.execute(**inputs)
    for values in result.args or ():
        if isinstance(values, torch.Tensor) and values.is_floating_point() and values.isnan().any():
            raise Silent(f"{node.__name__}: an output of shape {tuple(values.shape)} with NaN")


def _good(rng: random.Random, entry: Any, packet: dict[str, Any]) -> Any:
    if entry.io_type == "COMBO":
        return rng.choice(entry.options) if entry.options else "none.png"
    if entry.io_type in ("INT", "FLOAT", "STRING", "BOOLEAN"):
        return rng.choice((entry.default, "1 1 2\n2 2 3")) if entry.id == "points" else entry.default
    grey = packet["image"][..., :1].expand(-1, -1, -1, 3)
    surface = {"edge_threshold": 0.0, "normals": True}
    position, target = {"x": 0.1, "y": 0.0, "z": 0.0}, {"x": 0, "y": 0, "z": -1}
    makers = {
        "MOGE_GEOMETRY": lambda: packet,
        "DA3_GEOMETRY": lambda: {"depth": packet["depth"], "image": packet["image"], "mode": "mono"},
        "IMAGE": lambda: grey if entry.id == "picture" else packet["image"],
        "MASK": lambda: packet["mask"].float(),
        "LATENT": lambda: {"samples": torch.rand(rng.choice((1, 2)), rng.choice((256, 384)), 1, 2) * 2},
        "LOAD3D_CAMERA": lambda: {"position": position, "target": target, "fov": 50},
        "MODALITY_FORCING_POINT_CLOUD": lambda: NODES["ModalityForcingPointCloud"].execute(packet, **surface).args[0],
        "MESH": lambda: NODES["ModalityForcingMesh"].execute(packet, **surface, far=0.0, stride=1).args[0],
    }
    return makers[entry.io_type]()


def _wrong(rng: random.Random, entry: Any, good: Any) -> Any:
    kind = entry.io_type
    if kind in ("INT", "FLOAT"):
        # ComfyUI checks the widgets' ranges; a link may bring any number of the type.
        value = rng.choice(NUMBERS)
        return value if kind == "FLOAT" else rng.choice((-1, 0, 1, 3))
    if kind == "STRING":
        return rng.choice(("", "../../x", "a" * 300, "1 2", "nan, 1, 2", "0 0 1 7", "<b>", "con", "a/b/c", "\0"))
    if kind == "MOGE_GEOMETRY":
        return harmed(rng, good)
    if isinstance(good, torch.Tensor):
        return tensor(rng, good)
    if kind == "LATENT":
        return {"samples": tensor(rng, good["samples"])} if rng.random() < 0.9 else rng.choice(({}, None, []))
    if kind == "MESH":
        name = rng.choice(("vertices", "faces", "uvs", "texture", "vertex_counts", "face_counts"))
        value = getattr(good, name, None)
        setattr(good, name, tensor(rng, value) if isinstance(value, torch.Tensor) else rng.choice(OBJECTS))
        return good
    if isinstance(good, dict):
        return {key: rng.choice((value, rng.choice(OBJECTS))) for key, value in good.items() if rng.random() < 0.8}
    return good
