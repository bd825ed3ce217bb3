"""Which task a training sample gets, and its two noise levels (Modality Forcing, arXiv 2606.13676, training).

RGB levels are logit-normal (arXiv 2403.03206), t = sigmoid(mu + z) with z ~ N(0,1): the timestep shift by mu of
`diffusion.schedule.shift` moves a logit by exactly mu. Depth levels follow the *plateau* logit-normal: the same density
up to its mode t*, constant from there to 1, so that nearly pure noise (where depth is decided) is seen often enough.

With Phi, phi the normal distribution and density, x = logit(t) and dt/dx = t (1 - t):
    density     p(t) = phi(x - mu) / (t (1 - t))
    mode        d log p / dx = -(x - mu) - (1 - 2t) = 0, so x* = mu + 2 t* - 1 = mu + tanh(x*/2); the right side is a
                contraction by at most 1/2, which makes x* unique and lets a plain iteration find it
    mass        Phi(x* - mu) below the mode, p(t*) (1 - t*) on the plateau; together Z
    inverse     u ~ U(0,Z): t = sigmoid(mu + Phi^-1(u)) below the mode, else t* + (u - Phi(x* - mu)) / p(t*)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.schedule import DEFAULT_MU

HALVINGS = 60  # the iteration's error halves each time: beyond float64 after 53


@dataclass(frozen=True)
class TaskMixture:
    """Shares of the tasks, the rest being joint generation, and the timestep shift of both modalities."""

    image_to_depth: float = 0.2
    depth_to_image: float = 0.2
    mu: float = DEFAULT_MU

    def __post_init__(self) -> None:
        shares = (self.image_to_depth, self.depth_to_image)
        if min(shares) < 0 or sum(shares) > 1 or not math.isfinite(self.mu):
            raise ValueError(
                f"got image_to_depth {shares[0]}, depth_to_image {shares[1]}, mu {self.mu}; expected shares >= 0 that "
                "sum to at most 1 (the rest is joint generation), and a finite mu"
            )


@dataclass(frozen=True)
class Plateau:
    """The plateau logit-normal's constants for one mu (sigma = 1)."""

    mode: float  # t*
    mass_below: float  # Phi(x* - mu)
    density: float  # p(t*), not divided by Z
    total: float  # Z


@dataclass
class Levels:
    """Noise levels of a batch: 0 clean, 1 noise. A given modality has level 0 and no loss."""

    t_rgb: Tensor  # (B,) float32
    t_depth: Tensor  # (B,) float32
    rgb_given: Tensor  # (B,) bool: image -> depth
    depth_given: Tensor  # (B,) bool: depth -> image


def plateau(mu: float = DEFAULT_MU) -> Plateau:
    """Constants of the plateau logit-normal, in Python's float64 (derivation above)."""
    x = mu
    for _ in range(HALVINGS):
        x = mu + math.tanh(x / 2)
    mode = 1 / (1 + math.exp(-x))
    mass_below = 0.5 * (1 + math.erf((x - mu) / math.sqrt(2)))
    density = math.exp(-0.5 * (x - mu) ** 2) / math.sqrt(2 * math.pi) / (mode * (1 - mode))
    return Plateau(mode, mass_below, density, mass_below + density * (1 - mode))


def logit_normal(u: Tensor, mu: float = DEFAULT_MU) -> Tensor:
    """Inverse distribution function of the logit-normal: u in (0,1) -> t in (0,1)."""
    return torch.sigmoid(mu + torch.special.ndtri(u))


def plateau_logit_normal(u: Tensor, mu: float = DEFAULT_MU) -> Tensor:
    """Inverse distribution function of the plateau logit-normal: u in (0,1) -> t in (0,1)."""
    p = plateau(mu)
    u = u * p.total
    below = logit_normal(u.clamp(max=p.mass_below), mu)
    return torch.where(u < p.mass_below, below, p.mode + (u - p.mass_below) / p.density)


def draw_levels(
    batch: int, mixture: TaskMixture, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Levels:
    """Draw the task and the levels of each sample, independently.

    The draws are made on the generator's device (the CPU without one) and computed on the CPU in float64, so that one
    seed gives the same levels on every kind of device.
    """
    source = "cpu" if generator is None else generator.device
    u = torch.rand(3, batch, generator=generator, device=source).cpu().double()
    u = u + 2.0**-25  # float32 draws are multiples of 2^-24: to the middle of their cells, so never 0
    rgb_given = u[0] < mixture.image_to_depth
    depth_given = ~rgb_given & (u[0] < mixture.image_to_depth + mixture.depth_to_image)
    t_rgb = torch.where(rgb_given, 0, logit_normal(u[1], mixture.mu)).float()
    t_depth = torch.where(depth_given, 0, plateau_logit_normal(u[2], mixture.mu)).float()
    return Levels(t_rgb.to(device), t_depth.to(device), rgb_given.to(device), depth_given.to(device))
