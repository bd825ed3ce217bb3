"""Procedural scenes as training data, rendered on the fly, and as files in the formats that `files` reads."""

import io
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .. import scenes
from ..depth.files import save_depth
from .data import RawBatch, RawSample, Size, UnusableSample, stack_raw
from .sparse import sparsify

SKY_DEPTH = 1e6  # what sky is written as: farther than anything, nearer than a renderer's background
WRITTEN_AT_ONCE = 64


class SceneSource:
    """Scene number i is made from training seed i, so the data need no files and never end.

    Args:
        size: (H, W) of the pictures.
        count: number of different scenes; 0: a new one for each sample.
        sparse: "dense", or what a sensor leaves of the depth: one of the ways of `sparse`, the same for a scene
            whenever it is used.
        device: where scenes are rendered; on a GPU use no loader processes.
        heldout: take the held-out seeds instead.
    """

    def __init__(
        self,
        size: Size,
        *,
        count: int = 0,
        difficulty: str = "full",
        kinds: tuple[str, ...] = (),
        style: str = "mixed",
        sparse: str = "dense",
        device: torch.device | str = "cpu",
        heldout: bool = False,
    ) -> None:
        self.sizes, self.counts = [size], [count or None]
        self.unusable: list[tuple[str, str]] = []
        self.options = {"size": size, "difficulty": difficulty, "style": style, "device": device}
        self.options["kinds"] = kinds or scenes.KINDS
        self.sparse = sparse
        self._seed = scenes.heldout_seed if heldout else scenes.train_seed

    def load(self, bucket: int, items: Sequence[int]) -> list[RawSample | UnusableSample]:
        """Renders scenes. A picture of nothing but sky is unusable."""
        seeds = [self._seed(item) for item in items]
        batch = scenes.generate(seeds, **self.options)
        depth = batch.depth if self.sparse == "dense" else self._sparse(batch, seeds)  # NaN unknown, +inf sky
        some = depth.isfinite().flatten(1).any(1).tolist()
        pictures = to_bytes(batch.rgb)
        return [
            RawSample(pictures[i], depth[i], batch.captions[i])
            if some[i]
            else UnusableSample(f"scene {seed}", "no valid depth")
            for i, seed in enumerate(seeds)
        ]

    def stack(self, samples: list[RawSample], flips: list[bool]) -> RawBatch:
        return stack_raw(samples, flips)

    def _sparse(self, batch: scenes.SceneBatch, seeds: list[int]) -> Tensor:
        """(B,H,W) depth as a sensor would have seen it; scene by scene, so that a batch's make-up changes nothing."""
        maps = [
            sparsify(
                batch.depth[i : i + 1],
                batch.rgb[i : i + 1],
                torch.Generator().manual_seed(seed),
                batch.shiny[i : i + 1],
                self.sparse,
            )
            for i, seed in enumerate(seeds)
        ]
        return torch.cat(maps)


def write_files(
    source: SceneSource, out: str | Path, count: int, *, kind: str = "folder", per_shard: int = 1000
) -> None:
    """Write the first `count` scenes in a format that `files.FileSource` reads.

    Pictures as PNG, depth as 32-bit NPY (0 = unknown, sky as `SKY_DEPTH`: read them with sky_from = SKY_DEPTH),
    captions as text. `kind`: "folder", or "shards" of `per_shard` scenes in each tar file.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        for number, files in _written(source, count):
            for suffix, content in files.items():
                (out / f"{number:08d}{suffix}").write_bytes(content)
        return
    archive = None
    for number, files in _written(source, count):
        if number % per_shard == 0:
            if archive is not None:
                archive.close()
            archive = tarfile.open(out / f"scenes-{number // per_shard:06d}.tar", "w")  # noqa: SIM115, closed above
        for suffix, content in files.items():
            member = tarfile.TarInfo(f"{number:08d}{suffix}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if archive is not None:
        archive.close()


def _written(source: SceneSource, count: int) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Number and files (suffix -> bytes) of each scene; scenes without depth are left out."""
    for start in range(0, count, WRITTEN_AT_ONCE):
        numbers = range(start, min(start + WRITTEN_AT_ONCE, count))
        for number, sample in zip(numbers, source.load(0, numbers), strict=True):
            if isinstance(sample, RawSample):
                yield (
                    number,
                    {".png": _png(sample.rgb), ".depth.npy": _npy(sample.depth), ".txt": sample.caption.encode()},
                )


def _png(rgb: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb.permute(1, 2, 0).cpu().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _npy(depth: Tensor) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = save_depth(Path(folder) / "depth.npy", torch.where(depth.isposinf(), SKY_DEPTH, depth), unit="metre")
        return path.read_bytes()


def to_bytes(rgb: Tensor) -> Tensor:
    """Pictures in 0..1 as uint8."""
    return (rgb * 255).round().clamp(0, 255).to(torch.uint8)
