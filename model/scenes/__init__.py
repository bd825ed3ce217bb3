"""Procedural RGB-D scenes: rooms, tabletops, streets and open ground with exact depth and true captions.

``generate`` renders a batch from seeds, on CPU or GPU with the same code; ``views`` shows one scene from several
cameras. The other modules follow the steps: ``draws`` (random numbers), ``kinds`` and ``layout`` and ``objects`` (what
is where), ``camera``, ``trace`` and ``shapes`` (rays), ``shading``, ``captions``.
"""

from .captions import STYLES, VOCABULARY, tokens
from .draws import heldout_seed, train_seed
from .palette import KINDS
from .path import Views, views
from .render import DIFFICULTIES, SceneBatch, generate

__all__ = [
    "DIFFICULTIES",
    "KINDS",
    "STYLES",
    "VOCABULARY",
    "Views",
    "SceneBatch",
    "generate",
    "heldout_seed",
    "tokens",
    "train_seed",
    "views",
]
