"""Depth files: written by others in all their kinds, then damaged; and arguments out of range."""

import io
import json
import random
from pathlib import Path

import numpy as np
from hostile import Silent, damaged, number
from modality_forcing.model.depth.files import load_depth
from modality_forcing.model.depth.pictures import MEANINGS
from PIL import Image, PngImagePlugin

SCRIPT = "<img src=x onerror=alert(1)>"
# Formats with a checksum over what matters: damage never goes unseen.
CHECKED = (".png",)


def _png(rng: random.Random, values: np.ndarray) -> tuple[bytes, np.ndarray]:
    info = PngImagePlugin.PngInfo()
    if rng.random() < 0.3:
        info.add_text("depth_unit", rng.choice(("metre", SCRIPT, "x" * 400)))
    stored = rng.choice(
        (
            values.astype(np.uint16),
            (values % 256).astype(np.uint8),
            np.repeat((values % 256).astype(np.uint8)[..., None], 3, -1),
        )
    )
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "PNG", pnginfo=info, compress_level=rng.choice((0, 1, 9)))
    return buffer.getvalue(), stored if stored.ndim == 2 else stored[..., 0]


def _npy(rng: random.Random, values: np.ndarray) -> tuple[bytes, np.ndarray]:
    stored = values.astype(rng.choice(("<f4", ">f4", "<f8", "<u2", ">u2", "u1", "<i4", "<f2", "<i8")))
    buffer = io.BytesIO()
    shape = stored if 1 in stored.shape else rng.choice((stored[None], stored[..., None], np.asfortranarray(stored)))
    np.save(buffer, shape)
    return buffer.getvalue(), stored


def _tiff(rng: random.Random, values: np.ndarray) -> tuple[bytes, np.ndarray]:
    kinds = (np.float32, np.uint16, np.uint8, np.int32)
    stored = (values % 256).astype(rng.choice(kinds))
    buffer = io.BytesIO()
    text = json.dumps({"depth_unit": rng.choice(("metre", SCRIPT))}) if rng.random() < 0.5 else "made by hand"
    compression = rng.choice((None, "tiff_lzw", "tiff_adobe_deflate"))
    Image.fromarray(stored).save(buffer, "TIFF", description=text, compression=compression)
    return buffer.getvalue(), stored


def _exr(rng: random.Random, values: np.ndarray) -> tuple[bytes, np.ndarray]:
    import OpenEXR

    depth = values.astype(rng.choice((np.float32, np.float16)))
    kinds = OpenEXR.ZIP_COMPRESSION, OpenEXR.NO_COMPRESSION, OpenEXR.PIZ_COMPRESSION, OpenEXR.RLE_COMPRESSION
    header = {"compression": rng.choice(kinds), "type": OpenEXR.scanlineimage}
    other = np.zeros_like(values, dtype=np.float32)
    channels = rng.choice(
        ({"Y": depth}, {"Z": depth, "R": other, "G": other, "B": other, "A": other}, {SCRIPT + ".Z": depth, "R": other})
    )
    parts = [OpenEXR.Part(dict(header), channels, name="depth")]
    if rng.random() < 0.3:
        parts.insert(0, OpenEXR.Part(dict(header), {"R": other, "G": other, "B": other}, name="beauty"))
    buffer = io.BytesIO()
    OpenEXR.File(parts).write(buffer)
    return buffer.getvalue(), depth


def _lossy(rng: random.Random, values: np.ndarray) -> tuple[bytes, None]:
    buffer = io.BytesIO()
    Image.fromarray((values % 256).astype(np.uint8)).save(buffer, rng.choice(("JPEG", "WEBP")))
    return buffer.getvalue(), None


def _foreign(rng: random.Random, values: np.ndarray) -> tuple[bytes, None]:
    """Formats that are not for depth, under a name that is."""
    buffer = io.BytesIO()
    picture = Image.fromarray((values % 256).astype(np.uint8))
    picture.save(buffer, rng.choice(("EPS", "BMP", "GIF", "PPM", "TGA", "ICO", "PCX")))
    return buffer.getvalue(), None


WRITERS = {".png": _png, ".npy": _npy, ".tif": _tiff, ".exr": _exr, ".jpg": _lossy, ".webp": _lossy}


def case(rng: random.Random, folder: Path) -> None:
    generator = np.random.default_rng(rng.randrange(2**31))
    values = generator.integers(1, 2000, (rng.choice((1, 3, 24)), rng.choice((1, 5, 40))))
    suffix = rng.choice(tuple(WRITERS))
    content, expected = (_foreign if rng.random() < 0.05 else WRITERS[suffix])(rng, values)
    harm = "none"
    if rng.random() < 0.65:
        content, harm = damaged(rng, content)
    path = folder / f"map {rng.choice(('a', 'ü', 'x' * 80))}{suffix}"
    path.write_bytes(content)
    plain = rng.random() < 0.7
    arguments = {} if plain else {"scale": number(rng, 1.0), "near": number(rng, 1.0), "far": number(rng, 10.0)}
    meaning = "metric" if plain else rng.choice((*MEANINGS, "depth"))
    try:
        loaded = load_depth(path, meaning, **({"scale": 1.0} if plain else arguments))
    except ValueError as error:
        if plain and path.name not in str(error):
            raise TypeError(f"the message does not name the file: {error}") from error
        if harm == "none" and plain and expected is not None:
            raise Silent(f"a good file was refused: {error}") from error
        raise
    known = loaded.depth[loaded.valid]
    if not bool((known > 0).all()) or not loaded.depth[~loaded.valid].isnan().all():
        raise Silent("valid depth is not positive, or what is not valid is not NaN")
    if "<" in loaded.unit + loaded.read + "".join(loaded.warnings):
        raise Silent(f"text of a stranger is shown: {loaded.unit} {loaded.read} {loaded.warnings}")
    sure = harm in ("none", "grown", "cut") or suffix in CHECKED
    if plain and sure and expected is not None and not _same(loaded, expected):
        raise Silent(f"{loaded.read} with {harm} loads other values: {loaded.depth.shape}, {expected.shape}")


def _same(loaded: object, expected: np.ndarray) -> bool:
    wanted = expected.astype(np.float32)
    got = loaded.depth[0].nan_to_num(0).numpy()
    return got.shape == wanted.shape and np.allclose(got, np.where(wanted > 0, wanted, 0), rtol=1e-6)
