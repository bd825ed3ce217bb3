"""Strength, softness and noise level: how far a given modality decides the other one, over their dials."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ....model.depth.codec import encode
from ....model.depth.matching import matched
from ....model.depth.softness import softened
from ....model.diffusion.levels import add_noise, depth_velocity, strength_to_log2_alpha
from ....model.diffusion.schedule import base_levels, tilt
from ....model.geometry.edges import depth_edges
from ....model.scenes import SceneBatch
from .small import MAX_CODE, Row, Small, abs_rel, blocks, depth_of

COUNT, FIRST, STEPS, CFG, ESTIMATE_STEPS = 8, 5000, 20, 3.0, 4
TILTS = (4.0, 2.0, 0.0, -2.0, -5.0)  # from 4 on as not given, to -14 as at -5
STRENGTHS = (0.25, 0.5, 0.75)
SOFTNESSES = (0.25, 0.5, 1.0)
NOISE_LEVELS = (0.02, 0.05, 0.1, 0.2)
DEPTH_NOISE_LEVELS = (0.05, 0.1)
MADE = {"rgb": "depth", "depth": "rgb"}  # by what is given
CLEAN = float("-inf")  # log2_alpha of a modality that is given clean
EDGE, AROUND = 0.15, 5  # what counts as an edge of the given depth, and pixels around it that count too
FINE_PX, COARSE_PX = 4.0, 8.0  # standard deviations: what is finer than the first is detail, than the second no layout


@dataclass
class Case:
    """Held-out scenes as the network takes them. Letters: B scenes."""

    small: Small
    scenes: SceneBatch
    depth: Tensor  # (B,256,h,w)
    rgb: Tensor  # (B,128,h,w)
    texts: tuple[Tensor, Tensor]  # captions and the empty one

    @classmethod
    def make(cls, small: Small, count: int = COUNT, first: int = FIRST) -> "Case":
        scenes = small.scenes(count, first)
        depth = encode(scenes.depth, scenes.valid)
        depth = depth.where(~depth.isnan(), depth.nanmean())
        texts = small.words.encode(scenes.captions), small.words.encode([""]).expand(count, -1, -1)
        return cls(small, scenes, depth, small.vae.encode(scenes.rgb), texts)

    def picture(self, depth: Tensor, log2_alpha: float | None, least: float = 0.0) -> "Picture":
        """Made from depth codes given at a tilt (None: not given), with noise of level `least` at least."""
        made = self._sample(depth, "depth", log2_alpha, least)
        return self.seen(self.small.vae.decode(made).movedim(1, -1).clamp(0, 1))

    def seen(self, picture: Tensor, least: float = 0.0) -> "Picture":
        """What depth the model sees in pictures (B,H,W,3) that are given at noise level `least`."""
        estimate = self.small.estimator(ESTIMATE_STEPS, least=least)
        depth = depth_of(estimate(picture, estimate.noise(len(picture), *picture.shape[1:3])))
        return Picture(picture, depth, abs_rel(depth, self.scenes))

    def depth_error(self, log2_alpha: float | None) -> float:
        """Of depth made for the true picture, given at a tilt; None: not given. Percent."""
        made = self._sample(self.rgb, "rgb", log2_alpha)
        return abs_rel(depth_of(made.clamp(0.01, MAX_CODE)), self.scenes)

    @torch.inference_mode()
    def _sample(self, given: Tensor, modality: str, log2_alpha: float | None, least: float = 0.0) -> Tensor:
        """Euler on the other modality, guided where it is the picture; the other modality's clean latent."""
        count = len(given)
        noise = torch.randn(count, 384, *given.shape[-2:], generator=torch.Generator().manual_seed(0))
        rgb, depth = noise.split([128, 256], dim=1)
        eps = rgb if modality == "rgb" else depth
        t = base_levels(STEPS)
        for now, after in zip(t[:-1], t[1:], strict=True):
            level = torch.full((), 1.0 if log2_alpha is None else 0.0)
            if log2_alpha is not None and log2_alpha > CLEAN:
                level = tilt(now, log2_alpha)
            level = level.clamp_min(least)
            seen = add_noise(given, eps, level[None])
            pair = (seen, depth) if modality == "rgb" else (rgb, seen)
            levels = [x.expand(count) for x in ((level, now) if modality == "rgb" else (now, level))]
            texts = self.texts[:1] if modality == "rgb" else self.texts
            heads = [self.small.module(*pair, text, *levels, wanted=(MADE[modality],)) for text in texts]
            if modality == "rgb":
                depth = depth + (after - now) * depth_velocity(depth, heads[0][1], levels[1])
            else:
                (c, _), (u, _) = heads
                rgb = rgb + (after - now) * (u + CFG * (c - u))
        return depth if modality == "rgb" else rgb


@dataclass
class Picture:
    """picture (B,H,W,3), the depth (B,H,W) seen in it, and its error against the given depth, percent."""

    picture: Tensor
    seen: Tensor
    error: float

    def layout_and_detail(self, truth: Tensor) -> tuple[float, float]:
        """Against the true depth (B,H,W): mean difference of coarse structure, percent, and correlation of the fine."""
        logs = [x.log() for x in (matched(self.seen, truth).nan_to_num(1.0).clamp_min(1e-3), truth)]
        coarse, lows = ([_low(x, width) for x in logs] for width in (COARSE_PX, FINE_PX))
        fine = [x - low for x, low in zip(logs, lows, strict=True)]
        layout = 100 * float((coarse[0] - coarse[1]).abs().mean())
        return layout, float((fine[0] * fine[1]).sum() / (fine[0].norm() * fine[1].norm()))

    def edges(self, scenes: SceneBatch) -> float:
        """Mean step of the picture's grey near the edges of the true depth over that elsewhere."""
        grey = self.picture.mean(-1)
        steps = F.pad(grey.diff(dim=2).abs(), (0, 1)) + F.pad(grey.diff(dim=1).abs(), (0, 0, 0, 1))
        edges = depth_edges(scenes.depth, scenes.valid, EDGE)[:, None].float()
        near = F.max_pool2d(edges, AROUND, 1, AROUND // 2)[:, 0] > 0
        return float(steps[near].mean() / steps[~near].mean())


def rows(small: Small) -> Iterator[Row]:
    """Error of what is made against what is given: depth estimated from the made picture, or the made depth."""
    case = Case.make(small)
    truth = depth_of(case.depth)

    def figures(made: Picture) -> str:
        layout, detail = made.layout_and_detail(truth)
        kept = f"layout off by {layout:.1f} %, detail kept {detail:.2f}, edges {made.edges(case.scenes):.1f}"
        return f"error {made.error:.1f} %, effect {(absent - made.error) / (absent - clean):.2f}, {kept}"

    ends = {name: case.picture(case.depth, tilt_) for name, tilt_ in (("clean", CLEAN), ("not given", None))}
    clean, absent = (end.error for end in ends.values())
    for name, made in ends.items():
        yield Row("strength", f"depth, {name}", figures(made))
    for name, log2_alpha in _dial("depth"):
        yield Row("strength", f"depth, {name}", figures(case.picture(case.depth, log2_alpha)))
    for softness in SOFTNESSES:
        made = case.picture(softened(case.depth, softness), CLEAN)
        yield Row("softness", f"depth, softness {softness:g}", figures(made))
    for level in DEPTH_NOISE_LEVELS:
        made = case.picture(case.depth, CLEAN, level)
        yield Row("noise_level", f"given depth at {level:g}", figures(made))
    pictures = {"the made picture": ends["clean"].picture, "the true picture": case.scenes.rgb.movedim(1, -1)}
    for name, picture in pictures.items():
        found = ((level, case.seen(picture, level)) for level in (0.0, *NOISE_LEVELS))
        errors = ", ".join(f"{level:g}: {made.error:.2f} % (blocks {blocks(made.seen):.2f})" for level, made in found)
        yield Row("noise_level", f"depth of {name}", errors)
    yield from _picture_given(case)


def _picture_given(case: Case) -> Iterator[Row]:
    clean, absent = case.depth_error(CLEAN), case.depth_error(None)
    yield Row("strength", "picture, clean / not given", f"error {clean:.1f} / {absent:.1f} %")
    for name, log2_alpha in _dial("rgb"):
        error = case.depth_error(log2_alpha)
        share = (absent - error) / (absent - clean)
        yield Row("strength", f"picture, {name}", f"error {error:.1f} %, effect {share:.2f}")


def _dial(modality: str) -> list[tuple[str, float]]:
    tilts = [(f"log2_alpha {a:g}", a) for a in TILTS]
    return tilts + [(f"strength {s:g}", float(strength_to_log2_alpha(torch.tensor(s), modality))) for s in STRENGTHS]


def _low(maps: Tensor, width: float) -> Tensor:
    """(B,H,W) under a Gaussian of `width` pixels."""
    reach = round(3 * width)
    x = torch.arange(-reach, reach + 1)
    kernel = (-0.5 * (x / width) ** 2).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(maps[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]
