"""Joint and depth latents of another size."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.depth.enlarging import resize_codes
from ..model.resize import pictures_of_view
from .latents import PATCH, modality_latent
from .native.latent_format import JOINT_CHANNELS, PARTS, SIZE_KEY, UPSCALE_METHODS, resize_latent
from .sockets import CATEGORY

MOST = 8.0  # times the size


class UpscaleLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingUpscaleLatent",
            display_name="Upscale RGB-D Latent",
            category=CATEGORY,
            description="Makes a joint or depth latent larger or smaller, for a second pass at a denoise below 1: RGB "
            "as core's 'Upscale Latent By', depth as the pixels that it is. Core's own nodes tear depth's patches.",
            inputs=[
                io.Latent.Input("latent", tooltip="Joint latent, 384 channels, or depth latent, 256."),
                io.Combo.Input(
                    "upscale_method",
                    options=UPSCALE_METHODS,
                    default="bislerp",
                    tooltip="For RGB, as in core. Depth is bilinear within a surface, never across an edge.",
                ),
                io.Float.Input(
                    "scale_by",
                    default=1.5,
                    min=0.01,
                    max=MOST,
                    step=0.01,
                    tooltip="Times the size; the result is rounded to whole cells of 16 pixels.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that the latent shows, of any size: its colours tell which side of an edge of "
                    "depth a new pixel is on.",
                ),
            ],
            outputs=[io.Latent.Output(id="upscaled", display_name="latent")],
        )

    @classmethod
    def execute(
        cls, latent: dict[str, Any], upscale_method: str, scale_by: float, image: Tensor | None = None
    ) -> io.NodeOutput:
        depth = modality_latent(latent, "depth")
        samples = latent["samples"]
        if not 0 < scale_by <= MOST:
            raise ValueError(f"got scale_by {scale_by}, expected more than 0 and at most {MOST:g}")
        count, (height, width) = len(depth), depth.shape[-2:]
        h, w = (max(1, round(size * scale_by)) for size in (height, width))
        if image is not None:
            image = pictures_of_view(image, count, width * PATCH, height * PATCH)
        resized = resize_codes(depth, h, w, image)
        if samples.shape[1] == JOINT_CHANNELS:
            rgb = resize_latent(samples[:, PARTS["rgb"]].float(), w, h, upscale_method)
            resized = torch.cat([rgb, resized.to(rgb)], dim=1)
        return io.NodeOutput({**latent, "samples": resized, SIZE_KEY: (h, w)})


NODES = [UpscaleLatent]
