"""What a modality's noise level means: noising, given modalities, and the two heads' conversions.

Flow matching (arXiv 2210.02747): x_t = (1 - t) x0 + t eps, velocity v = eps - x0 = dx/dt.
"""

import torch
from torch import Tensor

from .schedule import tilt

MIN_DEPTH_LEVEL = 0.05  # the released sampler divides by max(t_depth, 0.05)
LOOSE_LOG2_ALPHA = -5.0  # published range of partial depth conditioning, loose to rigid
RIGID_LOG2_ALPHA = -14.0


def add_noise(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t eps. x0, noise: (B,…); t: (B,), or broadcastable to x0."""
    t = per_sample(t, x0) if t.ndim == 1 else t
    return (1 - t) * x0 + t * noise


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B,1,1,…) to broadcast against `like`."""
    return t.reshape(-1, *([1] * (like.ndim - 1)))


def fill_holes(latent: Tensor, noise: Tensor) -> Tensor:
    """Missing depth (NaN) becomes noise, at every level: that is how the model is told that depth is unknown there."""
    return torch.where(latent.isnan(), noise, latent)


def given_level(clock: Tensor, strength: Tensor | float) -> Tensor:
    """Level of a modality that is given, while the other modality's clock stands at `clock`. Shapes (B,) -> (B,).

    Strength 1 is the clean modality, t = 0. Below 1 it is noised to f_alpha(clock) (partial conditioning), with
    log2_alpha going linearly from -5 (loose, strength near 0) to -14 (rigid, strength near 1).
    Strength 0 means "not given", which is the caller's business.
    """
    strength = torch.as_tensor(strength, dtype=clock.dtype, device=clock.device)
    log2_alpha = LOOSE_LOG2_ALPHA + strength * (RIGID_LOG2_ALPHA - LOOSE_LOG2_ALPHA)
    return torch.where(strength >= 1, torch.zeros_like(clock), tilt(clock, log2_alpha))


def depth_velocity(x: Tensor, x0: Tensor, t_depth: Tensor) -> Tensor:
    """Velocity from the depth head's clean prediction: (x - x0) / max(t, 0.05) (eq. 7). t_depth: (B,)."""
    return (x - x0) / per_sample(t_depth, x).clamp_min(MIN_DEPTH_LEVEL)
