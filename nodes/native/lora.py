"""LoRAs on a model patcher, with a strength for each stream."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.utils

from ...model.network.checkpoint import expected_shapes
from ...model.network.lora import STREAMS, check_sizes, depth_twin, layer_names, names_of, stream_of
from .model import ModalityForcingModel

SHOWN_NAMES = 4


@dataclass(frozen=True)
class LoraReport:
    """What of a LoRA took effect: layers by stream, copies on depth's double blocks, and names that fit nothing."""

    matched: dict[str, int]
    copied: int
    unmatched: list[str]

    def __str__(self) -> str:
        parts = ", ".join(f"{self.matched.get(stream, 0)} {stream}" for stream in STREAMS)
        copied = f", {self.copied} of the image also on depth" if self.copied else ""
        left = f". Without a match: {_some(self.unmatched)}" if self.unmatched else ""
        return f"layers matched: {parts}{copied}{left}"


def apply_lora(patcher: Any, path: str, strengths: dict[str, float], image_on_depth: bool) -> tuple[Any, LoraReport]:
    """A clone of the model with the LoRA, and what matched.

    Args:
        strengths: by stream, see `STREAMS`.
        image_on_depth: apply the image part of the double blocks to depth's as well, with depth's strength.

    Raises:
        ValueError: another model, nothing of the LoRA fits this one, or its sizes do not.
    """
    if not isinstance(patcher.model, ModalityForcingModel):
        raise ValueError(
            f"got a {type(patcher.model).__name__} model; expected a Modality Forcing model. For others use ComfyUI's "
            "'Load LoRA'."
        )
    tensors = comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(path, safe_load=True))
    named = layer_names(tensors)
    targets = _targets(patcher.model, tensors, named)
    unmatched = sorted(named - set(targets))
    patches = comfy.lora.load_lora(tensors, targets, log_missing=False)
    if not patches:
        raise ValueError(
            f"nothing in {Path(path).name} fits this model: it has {len(named)} layers, the first are "
            f"{_some(unmatched)}. Expected a LoRA of FLUX.2 klein 9B, or of this model"
        )
    groups: dict[str, dict] = {stream: {} for stream in STREAMS}
    copies = {}
    for target, patch in patches.items():
        key, *rows = target if isinstance(target, tuple) else (target,)
        groups[stream_of(key)][target] = patch
        twin = depth_twin(key) if image_on_depth else None
        if twin is not None:
            copies[(twin, *rows) if rows else twin] = patch
    result = patcher.clone()
    for stream, group in groups.items():
        result.add_patches(group, strengths[stream])
    result.add_patches(copies, strengths["depth"])
    return result, LoraReport({stream: len(group) for stream, group in groups.items()}, len(copies), unmatched)


def _targets(model: Any, tensors: dict[str, Any], named: set[str]) -> dict[str, Any]:
    """Layer name in files -> model key, or (key, (axis, first row, rows)): core's names and ours."""
    targets = comfy.lora.model_lora_keys_unet(model, {})
    for key, shape in expected_shapes(model.diffusion_model.config).items():
        if len(shape) != 2 or not key.endswith(".weight"):
            continue
        for name, rows in names_of(key, shape):
            if name in named:
                check_sizes(name, tensors, shape, rows)
            model_key = f"diffusion_model.{key}"
            targets[name] = (model_key, (0, rows.start, rows.stop - rows.start)) if rows else model_key
    return targets


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
