"""Sizes and resampling by hand-checked numbers."""

import pytest
import torch
from modality_forcing.model.geometry.edges import DEFAULT_EDGE, depth_edges
from modality_forcing.model.resize import (
    centre_crop,
    check_same_view,
    cropped_size,
    fitted_size,
    resize_depth,
    same_view,
)


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


@pytest.mark.parametrize("step", [1.15, 5.0])
def test_an_edge_stays_an_edge_when_enlarged(step):
    """A step of 15 % enlarged 8 times is cut as it was before, and nothing lies between the two surfaces."""
    depth = torch.ones(1, 16, 16)
    depth[:, :, 8:] = step
    got, kept = resize_depth(depth, depth > 0, 128, 128)
    assert kept.all() and depth_edges(got, kept, DEFAULT_EDGE).any(-1).all()
    torch.testing.assert_close(got[0], depth[0].repeat_interleave(8, 0).repeat_interleave(8, 1))


def test_surfaces_are_enlarged_as_before():
    """Also slopes that are steeper than an edge's step, such as a floor seen at a low angle."""
    rows = 1 / torch.linspace(0.1, 1.0, 16)[None, :, None].expand(1, 16, 8)
    wavy = 1 + 0.01 * torch.rand(1, 16, 8, generator=torch.manual_seed(0))
    for depth in (rows.flip(1).contiguous(), wavy):
        got, _ = resize_depth(depth, depth > 0, 64, 128)
        plain = torch.nn.functional.interpolate(depth[:, None], (128, 64), mode="bilinear")[:, 0]
        inner = slice(16, -16)
        torch.testing.assert_close(got[:, inner], plain[:, inner])


def test_the_image_says_where_the_edge_is():
    """The old pixel that holds the edge is cut where the colours change, not in the middle between two pixels."""
    depth = torch.ones(1, 4, 8)
    depth[:, :, 4:] = 3
    image = torch.zeros(1, 32, 64, 3)
    image[:, :, 30:] = 1  # the middle between the old pixels' centres would be 32
    got, _ = resize_depth(depth, depth > 0, 64, 32, image)
    assert (got[0, 8:-8, :30] == 1).all() and (got[0, 8:-8, 30:] == 3).all()


def test_a_batch_is_enlarged_one_by_one():
    depth = torch.rand(3, 8, 8, generator=torch.manual_seed(0)) + 0.5
    valid = torch.rand(3, 8, 8, generator=torch.manual_seed(1)) > 0.2
    image = torch.rand(3, 20, 20, 3, generator=torch.manual_seed(2))
    whole = resize_depth(depth, valid, 37, 29, image)
    for i in range(3):
        one = resize_depth(depth[i : i + 1], valid[i : i + 1], 37, 29, image[i : i + 1])
        for got, wanted in zip(one, whole, strict=True):
            assert torch.equal(got[0], wanted[i])
    assert (whole[0][whole[1]] > 0).all() and (whole[0][~whole[1]] == 0).all()


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [
        ((512, 384), (640, 480), True),
        ((496, 336), (500, 333), True),  # brought to multiples of 16
        ((256, 160), (256, 168), True),
        ((96, 80), (100, 75), True),
        ((496, 336), (1000, 666), True),
        ((2, 2), (8, 8), True),
        ((640, 480), (321, 241), True),
        ((512, 384), (512, 341), False),  # 4:3 and 3:2
        ((128, 96), (128, 85), False),
        ((512, 288), (512, 384), False),
        ((128, 96), (640, 427), False),
        ((8, 8), (32, 16), False),
        ((2, 2), (4, 2), False),
    ],
)
def test_one_rule_for_proportions(size, other, same):
    assert same_view(size, other) == same_view(other, size) == same
    if not same:
        with pytest.raises(ValueError, match="got an image of .* pixels for depth of .* other proportions"):
            check_same_view(size, other, "an image", "depth")
