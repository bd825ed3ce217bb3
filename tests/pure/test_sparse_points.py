"""Measured points from text and from mostly empty maps."""

import numpy as np
import pytest
import torch
from modality_forcing.model.depth.sparse_points import ALL_IMAGES, parse_points, points_of_map


def test_lines_of_every_kind():
    text = "# measured\n1, 2, 3.5\n\n4;5;6;1\r\n7 8\t9  # the wall\n1e2,2.5e1,.5"
    expected = [[1, 2, 3.5, ALL_IMAGES], [4, 5, 6, 1], [7, 8, 9, ALL_IMAGES], [100, 25, 0.5, ALL_IMAGES]]
    np.testing.assert_array_equal(parse_points(text), expected)
    assert parse_points("\n# nothing\n").shape == (0, 4)


@pytest.mark.parametrize("line", ["1, 2", "1, 2, 3, 4, 5", "1, zwei, 3", "1, 2, nan", "1, 2, inf", "1, 2, 3, 0.5"])
def test_bad_lines_are_named(line):
    with pytest.raises(ValueError, match="line 2"):
        parse_points(f"1 2 3\n{line}")


def test_pixels_of_a_map_at_another_size():
    depth = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    valid = torch.tensor([[True, False], [False, True]])
    np.testing.assert_array_equal(points_of_map(depth, valid, 2, 2), [[0.5, 0.5, 1], [1.5, 1.5, 4]])
    np.testing.assert_array_equal(points_of_map(depth, valid, 8, 8), [[2, 2, 1], [6, 6, 4]])
    with pytest.raises(ValueError, match="other proportions"):
        points_of_map(torch.ones(8, 8), torch.ones(8, 8, dtype=torch.bool), 32, 16)
