"""Training losses (Modality Forcing, arXiv 2606.13676, training; the published parts cited at each formula).

Letters in shape comments: B batch, h and w latent rows and columns, L text tokens, C text width.
All sums run in float32. Each term keeps its sum and its number of elements apart, so that the mean over several
processes or accumulation steps is the mean over all their elements, whatever share of depth each of them has.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..depth.codec import unpatchify
from ..diffusion.levels import add_noise, depth_velocity, fill_holes, per_sample
from ..network.config import RGB_CHANNELS
from .level_sampling import Levels

TERMS = ("rgb", "depth", "distill", "slope")
SPACINGS = (1, 2, 4, 8)  # pixels


@dataclass
class LatentBatch:
    """Clean latents and text of one batch."""

    rgb: Tensor  # (B,128,h,w)
    depth: Tensor  # (B,256,h,w); NaN = no depth there
    context: Tensor  # (B,L,C)


@dataclass(frozen=True)
class LossWeights:
    """Factors of the terms. The paper gives the form of the self-distillation, not these values: they are ours."""

    rgb: float = 1.0
    depth: float = 1.0
    distill: float = 0.0  # scale of the self-distillation; 0 needs no teacher
    distill_high: float = 1.0  # where depth is noise
    distill_low: float = 0.1  # where depth is clean: the image may follow it away from the teacher
    slope: float = 0.0  # of the depth map: differences between pixels against the true ones; ours as well

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ValueError(f"got {self}; expected no negative weight")


@dataclass
class Losses:
    """The terms of one batch: sums that carry gradients, and element counts (0-dim float32, without gradient)."""

    sums: dict[str, Tensor]
    counts: dict[str, Tensor]
    weights: LossWeights

    @property
    def rgb(self) -> Tensor:
        return self._mean("rgb", self.counts)

    @property
    def depth(self) -> Tensor:
        return self._mean("depth", self.counts)

    @property
    def distill(self) -> Tensor:
        return self._mean("distill", self.counts)

    @property
    def slope(self) -> Tensor:
        return self._mean("slope", self.counts)

    @property
    def total(self) -> Tensor:
        """Weighted sum of this batch's own means."""
        return self.total_over(self.counts)

    def total_over(self, counts: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of the terms' sums over other counts.

        With the counts of all processes and accumulation steps together, the gradients of all their `total_over` add up
        to the gradient of the mean over everything. (A wrapper that averages gradients over its processes instead of
        summing them needs the result times their number.)
        """
        return sum(getattr(self.weights, name) * self._mean(name, counts) for name in TERMS)

    def _mean(self, name: str, counts: Mapping[str, Tensor]) -> Tensor:
        return self.sums[name] / counts[name].clamp_min(1)  # no element at all is a loss of 0, not 0/0


def joint_loss(
    module: nn.Module,
    batch: LatentBatch,
    levels: Levels,
    noise_rgb: Tensor,
    noise_depth: Tensor,
    weights: LossWeights,
    teacher: nn.Module | None = None,
    *,
    channels: int = RGB_CHANNELS,
    dtype: torch.dtype | None = None,
) -> Losses:
    """Losses of joint training on one batch.

    Args:
        module: the transformer, (rgb, depth, context, t_rgb, t_depth) -> (RGB velocity, clean depth).
        noise_rgb, noise_depth: standard normal noise like the latents.
        teacher: the frozen text-to-image model, (rgb, None, context, t_rgb) -> (RGB velocity, None); used if
            `weights.distill` is above 0.
        channels: how many RGB channels carry the picture, from the first; the others have no loss.
        dtype: what the networks' inputs are cast to; None takes that of the module's `img_in` weight.

    Terms (means of squares over elements; a modality that is given has none):
        rgb: v_rgb - v with v = noise - x0.
        depth: (x_t - x0_hat) / m - v over the valid pixels, m = max(t, 0.05): x0 is predicted, v is compared (eq. 7;
            the clamp is the released sampler's). Below t = 0.05 the target is (x_t - x0) / m, not v, or the best answer
            would not be x0 (at t = 0 it would be 1.05 x0).
        distill: (high t_depth + low (1 - t_depth)) (v_teacher - v_rgb)^2, the teacher on the same noisy RGB and text
            without depth.
        slope: the depth term's error as differences between pixels of the map, 1, 2, 4 and 8 apart and both known.
            A token predicts 16 x 16 pixels by itself, and an error that all of them share leaves a block, which the
            depth term hardly sees. Squares, so that the best answer is still the mean that the depth term asks for;
            across borders alone (tried) the rows beside them bend and leave frames.

    Raises:
        ValueError: self-distillation is asked for without a teacher.
    """
    if weights.distill > 0 and teacher is None:
        raise ValueError(f"got distill weight {weights.distill} without a teacher; pass the frozen source model")
    valid = ~batch.depth.isnan()
    x0_depth = fill_holes(batch.depth.float(), noise_depth)
    x_rgb = add_noise(batch.rgb.float(), noise_rgb, levels.t_rgb)
    x_depth = add_noise(x0_depth, noise_depth, levels.t_depth)  # in holes (1 - t) eps + t eps = eps

    dtype = dtype or _input_dtype(module)
    rgb_in, context = x_rgb.to(dtype), batch.context.to(dtype)
    velocity, clean_depth = module(rgb_in, x_depth.to(dtype), context, levels.t_rgb, levels.t_depth)
    velocity, clean_depth = velocity[:, :channels].float(), clean_depth.float()

    sampled_rgb = per_sample(~levels.rgb_given, velocity).expand_as(velocity)
    sampled_depth = per_sample(~levels.depth_given, x_depth) & valid
    rgb_error = velocity - (noise_rgb - batch.rgb.float())[:, :channels]
    depth_error = depth_velocity(x0_depth, clean_depth, levels.t_depth)  # the two velocities' x_t cancel
    sums = {"rgb": _masked_square(rgb_error, sampled_rgb), "depth": _masked_square(depth_error, sampled_depth)}
    counts = {"rgb": _count(sampled_rgb), "depth": _count(sampled_depth)}
    sums["distill"], counts["distill"] = torch.zeros_like(sums["rgb"]), torch.zeros_like(counts["rgb"])
    sums["slope"], counts["slope"] = torch.zeros_like(sums["rgb"]), torch.zeros_like(counts["rgb"])
    if weights.slope > 0:
        known = known_slopes(batch.depth, levels)
        sums["slope"], counts["slope"] = _masked_square(slopes(depth_error), known), _count(known)
    if weights.distill > 0:
        with torch.no_grad():
            target = teacher(rgb_in, None, context, levels.t_rgb)[0][:, :channels].float()
        factor = weights.distill_high * levels.t_depth + weights.distill_low * (1 - levels.t_depth)
        sums["distill"] = _masked_square(velocity - target, sampled_rgb, per_sample(factor, velocity))
        counts["distill"] = counts["rgb"]
    return Losses(sums, counts, weights)


def text_to_image_loss(
    module: nn.Module,
    batch: LatentBatch,
    t_rgb: Tensor,
    noise_rgb: Tensor,
    *,
    channels: int = RGB_CHANNELS,
    dtype: torch.dtype | None = None,
) -> Losses:
    """Flow matching loss of a plain text-to-image model (arXiv 2210.02747), for pre-training. Depth is ignored.

    `channels`: how many RGB channels carry the picture, from the first; the others have no loss.
    """
    x0 = batch.rgb.float()
    dtype = dtype or _input_dtype(module)
    x_t = add_noise(x0, noise_rgb, t_rgb)
    velocity, _ = module(x_t.to(dtype), None, batch.context.to(dtype), t_rgb)
    error = (velocity.float() - (noise_rgb - x0))[:, :channels]
    zero = torch.zeros((), device=x0.device)
    sums = {"rgb": error.square().sum(), "depth": zero, "distill": zero, "slope": zero}
    counts = {"rgb": torch.full_like(zero, error.numel()), "depth": zero, "distill": zero, "slope": zero}
    return Losses(sums, counts, LossWeights())


def slopes(latent: Tensor) -> Tensor:
    """Differences between the pixels of a depth map that are 1, 2, 4 and 8 apart: (B,256,h,w) -> (B,n)."""
    maps = unpatchify(latent)
    pairs = [maps[:, k:] - maps[:, :-k] for k in SPACINGS] + [maps[..., k:] - maps[..., :-k] for k in SPACINGS]
    return torch.cat([pair.flatten(1) for pair in pairs], 1)


def known_slopes(depth: Tensor, levels: Levels) -> Tensor:
    """(B,n) bool: the differences of `slopes` that the loss counts, of samples whose depth is not given."""
    return ~slopes(depth).isnan() & ~levels.depth_given[:, None]


def drop_text(
    context: Tensor,
    null_context: Tensor,
    probability: float | Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Replace the text of some samples by that of the empty prompt, so that guidance has an unconditional model.

    Args:
        context: (B,L,C). null_context: (L,C), (1,L,C) or (B,L,C), the empty prompt's embedding.
        probability: of dropping; one for all, or (B,).
    """
    if null_context.shape[-2:] != context.shape[-2:]:
        raise ValueError(
            f"got an empty-prompt embedding {tuple(null_context.shape)} for texts {tuple(context.shape)}; expected the "
            "same length and width: encode both with the same encoder and padding"
        )
    source = "cpu" if generator is None else generator.device
    draws = torch.rand(context.shape[0], generator=generator, device=source).to(context.device)
    dropped = draws < torch.as_tensor(probability, device=context.device)
    return torch.where(per_sample(dropped, context), null_context.to(context), context)


def _masked_square(error: Tensor, mask: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """Sum of factor * error^2 where mask. Selected, not multiplied, so that nothing of a hole comes through."""
    return (factor * torch.where(mask, error, 0).square()).sum()


def _count(mask: Tensor) -> Tensor:
    return mask.sum().float()


def _input_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of the image input layer, also below wrappers that prefix its name."""
    named = module.named_parameters()
    return next((weight.dtype for name, weight in named if name.endswith("img_in.weight")), torch.float32)
