"""Which layers get adapters (LoRA, arXiv 2106.09685), by the names of their weights."""

import re

from ..network.config import BLOCKS
from .from_text_to_image import clone_of

# The projections and MLPs of all blocks.
_BLOCKS = rf"({'|'.join(BLOCKS)})\.\d+\."
_LAYERS = r"(\w+_attn\.(qkv|proj)|\w+_mlp\.[02]|linear[12])"
ADAPTED = re.compile(_BLOCKS + _LAYERS)
_FRESH = ("depth", "time_in_", "cross_alpha")


def is_adapted(key: str) -> bool:
    """Whether a weight's layer gets an adapter."""
    return ADAPTED.fullmatch(key.removesuffix(".weight")) is not None


def is_fresh(key: str) -> bool:
    """Whether a weight is of depth alone and has nothing in a text-to-image model to begin from."""
    return key.startswith(_FRESH) and clone_of(key) is None


def adapter_size(shape: tuple[int, ...], rank: int) -> int:
    """Parameters of a linear layer's adapter: rank (inputs + outputs)."""
    return rank * sum(shape)
