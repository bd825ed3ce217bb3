"""Noise level schedules: one level per modality and step (Modality Forcing, arXiv 2606.13676, sec. on inference).

Levels run from t = 1 (noise) to t = 0 (clean). A given modality stays at t = 0.
"""

import math

import torch
from torch import Tensor

DEFAULT_MU = 1.1
DEFAULT_STEPS = 50
DEFAULT_LOG2_ALPHA = 5.0  # RGB first: the released default, best depth
MODES = ("joint", "i2d", "d2i")


def shift(u: Tensor, mu: float = DEFAULT_MU, sigma: float = 1.0) -> Tensor:
    """Timestep shift e^mu / (e^mu + (1/u - 1)^sigma): monotone, keeps 0 and 1, mu > 0 spends more steps near noise."""
    return math.exp(mu) / (math.exp(mu) + (1 / u - 1) ** sigma)


def tilt(t: Tensor, log2_alpha: float | Tensor) -> Tensor:
    """The other modality's level f_alpha(t) = alpha t / (1 + (alpha - 1) t), alpha = 2^log2_alpha.

    Above 0 it stays noisy longer than t, below 0 it is clean earlier, at 0 it equals t. f_1/alpha is its inverse.
    """
    return t * tilt_ratio(t, log2_alpha)


def tilt_ratio(t: Tensor, log2_alpha: float | Tensor) -> Tensor:
    """f_alpha(t) / t = alpha / (1 + (alpha - 1) t), which is alpha itself at t = 0."""
    alpha = 2.0**log2_alpha
    return alpha / (1 + (alpha - 1) * t)


def log2_alpha_through(t_rgb: float, t_depth: float) -> float:
    """The log2_alpha whose trajectory passes through the point (t_rgb, t_depth), both strictly between 0 and 1."""
    return math.log2(t_depth * (1 - t_rgb) / (t_rgb * (1 - t_depth)))


def base_levels(steps: int, mu: float = DEFAULT_MU) -> Tensor:
    """shift(u) on u = linspace(1, 0, steps + 1): (steps + 1,) float32, from exactly 1 to exactly 0."""
    if steps < 1:
        raise ValueError(f"got {steps} steps; expected at least 1")
    return shift(torch.linspace(1, 0, steps + 1, dtype=torch.float64), mu).float()  # on the CPU, whatever the device


def on_base_levels(levels: Tensor, mu: float = DEFAULT_MU) -> bool:
    """Whether levels (n,), falling, are the release's own or a stretch of them: evenly spaced before `shift`.

    The tolerance is that of ComfyUI's "simple" scheduler, which takes them from a table of 10 000.
    """
    levels = levels.double().cpu()
    odds = math.exp(mu) * (1 - levels) / levels  # (1 - u) / u
    u = 1 / (1 + odds)  # the inverse of `shift`, 0 at 0
    return len(u) < 3 or float(u.diff().diff().abs().max()) < 3e-4


def trajectory(steps: int, mode: str, log2_alpha: float | None = None, mu: float = DEFAULT_MU) -> tuple[Tensor, Tensor]:
    """Levels (t_rgb, t_depth), each (steps + 1,) float32, of a whole sampling run.

    Args:
        steps: number of solver steps.
        mode: "joint" (both sampled), "i2d" (RGB given) or "d2i" (depth given).
        log2_alpha: tilt of depth against RGB in joint mode; None or 0 is the diagonal.
        mu: timestep shift.
    """
    if mode not in MODES:
        raise ValueError(f"got mode {mode!r}; expected one of {', '.join(MODES)}")
    t = base_levels(steps, mu)
    given = torch.zeros_like(t)
    if mode == "i2d":
        return given, t
    if mode == "d2i":
        return t, given
    return t, tilt(t.double(), log2_alpha or 0.0).float()
