"""Loading checkpoints, quantised ones too, as ComfyUI models."""

import json
from typing import Any

import comfy.sd
import comfy.utils
from torch import Tensor

from ...model.network.checkpoint import FILE_MARKER, find_prefix, read_header
from .run_checks import guard

QUANTISATION_METADATA = "_quantization_metadata"


def load_model(path: str, model_options: dict[str, Any] | None = None, disable_dynamic: bool = False):
    """Load a checkpoint as a ComfyUI model patcher.

    Raises:
        CheckpointError: the file does not fit; checked on its header, before any weight is read.
    """
    read_header(path)
    state, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    prefix = find_prefix(state)
    state = {key.removeprefix(prefix): state.pop(key) for key in list(state)}
    state, metadata = _describe_quantisation(state, metadata or {}, prefix)
    delegate = {"disable_dynamic": True} if disable_dynamic else {}  # ComfyUI 0.3 does not know the argument
    patcher = comfy.sd.load_diffusion_model_state_dict(
        state, model_options=model_options or {}, metadata=metadata, **delegate
    )
    patcher.cached_patcher_init = (load_model, (path, model_options))
    return guard(patcher)


def _describe_quantisation(state: dict[str, Tensor], metadata: dict[str, str], prefix: str) -> tuple[dict, dict]:
    """Bring quantised files to the one description, by layer, that all versions of ComfyUI read.

    Files of the older kind mark themselves as a whole, and ComfyUI 0.3 then also puts layers into fp8 that are not: the
    depth head would lose the float32 that it needs.
    """
    if state.pop(FILE_MARKER, None) is not None:
        scales = [key for key in state if key.endswith(".scale_weight")]
        layers = {key.removesuffix(".scale_weight"): {"format": "float8_e4m3fn"} for key in scales}
        for layer in layers:
            state[f"{layer}.weight_scale"] = state.pop(f"{layer}.scale_weight")
            state.pop(f"{layer}.scale_input", None)
    elif QUANTISATION_METADATA in metadata:
        layers = json.loads(metadata[QUANTISATION_METADATA])["layers"]
        layers = {name.removeprefix(prefix): what for name, what in layers.items()}
    else:
        return state, metadata
    return state, {**metadata, QUANTISATION_METADATA: json.dumps({"format_version": "1.0", "layers": layers})}
