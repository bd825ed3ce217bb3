"""Members against error, grid and what uncertainty is worth."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from ....model.depth.alignment import evaluate
from ....model.depth.ensemble import Merged, ensemble, members
from ....model.scenes import SceneBatch
from .small import Row, Small, abs_rel, blocks

COUNT, STEPS = 16, 2
SETTINGS = (
    (1, False, False),
    (8, False, False),
    (8, True, False),
    (2, True, True),
    (4, True, True),
    (8, True, True),
)


def rows(small: Small) -> Iterator[Row]:
    """One for each setting, over the same scenes."""
    scenes = small.scenes(COUNT, 0)
    yield Row("ensemble", "the true depth", f"blocks {blocks(scenes.depth.where(scenes.valid, torch.nan)):.2f}")
    for count, mirror, shift in SETTINGS:
        start = time.monotonic()
        merged = ensemble(small.estimator(STEPS), scenes.rgb.movedim(1, -1), members(count, mirror, shift))
        each = (time.monotonic() - start) / COUNT
        extra = ", mirrored" * mirror + ", shifted" * shift
        figures = f"AbsRel {abs_rel(merged.depth, scenes):.2f} %, blocks {blocks(merged.depth):.2f}, {each:.2f} s"
        if count > 1:
            figures += f", uncertainty and error correlate by {correlation(merged, scenes):.2f}"
        yield Row("ensemble", f"{count} member{'s' if count > 1 else ''}{extra}, {STEPS} steps", figures)


def correlation(merged: Merged, scenes: SceneBatch) -> float:
    """Spearman's, the mean over pictures: between uncertainty and relative error after the fit."""
    fit = evaluate(merged.depth, scenes.depth, merged.depth.isfinite(), scenes.valid)
    fitted = merged.depth * fit.scale.float()[:, None, None] + fit.shift.float()[:, None, None]
    error = (fitted - scenes.depth).abs() / scenes.depth
    found = []
    for uncertainty, off, valid in zip(merged.uncertainty, error, scenes.valid & merged.depth.isfinite(), strict=True):
        ranks = torch.stack([_ranks(uncertainty[valid]), _ranks(off[valid])])
        found.append(torch.corrcoef(ranks)[0, 1])
    return float(torch.stack(found).mean())


def _ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().float()
