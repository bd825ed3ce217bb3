"""Scenes of the kind that the bundled model was trained on, and has not seen."""

from torch import Tensor

from ...model import scenes
from ..workflows.settings import SIDE

KIND = {"difficulty": "easy", "kinds": ("room", "ground")}
MAX_CODE = 1.8  # its codes are capped here in all tables; the sky is at 1.75


def held_out(count: int, first: int = 0, side: int = SIDE, style: str = "full") -> scenes.SceneBatch:
    """`count` of them from number `first` on, (side, side) pixels. style: of the captions."""
    seeds = [scenes.heldout_seed(first + i) for i in range(count)]
    return scenes.generate(seeds, (side, side), style=style, **KIND)


def held_out_views(number: int, poses: Tensor, side: int = SIDE) -> scenes.Views:
    """One of them from cameras at `poses` (V,4,4); see `scenes.views`."""
    return scenes.views(scenes.heldout_seed(number), poses, (side, side), **KIND)
