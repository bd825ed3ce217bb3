"""Depth to pictures and back, with values worked out by hand."""

import math

import pytest
import torch
from modality_forcing.model.depth import colour_maps, pictures
from modality_forcing.model.depth.codec import FAR_RULES, far_pixels
from modality_forcing.model.depth.pictures import depth_from_picture, depth_picture, far_mask

INF, NAN = float("inf"), float("nan")


def row(*values):
    return torch.tensor([[values]])


def grey(depth, *args, **settings):
    picture = depth_picture(depth, *args, **settings)
    assert picture.shape == (*depth.shape, 3) and picture.dtype == torch.float32
    assert torch.equal(picture[..., 0], picture[..., 1]) and torch.equal(picture[..., 0], picture[..., 2])
    return picture[..., 0]


def assert_close(got, expected, tolerance=1e-6):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float32), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("mapping", "middle"),
    [
        ("disparity", 1 / 3),
        ("linear", 2 / 3),
        ("log", 0.5),
    ],  # depth 2 of 1..4: (1/2 − 1/4)/(3/4), (4 − 2)/3, half of log 4
)
def test_mappings_by_hand(mapping, middle):
    depth = row(1.0, 2.0, 4.0)
    assert_close(grey(depth, mapping=mapping, clip_percent=0.0), [[[1.0, middle, 0.0]]])
    far_white = grey(depth, mapping=mapping, polarity="far-white", clip_percent=0.0)
    assert_close(far_white, [[[0.0, 1 - middle, 1.0]]])
    fixed = grey(row(2.0), mapping=mapping, range_from="fixed", near=1.0, far=4.0)
    assert_close(fixed, [[[middle]]])


def test_the_default_is_a_midas_picture():
    depth = 1.0 / torch.linspace(0.1, 2.0, 100)[None, None]
    assert_close(grey(depth), torch.linspace(0.0, 1.0, 100)[None, None], 1e-5)


def test_ranges_per_image_and_per_batch():
    depth = torch.cat((row(1.0, 2.0), row(3.0, 5.0)))
    assert_close(grey(depth, mapping="linear", clip_percent=0), [[[1, 0]], [[1, 0]]])
    assert_close(grey(depth, mapping="linear", clip_percent=0, range_from="per batch"), [[[1, 0.75]], [[0.5, 0]]])


def test_values_outside_a_fixed_range_saturate():
    assert_close(grey(row(0.1, 99.0), range_from="fixed", near=1.0, far=2.0), [[[1.0, 0.0]]])


def test_percentiles_ignore_strays():
    depth = torch.arange(1.0, 1002.0).reshape(1, 1, 1001)
    depth[0, 0, -1] = 1e6
    got = grey(depth, mapping="linear", polarity="far-white", clip_percent=10.0)
    # Ranks 100 and 900 of 0..1000: depths 101 and 901.
    assert_close(got[0, 0, [100, 500, 900, 1000]], [0.0, 0.5, 1.0, 1.0])


def test_invalid_pixels_get_their_colour():
    depth = row(1.0, NAN, INF, 0.0, -3.0, 2.0)
    valid = torch.tensor([[[True, True, True, True, True, False]]])
    for name, value in (("far", 0.0), ("near", 1.0), ("black", 0.0), ("white", 1.0)):
        assert_close(grey(depth, valid, invalid_colour=name)[0, 0, 1:], [value] * 5)
    far = grey(depth, polarity="far-white", invalid_colour="far")
    assert_close(far[0, 0, 1:5], [1.0] * 4)
    coloured = depth_picture(depth, colour_map="magma")
    assert torch.equal(coloured[0, 0, 1], colour_maps.apply_colour_map(torch.tensor(0.0), "magma"))


def test_constant_and_empty_depth():
    assert_close(grey(torch.full((2, 2, 2), 3.0)), torch.full((2, 2, 2), 0.5))
    assert_close(grey(torch.full((1, 2, 2), NAN)), torch.zeros(1, 2, 2))
    assert_close(grey(row(7.0)), [[[0.5]]])
    assert_close(grey(torch.zeros(1, 2, 2), range_from="per batch", invalid_colour="white"), torch.ones(1, 2, 2))


def test_raw_is_the_depth():
    assert_close(grey(row(0.5, 7.0, INF), mapping="raw"), [[[0.5, 7.0, 0.0]]])


@pytest.mark.parametrize("meaning", [name for name in pictures.MEANINGS if name != "metric"])
def test_pictures_read_back(meaning):
    mapping, polarity = pictures.MEANINGS[meaning]
    depth = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(1)) * 7 + 1
    picture = depth_picture(depth, mapping=mapping, polarity=polarity, range_from="fixed", near=0.9, far=9.0)
    back, valid = depth_from_picture(picture, meaning, near=0.9, far=9.0)
    assert valid.all()
    torch.testing.assert_close(back, depth, rtol=1e-5, atol=0)


def test_metric_pictures():
    depth, valid = depth_from_picture(row(0.5, 0.0, NAN, 1.0), "metric", scale=20.0)
    assert valid.tolist() == [[[True, False, False, True]]]
    assert depth[0, 0, [0, 3]].tolist() == [10.0, 20.0] and torch.isnan(depth[0, 0, 1:3]).all()


def test_black_can_mean_no_depth():
    assert depth_from_picture(row(0.0, 1.0), "disparity near-white", far=4.0)[0].tolist() == [[[4.0, 1.0]]]
    valid = depth_from_picture(row(0.0, 1.0), "disparity near-white", black_is_invalid=True)[1]
    assert valid.tolist() == [[[False, True]]]


def test_coloured_pictures_are_refused():
    coloured = depth_picture(torch.linspace(1, 9, 64).reshape(1, 8, 8), colour_map="turbo")
    with pytest.raises(ValueError, match="coloured"):
        depth_from_picture(coloured, "depth far-white")


def test_far_mask_by_hand():
    depth = row(1.0, 2.0, 3.0, 100.0, INF, NAN)
    assert far_mask(depth, ratio=5.0).tolist() == [[[False, False, False, True, True, True]]]
    sensor = far_mask(depth, ratio=5.0, holes_are_far=False)
    assert sensor.tolist() == [[[False, False, False, True, False, False]]]
    assert far_mask(torch.full((1, 2, 2), INF)).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"mapping": "cubic"},
        {"polarity": "white"},
        {"range_from": "video"},
        {"invalid_colour": "pink"},
        {"colour_map": "jet"},
        {"mapping": "raw", "colour_map": "turbo"},
        {"clip_percent": 50.0},
        {"clip_percent": NAN},
        {"range_from": "fixed"},
        {"range_from": "fixed", "near": 2.0, "far": 1.0},
        {"range_from": "fixed", "near": 0.0, "far": 1.0},
        {"range_from": "fixed", "near": 1.0, "far": INF},
        {"range_from": "fixed", "near": 1.0, "far": 1e308},
    ],
)
def test_bad_settings_say_so(settings):
    with pytest.raises(ValueError, match="expected|use colour map"):
        depth_picture(row(1.0, 2.0), **settings)


def test_what_float32_cannot_hold_is_no_depth():
    far_end = depth_from_picture(row(0.0, 1.0), "disparity near-white", far=1e30)[0].flatten().tolist()
    assert far_end == pytest.approx([1e30, 1.0])  # 1 - (1 - 1e-30) is 0 in float32
    assert depth_from_picture(row(0.0, 1.0), "metric", scale=1e308)[1].tolist() == [[[False, False]]]


def test_bad_shapes_and_meanings_say_so():
    for call in (
        lambda: depth_picture(torch.ones(2, 2)),
        lambda: depth_picture(torch.ones(1, 0, 2)),
        lambda: depth_picture(torch.ones(1, 2, 2), torch.ones(1, 2, 3)),
        lambda: depth_from_picture(row(1.0), "depth"),
        lambda: depth_from_picture(row(1.0), "metric", scale=-1.0),
        lambda: depth_from_picture(row(1.0), "log depth far-white", far=1e308),
        lambda: depth_from_picture(row(1.0), "disparity near-white", near=1e-40),
        lambda: depth_from_picture(torch.ones(2, 2), "metric"),
        lambda: far_mask(row(1.0), ratio=0.0),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()


def test_colour_maps_are_matplotlibs():
    matplotlib = pytest.importorskip("matplotlib")
    for name, source in colour_maps.MATPLOTLIB_NAMES.items():
        expected = torch.from_numpy(matplotlib.colormaps[source](range(256))[:, :3]).float()
        got = colour_maps.apply_colour_map(torch.linspace(0, 1, 256), name)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


def test_colour_maps_are_smooth_between_their_rows():
    low, middle, high = (colour_maps.apply_colour_map(torch.tensor(v / 255), "magma") for v in (100.0, 100.5, 101.0))
    torch.testing.assert_close(middle, (low + high) / 2)
    assert math.isclose(float(colour_maps.apply_colour_map(torch.tensor(0.25), "grey")[0]), 0.25)


def test_far_pixels_by_each_rule():
    depth = torch.tensor([[[1.0, 2.0, 3.0, 4e5], [0.0, 30.0, 5.0, 6.0]]])
    valid = depth > 0
    far = {rule: far_pixels(depth, valid, rule, limit) for rule, limit in zip(FAR_RULES, (0, 20.0, 15.0), strict=True)}
    assert [int(mask.sum()) for mask in far.values()] == [0, 2, 1]
    assert far["multiple of the mean"][0, 1, 1] and far["percent of pixels"][0, 0, 3]
    for rule, limit in (("percent of pixels", 100.0), ("multiple of the mean", 0.0), ("half", 1.0)):
        with pytest.raises(ValueError, match="far"):
            far_pixels(depth, valid, rule, limit)
