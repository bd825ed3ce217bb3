"""ComfyUI's detection of the model, by the tensor that no FLUX.2 file has."""

from typing import Any

import comfy.supported_models
import comfy.supported_models_base
import torch

from ...model.diffusion.schedule import DEFAULT_MU
from ...model.network.checkpoint import check_shapes, dequantised
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
        shapes = {k.removeprefix(prefix): tuple(v.shape) for k, v in state_dict.items() if k.startswith(prefix)}
        config = check_shapes(shapes, "The checkpoint")
        # As FLUX, with image and depth tokens instead of image tokens alone.
        self.memory_usage_factor = 2 * 3.1 * 4 * config.hidden_size / 2604
        self.unet_config = {
            "transformer": config,
            "dtype": self.unet_config.get("dtype"),
            # Core reads these to map diffusers' LoRA names.
            "hidden_size": config.hidden_size,
            "depth": config.double_blocks,
            "depth_single_blocks": config.single_blocks,
        }
        return ModalityForcingModel(self, device=device)

    def process_unet_state_dict(self, state_dict):
        """The depth head is float32 in memory: where a file quantised it, it is multiplied out."""
        return dequantised(state_dict, "depth_final_layer.")


def register() -> None:
    """Add the model to those that ComfyUI detects. Safe to call again."""
    models = comfy.supported_models.models
    models[:] = [ModalityForcingConfig, *(m for m in models if m.__name__ != ModalityForcingConfig.__name__)]
