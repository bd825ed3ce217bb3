"""The joint latent: RGB and depth side by side in the channels, with a live preview of both."""

from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...model.depth.codec import unpatchify
from ...model.network.config import DEPTH_CHANNELS, RGB_CHANNELS

JOINT_CHANNELS = RGB_CHANNELS + DEPTH_CHANNELS
UPSCALE_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]  # of core's LatentUpscale
SIZE_KEY = "modality_forcing_size"  # of a LATENT: rows and columns of cells that it was made with
PARTS = {"rgb": slice(0, RGB_CHANNELS), "depth": slice(RGB_CHANNELS, JOINT_CHANNELS)}  # of the joint channels


class JointLatent(comfy.latent_formats.LatentFormat):
    """RGB and depth side by side in the channels, one 16 x 16 patch per position."""

    latent_channels = JOINT_CHANNELS
    spacial_downscale_ratio = 16

    def __init__(self) -> None:
        flux2 = comfy.latent_formats.Flux2()
        factors = torch.tensor(flux2.latent_rgb_factors)
        bias = torch.tensor(flux2.latent_rgb_factors_bias or [0.0, 0.0, 0.0])[:, None, None]
        reshape = flux2.latent_rgb_factors_reshape
        # (B,128,h,w) -> (B,3,*,*) in [-1, 1]; the loader of a small model puts that model's own codec here.
        self.rgb_preview = lambda x: torch.einsum("bchw,cd->bdhw", reshape(x), factors.to(x)) + bias.to(x)
        # Core's linear previewer multiplies by these factors; the picture is already made by the reshape.
        self.latent_rgb_factors = torch.eye(3).tolist()
        self.latent_rgb_factors_reshape = self.preview

    def preview(self, latent: Tensor) -> Tensor:
        """(B,384,h,w) -> (1,3,8h,16w) in [-1, 1]: RGB on the left, depth on the right, near = white.

        The first of the batch, which is the one that core shows.
        """
        latent = latent[:1]
        rgb = self.rgb_preview(latent[:, PARTS["rgb"]].float())
        depth = torch.nn.functional.avg_pool2d(unpatchify(latent[:, PARTS["depth"]].float()), 2)  # (B,8h,8w)
        # The range is the picture's own, since samplers carry depth divided by alpha.
        low, high = depth.amin((1, 2), keepdim=True), depth.amax((1, 2), keepdim=True)
        depth = 1 - 2 * (depth - low) / (high - low).clamp_min(1e-6)
        rgb = torch.nn.functional.interpolate(rgb, depth.shape[1:], mode="nearest").to(depth)
        return torch.cat([rgb.clamp(-1, 1), depth[:, None].expand(-1, 3, -1, -1)], dim=-1)


def empty_joint(batch: int, h: int, w: int) -> dict[str, Any]:
    """An empty joint LATENT of h x w patches."""
    device = comfy.model_management.intermediate_device()
    return {"samples": torch.zeros(batch, JOINT_CHANNELS, h, w, device=device), SIZE_KEY: (h, w)}


def scale_depth(latent: Tensor, factor: float) -> Tensor:
    """The joint latent (B,384,h,w) with its depth multiplied."""
    if factor == 1:
        return latent
    return torch.cat([latent[:, PARTS["rgb"]], latent[:, PARTS["depth"]] * factor], dim=1)


def resize_latent(latent: Tensor, w: int, h: int, method: str) -> Tensor:
    """A plain latent (B,C,h,w) of another size, as core's LatentUpscale makes it."""
    return comfy.utils.common_upscale(latent, w, h, method, "disabled")
