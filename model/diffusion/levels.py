"""What a modality's noise level means: noising, given modalities, and the two heads' conversions.

Flow matching (arXiv 2210.02747): x_t = (1 - t) x0 + t eps, velocity v = eps - x0 = dx/dt.
"""

import torch
from torch import Tensor

from .schedule import tilt

MIN_DEPTH_LEVEL = 0.05  # the released sampler divides by max(t_depth, 0.05)
# Partial conditioning, published from -5, loose, to -14, rigid. Measured (`run.py bench controls strength`): the way
# from no effect to all of it lies between +5 and -5, and is about this logistic curve of log2_alpha.
HALF_EFFECT_LOG2_ALPHA = {"depth": 0.0, "rgb": -0.4}  # by the modality that is given
EFFECT_WIDTH = {"depth": 0.88, "rgb": 1.3}
MAX_LOG2_ALPHA = 14.0


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


def given_level(clock: Tensor, strength: Tensor | float, modality: str = "depth") -> Tensor:
    """Level of a modality that is given, while the other modality's clock stands at `clock`. Shapes (B,) -> (B,).

    Strength 1 is the clean modality, t = 0. Below 1 it is noised to f_alpha(clock) (partial conditioning), with a
    log2_alpha at which the given modality has about that share of its effect: the published range -5 to -14 lies
    above 0.99, half the effect is at 0 for given depth and at -0.4 for a given picture, a strength near 0 is near
    +14. Strength 0 means "not given", which is the caller's business.
    """
    strength = torch.as_tensor(strength, dtype=clock.dtype, device=clock.device)
    log2_alpha = strength_to_log2_alpha(strength, modality)
    return torch.where(strength >= 1, torch.zeros_like(clock), tilt(clock, log2_alpha))


def strength_to_log2_alpha(strength: Tensor, modality: str = "depth") -> Tensor:
    """The tilt of a partly given modality against the other one: where the effect's logistic curve has this height."""
    turned = HALF_EFFECT_LOG2_ALPHA[modality] - EFFECT_WIDTH[modality] * strength.logit(eps=1e-9)
    return turned.clamp(-MAX_LOG2_ALPHA, MAX_LOG2_ALPHA)


def depth_velocity(x: Tensor, x0: Tensor, t_depth: Tensor) -> Tensor:
    """Velocity from the depth head's clean prediction: (x - x0) / max(t, 0.05) (eq. 7). t_depth: (B,)."""
    return (x - x0) / per_sample(t_depth, x).clamp_min(MIN_DEPTH_LEVEL)
