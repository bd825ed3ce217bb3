"""A model on depth data sets by the paper's protocol (Modality Forcing, arXiv 2606.13676, evaluation).

Image -> depth: N samples of each picture, merged (10 in the published tables), scale and shift by robust L1 in depth on
a 64 x 64 grid, AbsRel and delta_1 at the depth's own resolution (`depth.alignment`). The picture is brought to the size
that the model was trained at, the depth back to the picture's. Which part of the pictures the authors compare is not
published: all of it here, or the crops that are usual for NYU and KITTI.

Depth -> image: pictures made from depth, against the true ones: FID, and AbsRel between a depth estimator's maps of
both. The estimator is the model itself here (the paper takes MoGe-2).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..depth.alignment import evaluate
from ..depth.ensemble import ensemble, members
from ..depth.tiles import tiled
from ..pipeline import Pipeline
from ..resize import fitted_size, resize_depth, resize_images
from .benchmark_data import Sample, crop

# AbsRel % and delta_1 %, as published.
PUBLISHED = {
    "Modality Forcing": {
        "nyu": (2.52, 98.9),
        "kitti": (5.37, 96.6),
        "eth3d": (2.37, 99.3),
        "scannet": (2.32, 98.9),
        "diode": (3.35, 97.7),
    },
    "JointDiT": {
        "nyu": (5.12, 96.9),
        "kitti": (10.90, 88.4),
        "eth3d": (5.32, 97.0),
        "scannet": (5.76, 96.3),
        "diode": (10.22, 93.9),
    },
}
PUBLISHED_TO_IMAGE = {"Modality Forcing": (11.41, 9.26), "JointDiT": (12.62, 6.99)}  # FID, AbsRel % on OpenImages-6K


@dataclass(frozen=True)
class Settings:
    """How a model is asked."""

    runs: int = 10
    steps: int = 50
    max_side_px: int = 512
    tile_px: int = 0  # 0: the whole picture at once
    overlap_px: int = 128
    detail: float = 0.4  # share of the steps that each tile takes
    usual_crop: bool = False
    solver: str = "euler"
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """Means over pictures, as fractions."""

    abs_rel: float
    delta1: float
    pictures: int
    left_out: int  # pictures without depth to compare


def image_to_depth(pipeline: Pipeline, kind: str, samples: Iterable[Sample], settings: Settings) -> Result:
    """Errors over the samples of a set."""
    errors, left_out = [], 0
    for sample in samples:
        depth, valid = estimated(pipeline, sample.image[None], settings)
        part = (slice(None), *crop(kind, *sample.depth.shape)) if settings.usual_crop else (slice(None),) * 3
        found = evaluate(depth[part], sample.depth[None][part], valid[part], sample.depth[None][part].isfinite())
        if found.abs_rel.isfinite().all():
            errors.append((found.abs_rel.item(), found.delta1.item()))
        else:
            left_out += 1
    if not errors:
        raise ValueError(f"got no picture with depth to compare ({left_out} without); check the data's folder")
    abs_rel, delta1 = torch.tensor(errors, dtype=torch.float64).mean(0).tolist()
    return Result(abs_rel, delta1, len(errors), left_out)


def estimated(pipeline: Pipeline, pictures: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Depth and where it is valid (B,H,W) of pictures (B,H,W,3) of any size."""
    height, width = pictures.shape[1:3]
    estimate = pipeline.depth_estimator(steps=settings.steps, solver=settings.solver, seed=settings.seed)
    if settings.tile_px:
        return _tiled(estimate, pictures, settings)
    small = resize_images(pictures, *fitted_size(width, height, settings.max_side_px))
    depth = ensemble(estimate, small, members(settings.runs, False, False)).depth
    return resize_depth(depth.nan_to_num(), depth.isfinite(), width, height)


def _tiled(estimate: Any, pictures: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    height, width = pictures.shape[1:3]
    whole = resize_images(pictures, *fitted_size(width, height, max(width, height)))
    depth, valid = tiled(estimate, whole, settings.tile_px, settings.overlap_px, settings.detail)
    return resize_depth(depth, valid, width, height)


def table(kind: str, result: Result, settings: Settings, name: str) -> str:
    """The result beside the published figures, as Markdown."""
    shares = 100 * result.abs_rel, 100 * result.delta1
    rows = [("this model", *shares), *((who, *figures[kind]) for who, figures in PUBLISHED.items())]
    how = f"tiles of {settings.tile_px}" if settings.tile_px else f"{settings.runs} samples merged"
    how += f", {settings.steps} {settings.solver.capitalize()} steps"
    lines = [
        f"{name} on {result.pictures} pictures of {kind} ({result.left_out} without depth left out): {how}, "
        f"{'the usual crop' if settings.usual_crop else 'whole pictures'}; published: 10 samples, crops not stated",
        "",
        f"| {kind} | AbsRel % | δ1 % |",
        "|---|---|---|",
        *(f"| {who} | {abs_rel:.2f} | {delta1:.1f} |" for who, abs_rel, delta1 in rows),
    ]
    return "\n".join(lines)


def depth_to_image(
    pipeline: Pipeline,
    batches: Iterable[tuple[Tensor, Tensor, Sequence[str]]],
    features: nn.Module | str | Path,
    *,
    steps: int = 50,
    guidance: float = 4.0,
    seed: int = 0,
) -> tuple[float, float, int]:
    """FID, AbsRel (fraction) and the number of pictures, of pictures made from depth.

    Args:
        batches: (pictures (B,H,W,3) in 0..1, depth (B,H,W) with NaN for unknown, captions).
        features: the file of Inception's weights for FID (torch-fidelity's), or a module (B,3,H,W) uint8 -> (B,C).
    """
    fid = _fid(features)
    errors, count = [], 0
    for pictures, depth, captions in batches:
        options = {"steps": steps, "seed": seed + count}
        made = pipeline.depth_to_image(depth, captions, guidance=guidance, **options)
        for images, real in ((pictures, True), (made, False)):
            fid.update((images.movedim(-1, 1) * 255).round().to(torch.uint8), real=real)
        of_made, of_true = (pipeline.image_to_depth(images, **options) for images in (made, pictures))
        errors.append(evaluate(of_made[0], of_true[0], of_made[1], of_true[1]).abs_rel)
        count += len(pictures)
    return float(fid.compute()), torch.cat(errors).nanmean().item(), count


def _fid(features: nn.Module | str | Path) -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise ImportError("FID needs torchmetrics: pip install torchmetrics torch-fidelity") from error
    if isinstance(features, nn.Module):
        return FrechetInceptionDistance(features)
    return FrechetInceptionDistance(feature_extractor_weights_path=str(features))


def image_table(fid: float, abs_rel: float, count: int, name: str) -> str:
    """The result of depth -> image beside the published figures, as Markdown."""
    rows = [("this model", fid, 100 * abs_rel), *((who, *figures) for who, figures in PUBLISHED_TO_IMAGE.items())]
    lines = [
        f"{name}: {count} pictures from depth; AbsRel by the model's own estimates. Published: 6000 pictures of "
        "OpenImages, estimates by MoGe-2; figures of other pictures, or of fewer, are not to be compared with those",
        "",
        "| depth to image | FID | AbsRel % |",
        "|---|---|---|",
        *(f"| {who} | {found:.2f} | {error:.2f} |" for who, found, error in rows),
    ]
    return "\n".join(lines)
