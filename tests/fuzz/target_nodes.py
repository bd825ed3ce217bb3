"""The nodes that take pictures, depth, geometry or latents, called as ComfyUI calls them: any value on any input.

What is right in one form of its tensors must be the same in any other: a value does not depend on how it is stored, and
an alpha channel is no colour.

Needs COMFYUI_PATH: test_fuzz.py sets it to the host that `run.py test` found.
"""

import copy
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
FILES = [
    *("camera", "conditions", "depth", "depth_files", "ensemble", "images", "latents", "mesh", "metric", "pictures"),
    *("pointcloud", "previews", "scene", "sparse", "splats", "tiles", "upscale", "video", "views"),
]


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
    instance = SimpleNamespace(send_progress_text=_show, last_node_id="1")
    server.PromptServer = SimpleNamespace(instance=instance)
    sys.modules["server"] = server

    modules = [importlib.import_module(f"{pack.__name__}.{name}") for name in FILES]
    # Open3D takes seconds to load and a second for each surface: tests/tiny/test_geometry_open3d.py is about it.
    nodes = [node for module in modules for node in module.NODES if node.__name__ != "PoissonMesh"]
    return {node.define_schema().node_id: node for node in nodes}


NODES = _nodes()


class Patcher:
    """What nodes ask of a MODEL, and the functions that they put on it."""

    load_device = torch.device("cpu")
    model = SimpleNamespace(
        latent_format=None,
        memory_required=lambda shape: 1,
        model_sampling=SimpleNamespace(log2_alpha=1.0, percent_to_sigma=lambda percent: 1.0 - percent),
    )

    def __init__(self) -> None:
        self.functions: list[Any] = []

    def clone(self) -> "Patcher":
        return copy.copy(self)

    def set_model_sampler_post_cfg_function(self, function: Any) -> None:
        self.functions = [*self.functions, function]

    def remove_wrappers_with_key(self, kind: str, key: str) -> None: ...

    def add_wrapper_with_key(self, kind: str, key: str, function: Any) -> None: ...

    def model_size(self) -> int:
        return 0

    loaded_size = model_size


class Grey:
    """A VAE whose latent is the picture's grey, and NOISE and GUIDER that make depth codes of it."""

    seed = 0
    model_patcher = Patcher()

    def __init__(self) -> None:
        self.original_conds = {"positive": [{}]}

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.shape[-1] == 3, "core's VAEs take three channels"
        return _patchify(pictures.float().mean(-1))[:, ::2]

    def generate_noise(self, latent: dict[str, Any]) -> torch.Tensor:
        return torch.zeros_like(latent["samples"])

    def sample(self, noise: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        grey = self.original_conds["positive"][0]["modality_forcing_rgb"].latent
        return torch.cat([grey, 0.3 + grey.repeat_interleave(2, 1)], dim=1)


def _patchify(maps: torch.Tensor) -> torch.Tensor:
    from modality_forcing.model.depth.codec import patchify

    return patchify(maps)


def case(rng: random.Random, folder: Path) -> None:
    import folder_paths

    folder_paths.set_output_directory(str(folder))
    node = NODES[rng.choice(sorted(NODES))]
    node.hidden = SimpleNamespace(unique_id="1", prompt={"1": {"class_type": "x"}}, extra_pnginfo={"workflow": {}})
    packet = good_packet(rng)
    if rng.random() < 0.5:
        packet["pose"] = torch.eye(4).expand(len(packet["depth"]), -1, -1)  # as of a rendered view
    inputs: dict[str, Any] = {}
    wrong = rng.random() < 0.6
    for entry in node.define_schema().inputs:
        if entry.optional and rng.random() < 0.5:
            continue
        good = _good(rng, entry, packet)
        inputs[entry.id] = _wrong(rng, entry, good) if wrong and rng.random() < 0.35 else good
    form = rng.choice(FORMS)
    first = _outcome(node, _changed(inputs, lambda x, name: x.to(form).to(x.dtype) if _real(x) else x))
    other = _outcome(node, _changed(inputs, lambda x, name: _stored(x, name, form)))
    if not isinstance(first, type(other)) or not _same(first, other):
        raise Silent(f"{node.__name__}: {first!r:.150} but of tensors stored otherwise ({form}) {other!r:.150}")
    if isinstance(first, Exception):
        raise first
    for values in first:
        if isinstance(values, torch.Tensor) and values.is_floating_point() and values.isnan().any():
            raise Silent(f"{node.__name__}: an output of shape {tuple(values.shape)} with NaN")


def _outcome(node: type, inputs: dict[str, Any]) -> Any:
    """The outputs, or the error that a user sees."""
    try:
        outputs = list(node.execute(**inputs).args or ())
    except (ValueError, OSError, ImportError) as error:
        return error
    return [_after(output) for output in outputs]


def _after(output: Any) -> Any:
    """What a run does with an output: a MODEL's functions change codes of 2 x 32 x 32 pixels; nobody reads alpha."""
    if isinstance(output, dict) and isinstance(output.get("image"), torch.Tensor):
        return {**output, "image": output["image"][..., :3]}
    if not isinstance(output, Patcher):
        return output
    clean = torch.rand(2, 384, 2, 2, generator=torch.manual_seed(0)) * 1.6 + 0.1
    call = {"denoised": clean, "sigma": torch.tensor([0.5]), "model": Patcher.model}
    return [function(call) for function in output.functions]


FORMS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _real(value: torch.Tensor) -> bool:
    return value.is_floating_point()


def _stored(value: torch.Tensor, name: str, form: torch.dtype) -> torch.Tensor:
    """The same values in another type, with gaps between them, and of a picture with an alpha channel."""
    value = value.to(form) if _real(value) else value
    if name in ("image", "picture") and value.ndim == 4 and value.shape[-1] == 3:
        return torch.cat((value, torch.full_like(value[..., :1], 0.7)), -1)  # the first three have gaps then
    return torch.stack((value, value), -1)[..., 0]


def _changed(value: Any, change: Any, name: str = "") -> Any:
    """A copy with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value, name)
    if isinstance(value, dict):
        return {key: _changed(item, change, str(key)) for key, item in value.items()}
    return copy.copy(value)


def _same(a: Any, b: Any) -> bool:
    """Whether outputs hold the same numbers; texts may name their form, and files are others."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4, equal_nan=True)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if hasattr(a, "__dict__") and not isinstance(a, type | Exception):
        return _same(vars(a), vars(b))
    if isinstance(a, float):
        return _same(torch.tensor(a), torch.tensor(b))
    return True


def _good(rng: random.Random, entry: Any, packet: dict[str, Any]) -> Any:
    if entry.io_type == "COMBO":
        return rng.choice(entry.options) if entry.options else "none.png"
    if entry.io_type in ("INT", "FLOAT", "STRING", "BOOLEAN"):
        return rng.choice((entry.default, "1 1 2\n2 2 3")) if entry.id == "points" else entry.default
    grey = packet["image"][..., :1].expand(-1, -1, -1, 3)
    surface = {"edge_threshold": 0.0, "normals": True}
    position, target = {"x": 0.1, "y": 0.0, "z": 0.0}, {"x": 0, "y": 0, "z": -1}
    makers = {
        "MODEL": Patcher,
        "GUIDER": Grey,
        "NOISE": Grey,
        "VAE": Grey,
        "SAMPLER": object,
        "SIGMAS": lambda: torch.linspace(1, 0, rng.choice((2, 5))),
        "CONDITIONING": lambda: [[torch.zeros(1, 3, 4), {}]],
        "MOGE_GEOMETRY": lambda: packet,
        "DA3_GEOMETRY": lambda: {"depth": packet["depth"], "image": packet["image"], "mode": "mono"},
        "IMAGE": lambda: grey if entry.id == "picture" else packet["image"],
        "MASK": lambda: packet["mask"].float(),
        "LATENT": lambda: {"samples": _latent(rng, entry.id, packet)},
        "LOAD3D_CAMERA": lambda: {"position": position, "target": target, "fov": 50},
        "MODALITY_FORCING_POINT_CLOUD": lambda: NODES["ModalityForcingPointCloud"].execute(packet, **surface).args[0],
        "MESH": lambda: NODES["ModalityForcingMesh"].execute(packet, **surface, far=0.0, stride=1).args[0],
    }
    return makers[entry.io_type]()


def _latent(rng: random.Random, name: str, packet: dict[str, Any]) -> torch.Tensor:
    """Codes of the packet's size, joint or of one modality."""
    batch, height, width = packet["depth"].shape
    channels = rng.choice((384, 128 if name == "rgb" else 256))
    return torch.rand(batch, channels, -(-height // 16), -(-width // 16)) * 1.9 + 0.05


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
