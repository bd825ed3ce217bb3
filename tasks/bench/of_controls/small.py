"""The bundled model as the parts use it, and the measures that they share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from ....model.demo import CODEC_FILE, WORDS_FILE
from ....model.demo.image_codec import ImageCodec
from ....model.demo.text import TextEncoder
from ....model.depth.alignment import evaluate
from ....model.depth.codec import expand, unpatchify
from ....model.diffusion.levels import add_noise, depth_velocity
from ....model.diffusion.schedule import base_levels
from ....model.network.checkpoint import load_transformer
from ....model.network.config import DEPTH_CHANNELS, DEPTH_PATCH
from ....model.scenes import SceneBatch
from ... import SMALL_MODEL
from ...small_model.held_out import MAX_CODE, held_out
from ...workflows.settings import SIDE

Hook = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    control: str
    setting: str
    figures: str


@dataclass(frozen=True)
class Small:
    """The bundled model's parts; side: pixels that it was trained at."""

    module: nn.Module
    vae: ImageCodec
    words: TextEncoder
    side: int

    @classmethod
    def load(cls) -> "Small":
        folder = SMALL_MODEL.parent
        words = TextEncoder.load(folder / WORDS_FILE)
        return cls(load_transformer(SMALL_MODEL), ImageCodec.load(folder / CODEC_FILE), words, SIDE)

    def scenes(self, count: int, first: int, side: int = 0) -> SceneBatch:
        """Held-out scenes of the kinds that the model was trained on."""
        return held_out(count, first, side or self.side)

    def estimator(self, steps: int, seed: int = 0, hook: Hook | None = None, least: float = 0.0) -> "Estimate":
        return Estimate(self, steps, seed, hook, least=least)


@dataclass
class Estimate:
    """A `model.depth.estimate.Estimator`: Euler steps on the image, given at its noise level `least`.

    hook: (clean codes, level) -> codes.
    """

    small: Small
    steps: int
    seed: int
    hook: Hook | None = None
    calls: int = 0  # pictures estimated so far
    least: float = 0.0

    def noise(self, count: int, height: int, width: int) -> Tensor:
        shape = (count, DEPTH_CHANNELS, height // DEPTH_PATCH, width // DEPTH_PATCH)
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))

    @torch.inference_mode()
    def __call__(self, pictures: Tensor, noise: Tensor, start: Tensor | None = None, denoise: float = 1.0) -> Tensor:
        rgb = self.small.vae.encode(pictures.movedim(-1, 1))
        count, given = len(rgb), torch.full((len(rgb),), self.least)
        if self.least:
            eps = torch.randn(rgb.shape, generator=torch.Generator().manual_seed(self.seed + 1))
            rgb = add_noise(rgb, eps, given)
        self.calls += count
        empty = self.small.words.encode([""]).expand(count, -1, -1)
        t = base_levels(self.steps)[-(max(1, round(self.steps * denoise)) + 1) :]
        x = noise if start is None else add_noise(start, noise, t[0])
        for now, after in zip(t[:-1], t[1:], strict=True):
            level = now.expand(count)
            clean = self.small.module(rgb, x, empty, given, level, wanted=("depth",))[1]
            if self.hook:
                clean = self.hook(clean, float(now))
            x = x + (after - now) * depth_velocity(x, clean, level)
        return x.clamp(0.01, MAX_CODE)


def depth_of(codes: Tensor) -> Tensor:
    """(B,H,W) of codes within the cap."""
    return expand(unpatchify(codes))


def abs_rel(depth: Tensor, scenes: SceneBatch) -> float:
    """Percent, each map under its own scale and shift."""
    return 100 * float(evaluate(depth, scenes.depth, depth.isfinite(), scenes.valid).abs_rel.mean())


def metric_error(depth: Tensor, truth: Tensor, valid: Tensor) -> float:
    """Percent, as it is; the mean over maps of the mean over valid pixels that have depth."""
    off = torch.where(valid & depth.isfinite(), (depth - truth).abs() / truth, torch.nan)
    return 100 * float(off.flatten(1).nanmean(1).nanmean())


def blocks(depth: Tensor) -> float:
    """Mean step of log depth across borders of 16-pixel patches over the mean step elsewhere; 1 is no grid."""
    log = depth.log()
    steps = [log.diff(dim=2), log.diff(dim=1).transpose(1, 2)]
    at = [step[:, :, DEPTH_PATCH - 1 :: DEPTH_PATCH].abs().nanmean() for step in steps]
    inside = [step[:, :, _inside(step.shape[2])].abs().nanmean() for step in steps]
    return float((at[0] + at[1]) / (inside[0] + inside[1]))


@cache
def _inside(length: int) -> Tensor:
    return (torch.arange(length) + 1) % DEPTH_PATCH != 0
