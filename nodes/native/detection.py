"""ComfyUI's detection of the model, by the tensor that no FLUX.2 file has."""

from typing import Any

import comfy.model_management
import comfy.quant_ops
import comfy.supported_models
import comfy.supported_models_base
import torch
from torch import Tensor

from ...model.diffusion.schedule import DEFAULT_MU
from ...model.network import quantised
from ...model.network.checkpoint import (
    TYPE_NAMES,
    CheckpointError,
    check_entries,
    check_finite,
    check_shapes,
    expected_shapes,
)
from ...model.network.config import TransformerConfig
from ...model.network.quantised import NOTE, Entry, Layers
from .latent_format import JointLatent
from .model import ModalityForcingModel


class ModalityForcingConfig(comfy.supported_models_base.BASE):
    """Registers the model with ComfyUI's detection by the tensor that no FLUX.2 file has."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}
    sampling_settings = {"shift": DEFAULT_MU}
    supported_inference_dtypes = [torch.bfloat16, torch.float32]
    latent_format = JointLatent

    @classmethod
    def matches(cls, unet_config, state_dict=None, unet_key_prefix=""):
        return state_dict is not None and f"{unet_key_prefix}depth_in.weight" in state_dict

    def get_model(self, state_dict, prefix="", device=None):
        for dtype in (self.unet_config.get("dtype"), self.manual_cast_dtype):
            if dtype == torch.float16:
                raise ValueError(
                    "got float16 as the model's type, in which Modality Forcing overflows to NaN. "
                    "Use bf16, fp32 or fp8, and start ComfyUI without --fp16-unet."
                )
        tensors = {k.removeprefix(prefix): state_dict.pop(k) for k in list(state_dict) if k.startswith(prefix)}
        if self.custom_operations is None:
            config, tensors = self._checked(tensors)
        else:  # of another loader (GGUF), whose types and numbers are its own
            config = check_shapes({key: tuple(tensor.shape) for key, tensor in tensors.items()}, "The checkpoint")
        state_dict.update({prefix + key: tensor for key, tensor in tensors.items()})
        # As FLUX, with image and depth tokens instead of image tokens alone.
        self.memory_usage_factor = 2 * 3.1 * 4 * config.hidden_size / 2604
        self.unet_config = {
            "transformer": config,
            "dtype": self.unet_config.get("dtype"),
            # Core reads these to map diffusers' LoRA names.
            "hidden_size": config.hidden_size,
            "model_channels": config.hidden_size,  # FreeU reads it, and ends in our notice instead of a KeyError
            "depth": config.double_blocks,
            "depth_single_blocks": config.single_blocks,
        }
        return ModalityForcingModel(self, device=device)

    def _checked(self, tensors: dict[str, Tensor]) -> tuple[TransformerConfig, dict[str, Tensor]]:
        """The network, and the weights as this host's layers read them, whoever loaded the file."""
        entries = {k: Entry(tuple(v.shape), TYPE_NAMES.get(v.dtype, str(v.dtype))) for k, v in tensors.items()}
        notes = dict(vars(self).get("layer_quant_config") or {})  # ComfyUI 0.3 hands on what metadata say
        try:
            for key in [key for key in tensors if key.endswith(f".{NOTE}")]:
                notes[key.removesuffix(f".{NOTE}")] = quantised.note_of_tensor(key, tensors[key])
            config, layers = check_entries(entries, notes, "The checkpoint")
            tensors = quantised.renamed({key: check_finite(key, tensor) for key, tensor in tensors.items()})
            for layer in [layer for layer in layers if layer.startswith("depth_final_layer.")]:
                # The depth head is float32 in memory: where a file quantised it, it is multiplied out.
                beside = {key: tensors.pop(key) for key in list(tensors) if quantised.layer_of(key) == layer}
                scales = {key.removeprefix(f"{layer}."): scale for key, scale in beside.items()}
                shape = expected_shapes(config)[f"{layer}.weight"]
                tensors[f"{layer}.weight"] = quantised.dequantised(
                    tensors[f"{layer}.weight"], scales, layers.pop(layer), shape
                )
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"The checkpoint: {error}.") from error
        self._adopt(tensors, layers)
        return config, tensors

    def _adopt(self, tensors: dict[str, Tensor], layers: Layers) -> None:
        """Tell ComfyUI which layers are quantised, in the way of its version."""
        if not layers:
            return
        known = comfy.quant_ops.QUANT_ALGOS
        unknown = sorted({note["format"] for note in layers.values()} - set(known))
        if unknown:
            raise CheckpointError(
                f"The checkpoint holds layers quantised as {', '.join(unknown)}; this ComfyUI runs {', '.join(known)}. "
                "Update ComfyUI (0.33 runs all formats that 'run.py quantise' writes), or use a bf16 or fp8 file."
            )
        if hasattr(comfy.supported_models_base.BASE, "layer_quant_config"):
            self.layer_quant_config, self.scaled_fp8 = layers, None
        else:
            self.quant_config = {"mixed_ops": True}
            tensors.update({f"{layer}.{NOTE}": quantised.as_tensor(note) for layer, note in layers.items()})
        device = comfy.model_management.get_torch_device()
        self.manual_cast_dtype = comfy.model_management.unet_manual_cast(None, device, self.supported_inference_dtypes)


def register() -> None:
    """Add the model to those that ComfyUI detects. Safe to call again."""
    models = comfy.supported_models.models
    models[:] = [ModalityForcingConfig, *(m for m in models if m.__name__ != ModalityForcingConfig.__name__)]
