"""Reads a diffusers `Flux2Transformer2DModel` folder into the layout of the FLUX.2 files; diffusers is not needed.

The two layouts hold the same numbers. Diffusers keeps q, k and v of the double blocks apart, and the final layer norm's
scale before its shift.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..network.checkpoint import CheckpointError
from ..network.config import TransformerConfig
from ..network.diffusers_names import SWAPPED_HALVES, diffusers_keys
from ..network.transformer import ModalityForcingTransformer

WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASS_NAME = "Flux2Transformer2DModel"


def load_diffusers(folder: Path, dtype: torch.dtype = torch.float32, device: Any = "cpu") -> ModalityForcingTransformer:
    """Load a diffusers folder tensor by tensor, in evaluation mode.

    Args:
        folder: holds config.json and the weights, whole or in shards; or a pipeline's folder with `transformer/`.

    Raises:
        CheckpointError: names the folder, and what is missing, left over or different.
        ValueError: `dtype` is float16.
    """
    if dtype == torch.float16:
        raise ValueError("got dtype float16, in which this model overflows to NaN; use bfloat16 or float32")
    config, folder = read_config(folder), _inner(folder)
    with torch.device("meta"):
        module = ModalityForcingTransformer(config, dtype=dtype)
    wanted = module.state_dict()
    sources = {key: diffusers_keys(key) for key in wanted}
    with ExitStack() as stack:
        files = {name: stack.enter_context(_open(folder / name)) for name in _weight_files(folder)}
        place = {key: file for file in files.values() for key in file.keys()}  # noqa: SIM118, no dict
        needed = {key for keys in sources.values() for key in keys}
        _check(folder, {"missing": needed - set(place), "unexpected": set(place) - needed})
        state = {}
        for key, keys in sources.items():
            tensor = torch.cat([place[source].get_tensor(source) for source in keys])
            if tensor.shape != wanted[key].shape:
                raise CheckpointError(
                    f"{folder}: {' + '.join(keys)} have shape {tuple(tensor.shape)}; config.json describes "
                    f"{tuple(wanted[key].shape)}. The weights belong to another model: get the folder again."
                )
            tensor = torch.cat(tensor.chunk(2)[::-1]) if key == SWAPPED_HALVES else tensor
            state[key] = tensor.to(device, dtype)
    module.load_state_dict(state, assign=True)
    return module.eval()


def _inner(folder: Path) -> Path:
    """The transformer's folder, also inside a pipeline's."""
    inside = folder / "transformer"
    return inside if (inside / "config.json").is_file() else folder


def read_config(folder: Path) -> TransformerConfig:
    """The sizes that a diffusers folder's config.json describes.

    Raises:
        CheckpointError: there is none, or it describes another model.
    """
    path = _inner(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json: expected a diffusers folder of a {CLASS_NAME}")
    settings = json.loads(path.read_text(encoding="utf-8"))
    name = settings.get("_class_name")
    if name != CLASS_NAME:
        raise CheckpointError(f"{path} describes a {name}; expected a {CLASS_NAME}")
    try:
        heads, head = settings["num_attention_heads"], settings["attention_head_dim"]
        config = TransformerConfig(
            hidden_size=heads * head,
            num_heads=heads,
            double_blocks=settings["num_layers"],
            single_blocks=settings["num_single_layers"],
            decoder_blocks=0,
            mlp_size=int(heads * head * settings.get("mlp_ratio", 3.0)),
            text_width=settings["joint_attention_dim"],
            rgb_channels=settings["in_channels"],
            depth_channels=0,
            cross_stream=False,
            rope_theta=settings.get("rope_theta", 2000),
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error.args[0]}; get the folder again") from error
    fixed = {
        "patch_size": 1,
        "out_channels": settings["in_channels"],
        "axes_dims_rope": [head // 4] * 4,
        "eps": 1e-6,
        "guidance_embeds": False,
    }
    for setting, value in fixed.items():
        found = settings.get(setting)
        if found not in (None, value):
            raise CheckpointError(
                f"{path}: {setting} is {found}; this network knows only {value}. FLUX.2-klein models have that "
                "(the dev model, with its guidance embedding, does not fit)."
            )
    return config


def _weight_files(folder: Path) -> list[str]:
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [WEIGHTS]


def _open(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file; the folder is incomplete, or its weights are pickles")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({error}). Get it again.") from error


def _check(folder: Path, problems: dict[str, set[str]]) -> None:
    found = [f"{len(keys)} {name}: {', '.join(sorted(keys)[:5])}" for name, keys in problems.items() if keys]
    if found:
        raise CheckpointError(f"{folder} does not hold the {CLASS_NAME} of its config.json ({'; '.join(found)})")
