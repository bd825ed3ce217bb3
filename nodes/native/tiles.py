"""A model that predicts in overlapping tiles: any sampler, guider and condition beyond the trained size."""

from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor

from ...model.depth.codec import decode
from ...model.depth.enlarging import resize_codes
from ...model.depth.joint_tiles import in_tiles
from .latent_format import PARTS, scale_depth

WRAPPER_KEY = "modality_forcing_tiles"


def tiled_model(patcher: Any, tile: int, overlap: int, reference: Tensor | None) -> Any:
    """A clone of the model that sees a latent in tiles, and is what it was for one that fits into a tile.

    Args:
        tile, overlap: in cells.
        reference: depth codes (1 or B,256,·,·) of the whole picture, of any size, NaN where unknown; or None.
    """
    tiles = Tiles(tile, overlap, reference)
    patcher = patcher.clone()
    for kind, wrapper in (("PREPARE_SAMPLING", tiles.prepare), ("APPLY_MODEL", tiles.apply)):
        kind = getattr(comfy.patcher_extension.WrappersMP, kind)
        patcher.remove_wrappers_with_key(kind, WRAPPER_KEY)
        patcher.add_wrapper_with_key(kind, WRAPPER_KEY, wrapper)
    return patcher


class Tiles:
    """The two functions that core calls: before a run, and around each call of the model."""

    def __init__(self, tile: int, overlap: int, reference: Tensor | None) -> None:
        self.tile, self.overlap, self.codes = tile, overlap, reference
        self.shape: tuple[int, ...] = ()  # (B,384,h,w) of the run
        self.depth: Tensor | None = None  # the reference at the run's size, NaN where unknown

    def prepare(self, executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """The memory that the run asks for is that of a tile."""
        self.shape, self.depth = tuple(noise_shape), None
        if self.codes is not None:
            self.depth = self._reference(*self.shape[-2:])
        smaller = [*noise_shape[:-2], *(min(side, self.tile) for side in noise_shape[-2:])]
        return executor(model, smaller, *args, **kwargs)

    def apply(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x: (B,384,h,w) as samplers carry it -> the clean latent, likewise."""
        h, w = x.shape[-2:]
        if max(h, w) <= self.tile:
            return executor(x, *args, **kwargs)
        *_, transformer_options = args
        if "easycache" in transformer_options:
            raise ValueError("EasyCache and RGB-D Tiles: what it keeps of one tile would go to the next; remove one.")
        alpha = 2.0**executor.class_obj.log2_alpha

        def predict(rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
            comfy.model_management.throw_exception_if_processing_interrupted()
            seen = {name: _cut(value, (h, w), rows, columns) for name, value in kwargs.items()}
            clean = scale_depth(executor(x[..., rows, columns], *args, **seen), alpha)
            return tuple(clean[:, part] for part in PARTS.values())

        given = "depth_latent" in kwargs  # then that says the scale
        reference = None if given else self._of_call(x)
        clean = torch.cat(in_tiles(predict, h, w, self.tile, self.overlap, reference), dim=1)
        return scale_depth(clean, 1 / alpha)

    def _of_call(self, x: Tensor) -> Tensor | None:
        """The reference (B,H,W) for the samples of a call, which holds the run's batch once for each condition."""
        if self.depth is None:
            return None
        if x.shape[-2:] != self.shape[-2:]:
            raise ValueError(
                f"got an area of {x.shape[-1] * 16} x {x.shape[-2] * 16} pixels, larger than a tile, for 'RGB-D "
                "Tiles' with a reference; expected conditions for the whole picture. Remove the areas or the reference"
            )
        depth = self.depth.to(x)
        return depth.repeat(len(x) // len(depth), 1, 1)

    def _reference(self, h: int, w: int) -> Tensor:
        batch = self.shape[0]
        if len(self.codes) not in (1, batch):
            raise ValueError(
                f"got a reference of {len(self.codes)} maps for a batch of {batch}; expected 1 or one for each sample"
            )
        depth, valid = decode(resize_codes(self.codes, h, w))
        return torch.where(valid, depth, torch.nan)


def _cut(value: Any, size: tuple[int, int], rows: slice, columns: slice) -> Any:
    """The part of a condition that belongs to a tile; what has no place in the picture stays."""
    spatial = isinstance(value, Tensor) and value.ndim == 4 and tuple(value.shape[-2:]) == size
    return value[..., rows, columns] if spatial else value
