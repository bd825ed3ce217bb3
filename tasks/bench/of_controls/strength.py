"""Strength: how far a partly given modality decides the other one, over the dial and over the tilt behind it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ....model.depth.codec import encode
from ....model.diffusion.levels import add_noise, depth_velocity, strength_to_log2_alpha
from ....model.diffusion.schedule import base_levels, tilt
from .small import MAX_CODE, Row, Small, abs_rel, depth_of

COUNT, FIRST, STEPS, CFG, ESTIMATE_STEPS = 24, 5000, 20, 3.0, 4
TILTS = (2.0, 0.0, -2.0)
STRENGTHS = (0.25, 0.5, 0.75)


def rows(small: Small) -> Iterator[Row]:
    """Error of what is made against what is given: depth estimated from the made picture, or the made depth."""
    scenes = small.scenes(COUNT, FIRST)
    codes = encode(scenes.depth, scenes.valid)
    codes = codes.where(~codes.isnan(), codes.nanmean())
    rgb = small.vae.encode(scenes.rgb)
    texts = small.words.encode(scenes.captions), small.words.encode([""]).expand(COUNT, -1, -1)

    def effect(modality: str, level: float | None) -> float:
        """`level`: log2_alpha of the given modality, infinite for clean, None for not given."""
        if modality == "depth":
            made = _sample(small, codes, texts, "depth", level)
            estimate = small.estimator(ESTIMATE_STEPS)
            picture = small.vae.decode(made).movedim(1, -1).clamp(0, 1)
            return abs_rel(depth_of(estimate(picture, estimate.noise(COUNT, small.side, small.side))), scenes)
        return abs_rel(depth_of(_sample(small, rgb, texts, "rgb", level).clamp(0.01, MAX_CODE)), scenes)

    for modality in ("depth", "rgb"):
        clean, absent = effect(modality, float("-inf")), effect(modality, None)
        yield Row("strength", f"{modality} given clean / not given", f"error {clean:.1f} % / {absent:.1f} %")
        settings = [(f"log2_alpha {a:g}", a) for a in TILTS]
        settings += [(f"strength {s:g}", float(strength_to_log2_alpha(torch.tensor(s), modality))) for s in STRENGTHS]
        for name, log2_alpha in settings:
            error = effect(modality, log2_alpha)
            share = (absent - error) / (absent - clean)
            yield Row("strength", f"{modality}, {name}", f"error {error:.1f} %, effect {share:.2f}")


@torch.inference_mode()
def _sample(small: Small, given: Tensor, texts: tuple[Tensor, Tensor], modality: str, log2_alpha: float | None):
    """Euler on the other modality, guided where it is the picture; the other modality's clean latent."""
    noise = torch.randn(COUNT, 384, *given.shape[-2:], generator=torch.Generator().manual_seed(0))
    rgb, depth = noise.split([128, 256], dim=1)
    eps = rgb if modality == "rgb" else depth
    t = base_levels(STEPS)
    for now, after in zip(t[:-1], t[1:], strict=True):
        level = torch.full((), 1.0 if log2_alpha is None else 0.0)
        if log2_alpha is not None and log2_alpha > float("-inf"):
            level = tilt(now, log2_alpha)
        seen = add_noise(given, eps, level[None])
        pair = (seen, depth) if modality == "rgb" else (rgb, seen)
        levels = [x.expand(COUNT) for x in ((level, now) if modality == "rgb" else (now, level))]
        heads = [small.module(*pair, text, *levels) for text in texts]
        if modality == "rgb":
            depth = depth + (after - now) * depth_velocity(depth, heads[0][1], levels[1])
        else:
            (c, _), (u, _) = heads
            rgb = rgb + (after - now) * (u + CFG * (c - u))
    return depth if modality == "rgb" else rgb
