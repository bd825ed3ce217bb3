"""Loading checkpoints, quantised ones too, as ComfyUI models."""

from typing import Any

import comfy.sd
import comfy.utils

from ...model.network.checkpoint import CheckpointError, read_header
from ...model.network.quantise import fp8_in_memory
from ...model.network.quantised import METADATA_KEY, as_metadata, renamed
from .run_checks import guard


def load_model(
    path: str,
    model_options: dict[str, Any] | None = None,
    scaled_fp8: str | None = None,
    disable_dynamic: bool = False,
):
    """Load a checkpoint as a ComfyUI model patcher.

    Args:
        scaled_fp8: keep the blocks' weights in fp8 with a scale each, as a file made by `run.py quantise` has them, and
            multiply in "full" precision, or "fast" in fp8 where the device can. None: as in the file.

    Raises:
        CheckpointError: the file does not fit; checked on its header before any weight is read, then on the weights.
    """
    header = read_header(path)
    state, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    # One description for all hosts: of the older kinds, ComfyUI 0.3 would put layers into fp8 that are not.
    state = renamed({key.removeprefix(header.prefix): state.pop(key) for key in list(state)})
    layers = header.layers
    if scaled_fp8 is not None and not layers:
        layers = fp8_in_memory(state, full_precision=scaled_fp8 == "full")
    metadata = {**(metadata or {}), METADATA_KEY: as_metadata(layers)} if layers else metadata
    delegate = {"disable_dynamic": True} if disable_dynamic else {}  # ComfyUI 0.3 does not know the argument
    try:
        patcher = comfy.sd.load_diffusion_model_state_dict(
            state, model_options=model_options or {}, metadata=metadata, **delegate
        )
    except CheckpointError as error:  # found in the weights, where the file's name is not known
        raise CheckpointError(f"{path}: {error}") from error
    patcher.cached_patcher_init = (load_model, (path, model_options, scaled_fp8))
    return guard(patcher)
