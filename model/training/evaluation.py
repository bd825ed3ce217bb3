"""How good is the depth, and how well do image and depth agree (Modality Forcing, arXiv 2606.13676, evaluation).

Affine-invariant errors throughout: scale and shift solved in depth space by robust L1, then AbsRel and delta_1
(`depth.alignment`). Latents in, depth maps decoded here; the true depth is the clean latent's, so holes and pixels at
infinity (code 2) do not count. A table says little without the baselines beside it: a constant, and the best plane
*fitted to the truth*, which a model that understands nothing but "farther up is farther away" reaches.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..depth.alignment import DepthErrors, evaluate, masked_nearest
from ..depth.codec import MAX_CODE, decode, unpatchify
from ..diffusion.levels import add_noise, fill_holes
from ..diffusion.sampling import sample
from ..network.config import DEPTH_PATCH
from .losses import LatentBatch
from .order import sample_noise

# Predicted codes are clipped to this range: a code just below 2 decodes to any distance, at or below 0 to none.
MIN_CODE = 0.01
DEFAULT_MAX_CODE = 1.98  # depth 50 times the mean; models in an early stage do better with 1.8, 5 times the mean
REWEIGHTINGS = 50
_RUN_APART = 2**32  # in the numbers that noise is drawn by: more than there are samples

# (RGB latents (B,128,h,w), text (B,L,C)) -> depth (B,H,W) and where it is valid (B,H,W).
Estimator = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Row:
    """One line of a table: means over predicted maps."""

    name: str
    abs_rel: float  # fraction, not percent
    delta1: float  # fraction
    coverage: float  # share of the reference's valid pixels that were compared
    maps: int  # predictions compared; those without a pixel that is valid on both sides are left out
    blocks: float | None = None  # mean step of the codes across the borders of patches over that elsewhere


def table(rows: Iterable[Row]) -> str:
    """Rows as a Markdown table, in percent."""
    lines = ["| | AbsRel % | δ1 % | pixels % | maps | blocks |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {100 * row.abs_rel:.2f} | {100 * row.delta1:.1f} | {100 * row.coverage:.1f} | {row.maps} | "
        f"{'' if row.blocks is None else format(row.blocks, '.2f')} |"
        for row in rows
    ]
    return "\n".join(lines)


def border_and_other_steps(codes: Tensor) -> Tensor:
    """Mean |difference| of neighbouring pixels of depth codes (B,256,h,w): (B,2), across borders of patches, elsewhere.

    Their ratio is the blockiness: 1 where borders cannot be told. Holes (NaN) do not count.
    """
    maps = unpatchify(codes.float())
    kinds: list[list[Tensor]] = [[], []]
    for axis in (1, 2):
        steps = maps.diff(dim=axis).abs().movedim(axis, 1)
        at_border = torch.arange(steps.shape[1], device=steps.device) % DEPTH_PATCH == DEPTH_PATCH - 1
        for kind, chosen in zip(kinds, (at_border, ~at_border), strict=True):
            kind.append(steps[:, chosen].flatten(1))
    return torch.stack([torch.cat(kind, 1).nanmean(1) for kind in kinds], 1)


def evaluate_image_to_depth(
    module: nn.Module,
    batches: Iterable[LatentBatch],
    steps_list: Sequence[int] = (1, 10),
    *,
    runs: int = 1,
    seed: int = 0,
    max_code: float = DEFAULT_MAX_CODE,
    baselines: bool = True,
) -> list[Row]:
    """Image -> depth against the true depth, without guidance.

    Args:
        module: the transformer itself, without wrappers.
        batches: held-out latents, on the module's device; `context` is the text to use, usually the empty prompt's.
        steps_list: solver steps to try. Models in an early stage do better with one or two.
        runs: samples per image. Above 1 there is also a row for their mean, taken over the codes, which are bounded;
            published tables use 10.
        seed: of the noise, which is the same for all numbers of steps.
        max_code: where predicted codes are clipped.
        baselines: with the rows of the constant and the planes, which depend on the data alone.

    Returns:
        Rows "the true depth" (for its blocks), "constant", "plane in depth", "plane in space", and for each number of
        steps "N steps" (mean error of the single runs) and "N steps, mean of R".
    """
    tally, first = Tally(), 0
    for batch in batches:
        if baselines:
            tally.merge(baseline_errors(batch))
        tally.merge(
            image_to_depth_errors(module, batch, steps_list, first=first, runs=runs, seed=seed, max_code=max_code)
        )
        first += len(batch.rgb)
    return tally.rows()


def image_to_depth_errors(
    module: nn.Module,
    batch: LatentBatch,
    steps_list: Sequence[int],
    *,
    first: int = 0,
    runs: int = 1,
    seed: int = 0,
    max_code: float = DEFAULT_MAX_CODE,
) -> "Tally":
    """What `evaluate_image_to_depth` compares of one batch, whose first sample is number `first` of all.

    A sample's noise depends on its number, not on how samples are put together or who computes them.
    """
    tally = Tally()
    truth = decode(batch.depth)
    numbers = np.arange(first, first + len(batch.rgb))
    shape, device = batch.depth.shape[1:], batch.depth.device
    noises = [sample_noise(seed, numbers + run * _RUN_APART, shape, "cpu").to(device) for run in range(runs)]
    for steps in steps_list:
        name = f"{steps} step{'s' if steps > 1 else ''}"
        codes = [sample(module, batch.rgb, x, batch.context, None, steps=steps, mode="i2d")[1] for x in noises]
        for code in codes:
            tally.add(name, _compare(_decoded(code, max_code), truth), code.clamp(MIN_CODE, max_code))
        if runs > 1:
            mean = torch.stack(codes).mean(0)
            errors = _compare(_decoded(mean, max_code), truth)
            tally.add(f"{name}, mean of {runs}", errors, mean.clamp(MIN_CODE, max_code))
    return tally


def baseline_errors(batch: LatentBatch) -> "Tally":
    """The truth's own blocks, and errors of the constant and of the planes, which depend on the data alone."""
    tally = Tally()
    truth, valid = decode(batch.depth)
    tally.add("the true depth", evaluate(truth, truth, valid, valid), batch.depth)
    tally.add("constant", evaluate(torch.ones_like(truth), truth, None, valid))
    tally.add("plane in depth", evaluate(fit_planes(truth, valid), truth, None, valid))
    tally.add("plane in space", evaluate(fit_planes(truth, valid, inverse=True), truth, None, valid))
    return tally


def own_estimator(
    module: nn.Module, steps: int = 10, *, runs: int = 1, seed: int = 0, max_code: float = DEFAULT_MAX_CODE
) -> Estimator:
    """The model's own image -> depth as the estimator of the consistency measures; the same noise in each call."""

    def estimate(rgb: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        like = rgb.new_empty(rgb.shape[0], module.config.depth_channels, *rgb.shape[2:])
        codes = [
            sample(module, rgb, _noise(like, generator), context, None, steps=steps, mode="i2d")[1] for _ in range(runs)
        ]
        return _decoded(torch.stack(codes).mean(0), max_code)

    return estimate


def joint_consistency(
    module: nn.Module,
    batches: Iterable[LatentBatch],
    estimator: Estimator,
    log2_alphas: Sequence[float] = (-5.0, -2.0, 0.0, 2.0, 5.0),
    *,
    steps: int = 50,
    cfg: float = 1.0,
    null_context: Tensor | None = None,
    seed: int = 0,
    max_code: float = DEFAULT_MAX_CODE,
    depth_cfg: float | None = None,
) -> list[Row]:
    """Does jointly generated depth fit the generated image? Its errors against an estimator's depth of that image.

    Only the texts and sizes of `batches` are used. One row "log2_alpha A" for each A, all from the same noise; and
    "other image", the last A's depth against the map of another image of its batch, which is what no agreement at all
    would give (left out for batches of one).
    """
    tally = Tally()
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        noise = _noise(batch.rgb, generator), _noise(batch.depth, generator)
        for log2_alpha in log2_alphas:
            options = {"steps": steps, "mode": "joint", "cfg": cfg, "depth_cfg": depth_cfg, "log2_alpha": log2_alpha}
            rgb, code = sample(module, *noise, batch.context, null_context, **options)
            predicted, reference = _decoded(code, max_code), estimator(rgb, batch.context)
            errors = _compare(predicted, reference)
            tally.add(f"log2_alpha {log2_alpha:g}", errors, code.clamp(MIN_CODE, max_code))
        if len(noise[0]) > 1:
            tally.add("other image", _compare(predicted, _rolled(reference)))
    return tally.rows()


def depth_to_image_consistency(
    module: nn.Module,
    batches: Iterable[LatentBatch],
    estimator: Estimator,
    *,
    steps: int = 50,
    cfg: float = 1.0,
    null_context: Tensor | None = None,
    seed: int = 0,
    strength: float = 1.0,
) -> list[Row]:
    """Does an image generated from depth show that depth? Errors of the estimator's depth of the generated image.

    `strength` is that of the given depth (`diffusion.sampling.sample`).
    Rows: "against the true image", whose depth comes from the same estimator (the paper's measure); "against the given
    depth"; and "other image", against the map of another image of the batch (left out for batches of one).
    """
    tally = Tally()
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        noise = _noise(batch.rgb, generator), _noise(batch.depth, generator)
        given = fill_holes(batch.depth, noise[1])
        options = {"steps": steps, "mode": "d2i", "cfg": cfg, "strength": strength}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of the noise on depth that is given in part
            rgb, _ = sample(module, noise[0], given, batch.context, null_context, **options)
        generated, real = estimator(rgb, batch.context), estimator(batch.rgb, batch.context)
        tally.add("against the true image", _compare(generated, real))
        tally.add("against the given depth", _compare(generated, decode(batch.depth)))
        if len(rgb) > 1:
            tally.add("other image", _compare(generated, _rolled(real)))
    return tally.rows()


@torch.inference_mode()
def image_drift(
    module: nn.Module, teacher: nn.Module, batches: Iterable[LatentBatch], *, channels: int, seed: int = 0
) -> float:
    """How far post-training took the RGB prediction away from the text-to-image model that it started from.

    Mean square of the difference of the two RGB velocities over that of the teacher's, with depth as pure noise, at
    RGB levels spread evenly over 0..1.

    Args:
        teacher: (rgb, None, context, t_rgb) -> (RGB velocity, None).
        channels: how many RGB channels carry the picture.
    """
    generator = torch.Generator().manual_seed(seed)
    apart = scale = 0.0
    for batch in batches:
        noise_rgb, noise_depth = _noise(batch.rgb, generator), _noise(batch.depth, generator)
        t = (torch.arange(len(batch.rgb), device=batch.rgb.device) + 0.5) / len(batch.rgb)
        x = add_noise(batch.rgb, noise_rgb, t)
        own = module(x, noise_depth, batch.context, t, torch.ones_like(t))[0][:, :channels]
        of_teacher = teacher(x, None, batch.context, t)[0][:, :channels]
        apart += (own - of_teacher).square().sum().item()
        scale += of_teacher.square().sum().item()
    return apart / scale


def fit_planes(truth: Tensor, valid: Tensor, *, inverse: bool = False) -> Tensor:
    """The best plane for each map, with the errors' own cost, sum |plane - g| / g, on their 64 x 64 grid.

    Args:
        truth, valid: (B,H,W).
        inverse: let 1/depth be linear over the picture, as it is for a flat surface in space, instead of depth.

    Returns:
        (B,H,W) float32 on the CPU, clipped to the true depth's range; 1 where a map has no valid pixel.
    """
    height, width = truth.shape[1:]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    features = np.stack([x.ravel(), y.ravel(), np.ones(height * width)], axis=1)  # (H*W,3)
    planes = np.ones(truth.shape, dtype=np.float32)
    pairs = zip(truth.cpu().double().numpy(), valid.cpu().numpy(), strict=True)
    for plane, (depth, known) in zip(planes, pairs, strict=True):
        if not known.any():
            continue
        chosen = masked_nearest(known)
        g = depth.flat[chosen]
        relative = features[chosen] * g[:, None] if inverse else features[chosen] / g[:, None]
        values = features @ _least_absolute(relative, inverse)
        low, high = depth[known].min(), depth[known].max()
        values = 1 / values.clip(1 / high, 1 / low) if inverse else values.clip(low, high)
        plane[:] = values.reshape(height, width)
    return torch.from_numpy(planes)


def _least_absolute(features: np.ndarray, inverse: bool) -> np.ndarray:
    """The c that minimises sum |f - 1|, or sum |1/f - 1|, f = features c, by iteratively reweighted least squares.

    Weights 1 / |f - 1|, over f^2 for the inverse: then the gradient is that of the cost. features: (N,3).
    """
    weights = np.ones(len(features))
    for _ in range(REWEIGHTINGS):
        weighted = features * weights[:, None]
        solution = np.linalg.lstsq(weighted.T @ features, weighted.sum(0), rcond=None)[0]  # also for under 3 pixels
        f = features @ solution
        weights = 1 / np.abs(f - 1).clip(1e-6)
        if inverse:
            weights /= f.clip(0.1) ** 2
    return solution


class Tally:
    """Errors of single images by the name of their row, in order of appearance."""

    def __init__(self) -> None:
        self.errors: dict[str, list[DepthErrors]] = {}
        self.steps: dict[str, list[Tensor]] = {}

    def add(self, name: str, errors: DepthErrors, codes: Tensor | None = None) -> None:
        """`codes`: the predicted latents, for their blocks."""
        self.errors.setdefault(name, []).append(errors)
        if codes is not None:
            self.steps.setdefault(name, []).append(border_and_other_steps(codes))

    def merge(self, other: "Tally") -> None:
        """Take in what another one has compared."""
        for name, parts in other.errors.items():
            self.errors.setdefault(name, []).extend(parts)
        for name, parts in other.steps.items():
            self.steps.setdefault(name, []).extend(parts)

    def rows(self) -> list[Row]:
        return [self._row(name, parts, self.steps.get(name)) for name, parts in self.errors.items()]

    @staticmethod
    def _row(name: str, parts: list[DepthErrors], steps: list[Tensor] | None) -> Row:
        def mean(values: list[Tensor]) -> float:
            return torch.cat(values).nanmean().item()

        at_borders, elsewhere = torch.cat(steps).nanmean(0).tolist() if steps else (0.0, 0.0)
        compared = torch.cat([part.abs_rel for part in parts]).isfinite().sum().item()
        return Row(
            name,
            mean([part.abs_rel for part in parts]),
            mean([part.delta1 for part in parts]),
            mean([part.coverage for part in parts]),
            compared,
            at_borders / elsewhere if elsewhere else None,
        )


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Drawn on the CPU: the same on every device."""
    return torch.randn(like.shape, generator=generator).to(like.device)


def _decoded(code: Tensor, max_code: float) -> tuple[Tensor, Tensor]:
    """Depth and validity of a predicted latent, with codes clipped to [MIN_CODE, max_code]."""
    return decode(code.float().clamp(MIN_CODE, min(max_code, MAX_CODE)))


def _compare(predicted: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> DepthErrors:
    return evaluate(predicted[0], reference[0], predicted[1], reference[1])


def _rolled(maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Each sample gets the map of its neighbour in the batch."""
    return maps[0].roll(1, 0), maps[1].roll(1, 0)
