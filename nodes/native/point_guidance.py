"""Guidance of the predicted depth towards measured points, at each step of any sampler."""

from typing import Any

import torch
from torch import Tensor

from ...model.depth.completion import towards_points
from .latent_format import PARTS


def guide_to_points(patcher: Any, points: Tensor, *, strength: float, start: float, end: float, finest: int) -> Any:
    """A clone of the model whose clean depth is moved towards points (1 or B,H,W), NaN where there is none.

    start, end: the part of the run in which it is, 0..1. ValueError while sampling for points of another size.
    """

    def guide(args: dict[str, Any]) -> Tensor:
        clean, sigma = args["denoised"], float(args["sigma"].max())
        sampling = args["model"].model_sampling
        if not sampling.percent_to_sigma(end) < sigma <= sampling.percent_to_sigma(start):
            return clean
        scale = 2.0 ** getattr(sampling, "log2_alpha", 0.0)  # samplers carry depth divided by it
        codes = clean[:, PARTS["depth"]] * scale
        moved = towards_points(codes, _fitting(points, codes), strength, finest)
        return torch.cat([clean[:, PARTS["rgb"]], moved / scale], dim=1)

    patcher = patcher.clone()
    patcher.set_model_sampler_post_cfg_function(guide)
    return patcher


def _fitting(points: Tensor, codes: Tensor) -> Tensor:
    batch, height, width = codes.shape[0], 16 * codes.shape[2], 16 * codes.shape[3]
    if points.shape[1:] != (height, width) or points.shape[0] not in (1, batch):
        raise ValueError(
            f"got points of {points.shape[0]} maps of {points.shape[2]} x {points.shape[1]} pixels for a latent of "
            f"{batch} x {width} x {height}; expected the same size, and 1 map or one for each sample"
        )
    return points.to(codes.device).expand(batch, -1, -1)
