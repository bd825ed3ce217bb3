"""Depth data sets as their own files have them: pictures with depth in metres, opened one by one, for `benchmark`.

| set | pictures | depth |
|---|---|---|
| nyu | `nyu_depth_v2_labeled.mat` (HDF5), test scenes of `splits.mat` | the same file, metres |
| kitti | `depth_selection/val_selection_cropped/image/*.png` | `.../groundtruth_depth/*.png`, 16 bit, 1/256 m |
| eth3d | `<scene>/images/dslr_images/*.JPG` | `<scene>/ground_truth_depth/dslr_images/*.JPG`, bare float32 |
| scannet | `<scene>/color/*.jpg` | `<scene>/depth/*.png`, 16 bit, millimetres, smaller than the picture |
| diode | `val/*/scene_*/scan_*/*.png` | beside it `*_depth.npy`, metres, and `*_depth_mask.npy` |

A list of pairs (lines "picture depth", relative to the folder) takes the place of the layout's own, for Eigen's test
pictures of KITTI or a sample of ScanNet, for instance; depth is then read as the set writes it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..image_files import naming_the_file, open_image
from .data import DataError

NYU_FILE, NYU_SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
KITTI_FOLDER = Path("depth_selection") / "val_selection_cropped"
Crop = tuple[slice, slice]


@dataclass(frozen=True)
class Sample:
    """image (H,W,3) float32 in 0..1, depth (H,W) float32 in metres, NaN where it is not known."""

    name: str
    image: Tensor
    depth: Tensor


@dataclass(frozen=True)
class _Layout:
    """How a set's files lie and what its depth files hold. `most_m`: farther depth is not used, as is usual."""

    pairs: Callable[[Path], list[tuple[Path, Path]]]
    read_depth: Callable[[Path, tuple[int, int]], np.ndarray]
    most_m: float


def samples(kind: str, folder: str | Path, pairs: str | Path | None = None, count: int = 0) -> Iterator[Sample]:
    """The test samples of a set in their own order; the first `count` of them, or all.

    Args:
        kind: one of SETS.
        pairs: a list of files instead of the layout's own.

    Raises:
        DataError: there are none.
        ValueError: a file is damaged; names it.
    """
    root = Path(folder)
    if kind == "nyu":
        yield from _nyu(root, count)
        return
    layout = _LAYOUTS[kind]
    found = _listed(root, Path(pairs)) if pairs else layout.pairs(root)
    if not found:
        raise DataError(f"no pictures with depth in {root}; expected the files of {kind}:\n{__doc__}")
    for picture, depth in found[: count or None]:
        with open_image(picture) as image:
            pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255
        metres = torch.from_numpy(layout.read_depth(depth, pixels.shape[:2])).float()
        yield Sample(
            picture.relative_to(root).as_posix(), _at_depths_size(pixels, metres), _usable(metres, layout.most_m)
        )


def crop(kind: str, height: int, width: int) -> Crop:
    """What is usually compared of a set's pictures: Eigen's crop for NYU, Garg's for KITTI, all of the others."""
    if kind == "nyu":
        return slice(45 * height // 480, 471 * height // 480), slice(41 * width // 640, 601 * width // 640)
    if kind == "kitti":
        rows = slice(int(0.40810811 * height), int(0.99189189 * height))
        return rows, slice(int(0.03594771 * width), int(0.96405229 * width))
    return slice(None), slice(None)


def _usable(depth: Tensor, most_m: float) -> Tensor:
    return torch.where(depth.isfinite() & (depth > 0) & (depth <= most_m), depth, torch.nan)


def _at_depths_size(image: Tensor, depth: Tensor) -> Tensor:
    """Pictures that are larger than their depth (ScanNet's) are brought to its size."""
    if image.shape[:2] == depth.shape:
        return image
    planes = image.permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(planes, tuple(depth.shape), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).clamp(0, 1)


def _listed(root: Path, pairs: Path) -> list[tuple[Path, Path]]:
    found = []
    for number, line in enumerate(pairs.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if words and len(words) < 2:
            raise DataError(f"{pairs}, line {number}: got {line!r}, expected a picture and its depth")
        if words and words[1] != "None":  # lists that are about mark pictures without depth so
            found.append((root / words[0], root / words[1]))
    return found


def _nyu(root: Path, count: int) -> Iterator[Sample]:
    try:
        import h5py
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError("NYU's files need h5py and scipy: pip install h5py scipy") from error
    for name in (NYU_FILE, NYU_SPLITS):
        if not (root / name).is_file():
            raise DataError(f"{root} has no {name}; expected NYU Depth v2's labelled data set with its splits")
    with naming_the_file(root / NYU_SPLITS, "NYU's splits"):
        numbers = loadmat(root / NYU_SPLITS)["testNdxs"].ravel() - 1  # MATLAB counts from 1
    with naming_the_file(root / NYU_FILE, "NYU's labelled data"), h5py.File(root / NYU_FILE) as file:
        for number in numbers[: count or None]:
            image = torch.from_numpy(file["images"][int(number)]).permute(2, 1, 0).float() / 255  # (3,W,H) in the file
            depth = torch.from_numpy(file["depths"][int(number)]).T.float()
            yield Sample(f"{int(number) + 1}", image.contiguous(), _usable(depth, 10.0).contiguous())


def _kitti(root: Path) -> list[tuple[Path, Path]]:
    pictures = sorted((root / KITTI_FOLDER / "image").glob("*.png"))
    depth = root / KITTI_FOLDER / "groundtruth_depth"
    return [(picture, depth / picture.name.replace("_image_", "_groundtruth_depth_", 1)) for picture in pictures]


def _eth3d(root: Path) -> list[tuple[Path, Path]]:
    pictures = sorted(root.glob("*/images/dslr_images/*.JPG"))
    return [(p, p.parents[2] / "ground_truth_depth" / "dslr_images" / p.name) for p in pictures]


def _scannet(root: Path) -> list[tuple[Path, Path]]:
    pictures = sorted(root.glob("*/color/*.jpg"), key=lambda path: (path.parents[1].name, len(path.name), path.name))
    return [(picture, picture.parents[1] / "depth" / f"{picture.stem}.png") for picture in pictures]


def _diode(root: Path) -> list[tuple[Path, Path]]:
    pictures = sorted((root / "val").glob("*/scene_*/scan_*/*.png"))
    return [(picture, picture.with_name(f"{picture.stem}_depth.npy")) for picture in pictures]


def _png(unit_m: float) -> Callable[[Path, tuple[int, int]], np.ndarray]:
    """16-bit pictures of depth in steps of `unit_m`; 0 is not known."""

    def read(path: Path, _: tuple[int, int]) -> np.ndarray:
        with open_image(path) as image:
            values = np.asarray(image)
            if values.ndim != 2 or not str(image.mode).startswith("I"):
                raise ValueError(f"{path} holds {image.mode}; expected 16-bit depth")
        return values.astype(np.float32) * unit_m

    return read


def _raw_float(path: Path, size: tuple[int, int]) -> np.ndarray:
    """float32, row by row, infinite where unknown."""
    values = np.fromfile(path, dtype="<f4")
    if values.size != size[0] * size[1]:
        raise ValueError(f"{path} holds {values.size} numbers; expected {size[0]} x {size[1]}, as its picture has")
    return values.reshape(size)


def _masked_npy(path: Path, _: tuple[int, int]) -> np.ndarray:
    with naming_the_file(path, "an .npy file"):
        depth = np.load(path, allow_pickle=False).astype(np.float32)
        mask = np.load(path.with_name(f"{path.stem}_mask.npy"), allow_pickle=False)
        return np.where(mask.reshape(depth.shape[:2]) > 0, depth.reshape(depth.shape[:2]), np.nan)


_LAYOUTS = {
    "kitti": _Layout(_kitti, _png(1 / 256), 80.0),
    "eth3d": _Layout(_eth3d, _raw_float, float("inf")),
    "scannet": _Layout(_scannet, _png(0.001), 10.0),
    "diode": _Layout(_diode, _masked_npy, float("inf")),
}
SETS = ("nyu", *_LAYOUTS)
