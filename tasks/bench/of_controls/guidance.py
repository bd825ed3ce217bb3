"""Guidance of each modality: how well a joint run's depth fits its picture, over the weights, with what it costs."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ....model.depth.alignment import evaluate
from ....model.diffusion.guidance import guide
from ....model.diffusion.levels import depth_velocity
from ....model.diffusion.schedule import base_levels, tilt
from ....model.network.config import DEPTH_CHANNELS, RGB_CHANNELS
from ....model.network.transformer import MODALITIES
from .small import MAX_CODE, Hook, Row, Small, blocks, depth_of

COUNT, FIRST, STEPS, ESTIMATE_STEPS = 8, 5000, 20, 4


@dataclass(frozen=True)
class Setting:
    """As the inputs of RGB-D Guidance, and depth's tilt."""

    log2_alpha: float
    rgb_cfg: float = 3.0
    depth_cfg: float = 1.0
    follow_depth: float = 1.0
    follow_image: float = 1.0


SETTINGS = (
    *(Setting(5.0, depth_cfg=depth) for depth in (1.0, 2.0, 3.0)),
    *(Setting(tilt) for tilt in (2.0, 0.0, -2.0)),
    *(Setting(0.0, follow_depth=follow) for follow in (0.0, 2.0)),
    *(Setting(0.0, follow_image=follow) for follow in (0.0, 2.0)),
)


def rows(small: Small) -> Iterator[Row]:
    """Error of the made depth against the depth that the model sees in the made picture, and blocks."""
    scenes = small.scenes(COUNT, FIRST)
    texts = small.words.encode(scenes.captions), small.words.encode([""]).expand(COUNT, -1, -1)
    estimate = small.estimator(ESTIMATE_STEPS)
    noise = estimate.noise(COUNT, small.side, small.side)
    for setting in SETTINGS:
        rgb, codes, passes = sample(small, texts, setting)
        picture = small.vae.decode(rgb).movedim(1, -1).clamp(0, 1)
        seen, made = depth_of(estimate(picture, noise)), depth_of(codes.clamp(0.01, MAX_CODE))
        everywhere = torch.ones_like(made, dtype=torch.bool)
        error = 100 * float(evaluate(made, seen, everywhere, everywhere).abs_rel.mean())
        figures = f"disagreement {error:.1f} %, blocks {blocks(made):.2f}, {passes} passes"
        named = ", ".join(f"{key} {value:g}" for key, value in vars(setting).items())
        yield Row("guidance", named, figures)


@torch.inference_mode()
def sample(
    small: Small, texts: tuple[Tensor, Tensor], setting: Setting, hook: Hook | None = None
) -> tuple[Tensor, Tensor, int]:
    """Euler on both clocks; clean RGB and depth latents, and how often the network ran on the batch.

    texts: (B,L,C) of the captions and as many of the empty one. hook: changes the predicted clean depth.
    """
    count, cells = len(texts[0]), small.side // 16
    generator = torch.Generator().manual_seed(0)
    shapes = ((count, channels, cells, cells) for channels in (RGB_CHANNELS, DEPTH_CHANNELS) * 2)
    rgb, depth, no_rgb, no_depth = (torch.randn(shape, generator=generator) for shape in shapes)
    t_rgb = base_levels(STEPS)
    t_depth = tilt(t_rgb.double(), setting.log2_alpha).float()
    passes = 0

    def run(text: Tensor, *state: Tensor, wanted: tuple[str, ...] = MODALITIES) -> tuple[Tensor | None, Tensor | None]:
        nonlocal passes
        passes += 1
        picture, map_, *levels = state
        return small.module(picture, map_, text, *(level.expand(count) for level in levels), wanted=wanted)

    one = torch.ones(())
    cfgs = setting.rgb_cfg, setting.depth_cfg
    guided = tuple(modality for modality, cfg in zip(MODALITIES, cfgs, strict=True) if cfg != 1)
    for i in range(STEPS):
        now = rgb, depth, t_rgb[i], t_depth[i]
        c = run(texts[0], *now)
        u = run(texts[1], *now, wanted=guided) if guided else (None, None)
        alone = [None, None]
        if setting.follow_depth != 1:
            alone[0] = run(texts[0], rgb, no_depth, t_rgb[i], one, wanted=("rgb",))[0]
        if setting.follow_image != 1:
            alone[1] = run(texts[0], no_rgb, depth, one, t_depth[i], wanted=("depth",))[1]
        weights = (setting.rgb_cfg, setting.follow_depth), (setting.depth_cfg, setting.follow_image)
        velocity, clean = (
            guide(c[m], u[m], cfg, base=c[m], separate=alone[m], follow=follow)
            for m, (cfg, follow) in enumerate(weights)
        )
        clean = hook(clean, float(t_depth[i])) if hook else clean
        rgb = rgb + (t_rgb[i + 1] - t_rgb[i]) * velocity
        depth = depth + (t_depth[i + 1] - t_depth[i]) * depth_velocity(depth, clean, t_depth[i].expand(count))
    return rgb, depth, passes
