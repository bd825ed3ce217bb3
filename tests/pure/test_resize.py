"""Sizes and resampling by hand-checked numbers."""

import pytest
import torch
from modality_forcing.model.resize import centre_crop, cropped_size, fitted_size, resize_depth


@pytest.mark.parametrize(
    ("size", "fitted", "cropped"),
    [
        ((512, 512), (512, 512), (512, 512)),
        ((1920, 1080), (512, 288), (512, 288)),
        ((640, 480), (512, 384), (512, 384)),
        ((500, 333), (496, 336), (496, 320)),
        ((9, 300), (16, 304), (16, 288)),
    ],
)
def test_sizes(size, fitted, cropped):
    assert fitted_size(*size, 512) == fitted
    assert cropped_size(*size, 512) == cropped


def test_centre_crop():
    columns = torch.arange(10.0)[None, None, :, None].expand(1, 4, 10, 1)
    assert centre_crop(columns, 16, 16)[0, 0, :, 0].tolist() == [3, 4, 5, 6]


def test_holes_do_not_bleed_when_enlarging():
    depth = torch.tensor([[[1.0, 5.0], [1.0, 0.0]]])
    valid = depth > 0
    got, kept = resize_depth(depth, valid, 8, 8)
    assert torch.equal(
        kept[0],
        torch.ones(8, 8, dtype=torch.bool).index_put(
            (torch.arange(4, 8)[:, None], torch.arange(4, 8)), torch.tensor(False)
        ),
    )
    assert got[kept].min() >= 1 and got[kept].max() <= 5
    assert (got[~kept] == 0).all()


def test_shrinking_keeps_both_sides_of_an_edge():
    depth = torch.ones(1, 8, 8)
    depth[:, :, 4:] = 9
    got, _ = resize_depth(depth, depth > 0, 4, 4)
    assert sorted(got.unique().tolist()) == [1, 9]
