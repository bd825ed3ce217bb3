"""Sparse measured points: (x_px, y_px, distance as z), from text, or from a map that is mostly empty."""

import math

import numpy as np
from torch import Tensor

from ..resize import check_same_view

ALL_IMAGES = -1


def parse_points(text: str) -> np.ndarray:
    """(N,4) float64 of x_px, y_px, distance, image from lines "x, y, distance" or "x, y, distance, image".

    Commas, semicolons and spaces separate; what follows # is a comment; an image number that is left out is
    ALL_IMAGES. Pixel (0, 0) spans 0..1. ValueError that names the line for anything else.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].replace(",", " ").replace(";", " ").split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) not in (3, 4) or not all(map(math.isfinite, values)) or values[3:] != [*map(round, values[3:])]:
            raise ValueError(
                f"line {number} of the points is {line.strip()!r}, expected 'x, y, distance' in pixels and the wanted "
                "unit, or 'x, y, distance, image' with the image's whole number"
            )
        rows.append([*values, ALL_IMAGES][:4])
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def points_of_map(depth: Tensor, valid: Tensor, width: int, height: int) -> np.ndarray:
    """(N,3) float64 points at the valid pixels' centres of a map (H',W'), in pixels of a width × height map of the same
    view. ValueError for other proportions."""
    own_height, own_width = depth.shape
    check_same_view((own_width, own_height), (width, height), "measured depth", "depth")
    rows, columns = np.nonzero(valid.cpu().numpy())
    distance = depth.detach().cpu().numpy()[rows, columns]
    return np.stack(((columns + 0.5) * width / own_width, (rows + 0.5) * height / own_height, distance), axis=1)
