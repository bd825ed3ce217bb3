"""A modality that is given: what the user sets, and what it does during one call of the network."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .levels import add_noise, given_level


@dataclass(frozen=True)
class Given:
    """A modality that conditions the other one.

    latent: (1 or B,C,h,w), NaN where unknown. mask: None (all of it is given) or (1 or B,1 or C,h,w) bool, True where
    given. strength 0..1; start and end as fractions of the sampling run. noise_level: the least level that it is given
    at while all of it is given, for a model that knows exactly clean pictures less well.
    """

    latent: Tensor
    mask: Tensor | None
    strength: float
    start: float
    end: float
    noise_level: float = 0.0

    def __post_init__(self) -> None:
        for name in ("strength", "noise_level"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"got {name} {getattr(self, name)}, expected 0 to 1")

    @property
    def replaces_modality(self) -> bool:
        """Whether the modality is not sampled at any step."""
        return self.mask is None and self.strength > 0 and self.start <= 0 and self.end >= 1


class Held:
    """The given part of one modality during one call. Letters: B batch, C channels."""

    def __init__(
        self, latent: Tensor, noise: Tensor, span: Tensor, mask: Tensor | None, sigma: Tensor, modality: str
    ) -> None:
        self.unknown = latent.isnan()  # (B,C,h,w)
        self.latent = torch.where(self.unknown, noise, latent)
        self.noise = noise
        self.modality = modality
        self.strength, start, end, self.least = span.unbind(1)  # (B,) each
        self.active = (sigma <= start) & (sigma > end)  # (B,)
        self.whole = mask is None
        inside = self.active.reshape(-1, 1, 1, 1)
        # Unknown depth inside a given map is noise to the network; inside a mask it is sampled like the rest.
        self.where = inside.expand(latent.shape) if mask is None else inside & mask.bool() & ~self.unknown

    def level(self, own: Tensor, other: Tensor) -> Tensor:
        """(B,) level of the modality: its own clock, or the given level while all of it is given."""
        level = given_level(other, self.strength, self.modality).maximum(self.least)
        return torch.where(self.active, level, own) if self.whole else own

    @property
    def complete(self) -> bool:
        """Whether nothing of the modality is predicted in this call."""
        return self.whole and bool(self.active.all() & ~self.unknown.any())

    def put(self, state: Tensor, level: Tensor) -> Tensor:
        """Overwrite the given part with (1 - t) x0 + t eps."""
        noisy = torch.where(self.unknown, self.noise, add_noise(self.latent, self.noise, level))
        return torch.where(self.where, noisy, state)

    def result(self, clean: Tensor, guess: Tensor) -> Tensor:
        """The given part comes back as it was given; unknown pixels as the network's guess."""
        return torch.where(self.where, torch.where(self.unknown, guess, self.latent), clean)
