"""Colour maps as tables of 256 RGB rows in colour_maps.json, which the browser's widgets can read too.

Made from matplotlib by `python -m model.depth.colour_maps` in the repository's root; a test compares the two where
matplotlib is installed. Spectral is stored as matplotlib's `Spectral_r`: its top is red, so near is red in a near-white
picture, as in Marigold's and Depth Anything's pictures.
"""

import functools
import json
from pathlib import Path

import torch
from torch import Tensor

TABLES_FILE = Path(__file__).with_name("colour_maps.json")
MATPLOTLIB_NAMES = {"magma": "magma", "turbo": "turbo", "spectral": "Spectral_r"}
COLOUR_MAPS = ("grey", *MATPLOTLIB_NAMES)


def apply_colour_map(values: Tensor, name: str) -> Tensor:
    """(...,3) colours in 0..1 of values (...) in 0..1. Linear between the 256 rows: smooth in float."""
    if name not in COLOUR_MAPS:
        raise ValueError(f"got colour map {name!r}, expected one of {list(COLOUR_MAPS)}")
    values = values.clamp(0.0, 1.0)
    if name == "grey":
        return values[..., None].repeat(*[1] * values.ndim, 3)
    table = torch.tensor(_tables()[name], dtype=values.dtype, device=values.device)  # (256,3)
    position = values * (len(table) - 1)
    row = position.floor().clamp(max=len(table) - 2).long()
    return torch.lerp(table[row], table[row + 1], (position - row)[..., None])


@functools.cache
def _tables() -> dict[str, list[list[float]]]:
    return json.loads(TABLES_FILE.read_text(encoding="utf-8"))


def write_tables(path: Path = TABLES_FILE) -> None:
    """Sample matplotlib's colour maps at their 256 entries, to five decimals."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("making the colour tables needs matplotlib: pip install matplotlib") from error
    rows = []
    for name, source in MATPLOTLIB_NAMES.items():
        colours = matplotlib.colormaps[source](range(256))[:, :3].round(5).tolist()
        rows.append(f"{json.dumps(name)}: {json.dumps(colours, separators=(',', ':'))}")
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write_tables()
