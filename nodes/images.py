"""Bringing pictures to a size that the model takes."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.resize import centre_crop, checked_images, checked_masks, cropped_size, fitted_size, resize_images
from .sockets import CATEGORY

METHODS = ["resize", "crop"]


class FitImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingFitImage",
            display_name="Fit Image to Model",
            category=CATEGORY,
            description="Brings an image, and a mask with it, to a size that the model takes: multiples of 16.",
            inputs=[
                io.Image.Input("image"),
                io.Int.Input(
                    "max_side",
                    default=512,
                    min=16,
                    max=16384,
                    step=16,
                    tooltip="Longest side in pixels; larger images are shrunk, smaller ones kept. Trained up to 512.",
                ),
                io.Combo.Input(
                    "method",
                    options=METHODS,
                    default="resize",
                    tooltip="resize: the whole picture, each side to its nearest multiple of 16 (at most 8 pixels of "
                    "stretch). crop: no stretch, the margin beyond a multiple of 16 is cut off around the centre.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Brought to the same size by the same rule."),
            ],
            outputs=[
                io.Image.Output(id="fitted", display_name="image"),
                io.Mask.Output(id="fitted_mask", display_name="mask", tooltip="All white where no mask is connected."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, max_side: int, method: str, mask: Tensor | None = None) -> io.NodeOutput:
        image = checked_images(image)[..., :3]
        height, width = image.shape[1:3]
        mask = torch.ones(image.shape[:3]) if mask is None else checked_masks(mask)
        if mask.shape[-2:] != (height, width):
            raise ValueError(
                f"got an image of {width} x {height} pixels and a mask of {mask.shape[-1]} x {mask.shape[-2]}; "
                "expected the same size"
            )
        size = (fitted_size if method == "resize" else cropped_size)(width, height, max_side)
        planes = [image, mask[..., None]]
        if method == "crop":
            planes = [centre_crop(plane, *size) for plane in planes]
        fitted, fitted_mask = (resize_images(plane, *size) for plane in planes)
        return io.NodeOutput(fitted, fitted_mask[..., 0])


NODES = [FitImage]
