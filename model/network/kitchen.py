"""ComfyUI's own arithmetic for quantised weights, from the package comfy-kitchen (its eager backend runs on any CPU).

The one module that imports it; whoever imports this one says what needs it.
"""

from typing import Any

import torch
from comfy_kitchen import tensor as layouts
from torch import Tensor

CLASSES = {
    "int8_tensorwise": layouts.TensorWiseINT8Layout,
    "nvfp4": layouts.TensorCoreNVFP4Layout,
    "mxfp8": layouts.TensorCoreMXFP8Layout,
    "convrot_w4a4": layouts.TensorCoreConvRotW4A4Layout,
    "asym_w4a8_int8": layouts.AsymW4A8Int8Layout,
}
# Names of the scales in files -> of a layout's parameters, where they differ from `weight_x` -> `x`.
FIELDS = {
    "nvfp4": {"weight_scale": "block_scale", "weight_scale_2": "scale"},
    "asym_w4a8_int8": {"weight_s_rel": "scale"},
}
# Scales that files hold as plain bytes.
AS_BYTES = {"mxfp8": torch.float8_e8m0fnu, "nvfp4": torch.float8_e4m3fn, "asym_w4a8_int8": torch.float8_e4m3fn}


def stored(weight: Tensor, note: dict[str, Any]) -> dict[str, Tensor]:
    """A weight (N,K) in the format that the note names: "weight" and its scales, by their names in files."""
    name = note["format"]
    settings = {key: value for key, value in note.items() if key in ("convrot", "convrot_groupsize", "group_size")}
    if name == "int8_tensorwise":
        settings["per_channel"] = True
    data, parameters = CLASSES[name].quantize(weight, **settings)
    parts = {f"weight{end}": part for end, part in CLASSES[name].state_dict_tensors(data, parameters).items()}
    # Exponents go as plain bytes, which every reader of safetensors knows.
    return {key: part.view(torch.uint8) if part.dtype == torch.float8_e8m0fnu else part for key, part in parts.items()}


def multiplied_out(weight: Tensor, scales: dict[str, Tensor], note: dict[str, Any], shape: tuple[int, int]) -> Tensor:
    """The float32 weight (N,K) = `shape` of stored data and its scales."""
    name, parameters = note["format"], {}
    for key, scale in scales.items():
        if key in ("input_scale", "pre_quant_scale"):
            continue
        field = FIELDS.get(name, {}).get(key, key.removeprefix("weight_"))
        parameters[field] = scale.view(AS_BYTES[name]) if scale.dtype == torch.uint8 else scale
    settings = {**note.get("params", {}), **note}
    parameters.update((key, settings[key]) for key in ("convrot", "convrot_groupsize", "group_size") if key in settings)
    made = CLASSES[name].Params(**parameters, orig_dtype=torch.float32, orig_shape=tuple(shape))
    return CLASSES[name].dequantize(weight, made)[: shape[0], : shape[1]].float()
