"""Headless sampler: Euler or Heun on each modality's own clock, with classifier-free guidance."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .guidance import guide
from .levels import add_noise, depth_velocity, fill_holes, given_level
from .schedule import DEFAULT_MU, trajectory

SOLVERS = ("euler", "heun")


@torch.inference_mode()
def sample(
    module: nn.Module,
    rgb: Tensor,
    depth: Tensor,
    context: Tensor,
    null_context: Tensor | None,
    *,
    steps: int,
    mode: str,
    cfg: float = 1.0,
    log2_alpha: float | None = None,
    mu: float = DEFAULT_MU,
    strength: float = 1.0,
    depth_cfg: float | None = None,
    first_step: int = 0,
    solver: str = "euler",
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample RGB and depth latents with `steps` solver steps (Modality Forcing, arXiv 2606.13676, sampling).

    Args:
        module: the transformer, (rgb, depth, context, t_rgb, t_depth) -> (RGB velocity, clean depth).
        rgb: (B,128,h,w), depth: (B,256,h,w). Starting noise of a sampled modality, clean latent of a given one.
            Holes (NaN) of a given depth become noise.
        context, null_context: (B or 1,L,C) embeddings of the prompt and of the empty prompt; the latter may be None
            when cfg is 1.
        mode: "joint", "i2d" (RGB given) or "d2i" (depth given).
        cfg: guidance weight w in u + w (c - u), on both heads; 1 leaves the unconditional pass out.
        depth_cfg: guidance weight of the depth head where it is another; None: cfg.
        strength: of the given depth in mode "d2i", above 0. Below 1 it is given with noise that falls with the image's,
            the same at all steps (partial depth conditioning; see `levels.given_level`).
        first_step: leave out the steps before this one; what is sampled starts at its level.
        solver: "euler", as published, or "heun": the mean of the velocities at both ends of a step, at twice the cost;
            the last step, to clean, is Euler's.
        on_step: called after each step with how many of all are done.

    Returns:
        (rgb, depth) float32 latents; a given modality comes back as it was.
    """
    if solver not in SOLVERS:
        raise ValueError(f"got solver {solver!r}; expected one of {', '.join(SOLVERS)}")
    weights = (cfg, cfg if depth_cfg is None else depth_cfg)
    if weights != (1, 1) and null_context is None:
        raise ValueError(f"got guidance {max(weights)} without null_context; pass that of the empty prompt")
    batch, dtype = rgb.shape[0], module.img_in.weight.dtype
    noise = torch.randn_like(depth.float())
    rgb, depth = rgb.float(), fill_holes(depth.float(), noise)
    texts = [context] if weights == (1, 1) else [context, null_context]
    texts = [text.to(dtype).expand(batch, -1, -1) for text in texts]
    t_rgb, t_depth = (levels.to(rgb.device) for levels in trajectory(steps, mode, log2_alpha, mu))
    if mode == "d2i":
        t_depth = given_level(t_rgb, strength)

    def velocities(rgb: Tensor, depth: Tensor, i: int) -> tuple[Tensor, Tensor]:
        levels = t_rgb[i].expand(batch), t_depth[i].expand(batch)
        seen = add_noise(depth, noise, levels[1]) if mode == "d2i" else depth
        heads = [[x.float() for x in module(rgb.to(dtype), seen.to(dtype), text, *levels)] for text in texts]
        conditional, unconditional = heads if len(heads) > 1 else (*heads, (None, None))
        velocity, depth_x0 = map(guide, conditional, unconditional, weights)
        return velocity, depth_velocity(depth, depth_x0, levels[1])

    def moved(rgb: Tensor, depth: Tensor, i: int, v_rgb: Tensor, v_depth: Tensor) -> tuple[Tensor, Tensor]:
        if mode != "d2i":
            depth = depth + (t_depth[i + 1] - t_depth[i]) * v_depth
        return rgb + (t_rgb[i + 1] - t_rgb[i]) * v_rgb, depth

    for i in range(first_step, steps):
        v = velocities(rgb, depth, i)
        if solver == "heun" and i + 1 < steps:
            ahead = velocities(*moved(rgb, depth, i, *v), i + 1)
            v = [(here + there) / 2 for here, there in zip(v, ahead, strict=True)]
        rgb, depth = moved(rgb, depth, i, *v)
        if on_step is not None:
            on_step(i + 1)
    return rgb, depth
