"""Ensembles, tiles, clips and completion, with estimators whose right answer is known."""

import numpy as np
import pytest
import torch
from modality_forcing.model.depth.clip import clip_depth, same_scale_and_shift
from modality_forcing.model.depth.codec import contract, decode, encode, expand, patchify, unpatchify
from modality_forcing.model.depth.completion import complete
from modality_forcing.model.depth.enlarging import resize_codes
from modality_forcing.model.depth.ensemble import ensemble, median, members, merge, uncertainty_picture
from modality_forcing.model.depth.joint_tiles import in_tiles
from modality_forcing.model.depth.matching import match, match_locally, matched, spread
from modality_forcing.model.depth.softness import softened
from modality_forcing.model.depth.tiles import count_tiles, tiled
from modality_forcing.model.diffusion.given import Given

NAN = float("nan")


def plane(height, width, tilt=2.0):
    """(H,W) depth from 1 at the top to 1 + tilt at the bottom, and a little to the side."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return 1 + tilt * y + 0.3 * x


class Reader:
    """Reads depth out of the pictures' first channel (depth / 10), as a perfect estimator that only loses the scale;
    `spoil` may change the map (N,H,W) of each call."""

    def __init__(self, spoil=lambda depth, noise: depth):
        self.spoil, self.sizes, self.starts = spoil, [], []

    def noise(self, count, height, width):
        return torch.randn((count, 4, height // 16, width // 16), generator=torch.manual_seed(0))

    def __call__(self, pictures, noise, start=None, denoise=1.0):
        assert noise.shape == (len(pictures), 4, pictures.shape[1] // 16, pictures.shape[2] // 16)
        self.sizes.append(tuple(pictures.shape))
        self.starts.append(start)
        return encode(self.spoil(10 * pictures[..., 0], noise))


def pictures_of(depth):
    return (depth / 10)[..., None].expand(*depth.shape, 3).contiguous()


def relative(got, want):
    return float(((got - want).abs() / want).max())


# --- matching ---


def test_match_finds_scale_and_shift_past_outliers_and_unknown_pixels():
    truth = plane(64, 96)
    depth = (truth - 0.4) / 3
    depth[:8] = NAN
    truth[30:40, 20:40] *= 3  # an eighth of what is left says something else
    scale, shift = match(depth, truth)
    assert scale == pytest.approx(3, abs=1e-4) and shift == pytest.approx(0.4, abs=1e-4)


def test_match_of_few_samples_of_inverted_and_of_unknown_maps():
    depth = torch.full((32, 32), NAN)
    depth[3, 4], depth[20, 9] = 1.0, 2.0
    assert match(depth, depth * 5) == (pytest.approx(5), 0.0)
    scale, shift = match(plane(32, 32), 5 - plane(32, 32))  # nearer is farther: no shift is taken
    assert scale > 0 and shift == 0.0
    assert match(torch.full((8, 8), NAN), plane(8, 8)) == (1.0, 0.0)


def test_matched_serves_one_reference_for_all_and_drops_what_ends_behind_the_camera():
    truth = plane(64, 64)
    both = matched(torch.stack([truth / 2, (truth - 1.2) / 2]), truth[None])
    assert relative(both[0], truth) < 1e-5
    assert torch.equal(both[1].isnan(), truth < 1.2) or relative(both[1][truth > 1.3], truth[truth > 1.3]) < 1e-5


def test_a_local_match_undoes_a_slow_factor_and_keeps_edges():
    truth = plane(96, 96)
    truth[20:60, 30:70] *= 0.5
    bent = truth * (0.3 * torch.linspace(0, 1, 96)[None]).exp()
    back = match_locally(bent[None], truth[None], (6,))[0]
    assert relative(back[8:-8, 8:-8], truth[8:-8, 8:-8]) < 0.02
    assert relative(back[:, 29] / back[:, 30], truth[:, 29] / truth[:, 30]) < 0.02
    assert torch.equal(match_locally(truth[None], truth[None], (6,))[0], truth)


def test_a_field_ends_where_there_are_no_samples():
    values, weights = torch.zeros(1, 128, 128), torch.zeros(1, 128, 128)
    values[0, 20, 20], weights[0, 20, 20] = 1.0, 1.0
    field = spread(values, weights, (4,), trust=0.5)[0]
    assert 0.5 < field[20, 20] < 0.7 and field[60:, 60:].abs().max() == 0


# --- ensemble ---


def test_members_move_evenly_over_the_patch():
    places = {(m.down, m.right) for m in members(16, False, True)}
    assert places == {(down, right) for down in (-8, -4, 0, 4) for right in (-8, -4, 0, 4)}
    assert [m.mirrored for m in members(3, True, False)] == [False, True, False]
    assert members(1, True, True)[0] == members(1, False, False)[0]
    with pytest.raises(ValueError, match="0 members"):
        members(0, True, True)


@pytest.mark.parametrize("index", range(8))
def test_a_member_sees_the_picture_moved_and_puts_its_map_back(index):
    depth = plane(32, 48)[None]
    member = members(8, True, True)[index]
    back = member.back(member.view(depth[..., None])[..., 0])
    known = back.isfinite()
    assert torch.equal(back[known], depth[known]) and known.float().mean() >= (24 / 32) * (40 / 48)


def test_one_member_is_the_plain_estimate():
    estimate, pictures = Reader(), pictures_of(torch.stack([plane(32, 48), plane(32, 48, 1.0)]))
    merged = ensemble(estimate, pictures, members(1, True, True))
    assert torch.equal(merged.depth, decode(estimate(pictures, estimate.noise(2, 32, 48)))[0])
    assert not merged.uncertainty.any()


def test_members_of_other_scales_are_brought_together_and_the_grid_goes():
    """An estimator that steps at each border of a patch, and adds scale and shift of its own."""
    patches = torch.rand(4, 4, generator=torch.manual_seed(2)).repeat_interleave(16, 0).repeat_interleave(16, 1)
    steps = 1 + 0.4 * patches

    def spoil(depth, noise):
        return depth * steps * (1 + 0.2 * noise[:, 0, 0, 0].abs()[:, None, None])

    truth = plane(64, 64)
    merged = ensemble(Reader(spoil), pictures_of(truth[None]), members(16, True, True))
    plain = ensemble(Reader(spoil), pictures_of(truth[None]), members(1, True, True))

    def border(depth):
        step = (depth[0, 1:] / depth[0, :-1]).log().abs()
        return float(step[15::16].mean() / step[[i for i in range(63) if i % 16 != 15]].mean())

    assert border(plain.depth) > 3 and border(merged.depth) < 0.45 * border(plain.depth)
    assert 0.01 < merged.uncertainty.median() < 0.2

    def off(depth):
        return float((matched(depth, truth[None]) / truth - 1).abs().mean())

    assert off(merged.depth) < 0.8 * off(plain.depth)


def test_medians_leave_out_what_is_unknown():
    maps = torch.tensor([[1.0, NAN, NAN], [3.0, 2.0, NAN], [9.0, 4.0, NAN]])
    assert torch.equal(median(maps)[:2], torch.tensor([3.0, 3.0])) and median(maps)[2].isnan()
    merged = merge(torch.stack([plane(32, 32)[None], 2 * plane(32, 32)[None]]))
    assert relative(merged.depth, plane(32, 32)[None]) < 1e-5 and merged.uncertainty.max() < 1e-5


def test_the_picture_of_uncertainty_is_white_at_the_top():
    picture = uncertainty_picture(torch.linspace(0, 0.2, 100).reshape(1, 10, 10))
    assert picture.shape == (1, 10, 10, 3) and picture.max() == 1.0
    assert picture[0, 0, 0, 0] == 0 and not uncertainty_picture(torch.zeros(1, 4, 4)).any()


# --- tiles ---


def own_scale(depth, noise):
    """Each call at a scale and a shift of its own, as tiles come."""
    return depth * (1 + noise[:, 1, 0, 0].abs()[:, None, None]) + 0.5 * noise[:, 2, 0, 0].abs()[:, None, None]


def test_tiles_of_a_plane_have_one_scale_and_no_seam():
    truth = plane(160, 224)
    estimate = Reader(own_scale)
    depth, valid = tiled(estimate, pictures_of(truth[None]), 64, 32, 0.5)
    assert valid.all() and len(estimate.sizes) == count_tiles(160, 224, 64, 32)
    assert max(max(size[1:3]) for size in estimate.sizes) == 64  # memory is that of a tile
    fitted = matched(depth, truth[None])[0]
    assert relative(fitted, truth) < 0.05
    second = depth[0].diff(dim=0).diff(dim=0).abs()  # 0 on a plane; a seam would stand out of it
    assert second[8:-8].max() < 0.3 * depth[0].diff(dim=0).abs().median()


def test_a_picture_of_one_tile_is_the_plain_estimate():
    estimate, pictures = Reader(), pictures_of(plane(48, 64)[None])
    depth, _ = tiled(estimate, pictures, 64, 32, 0.25)
    assert torch.equal(depth, decode(estimate(pictures, estimate.noise(1, 48, 64)))[0])
    assert count_tiles(48, 64, 64, 32) == 1


def test_tiles_start_from_the_whole_picture():
    truth = plane(64, 128)
    estimate = Reader()
    tiled(estimate, pictures_of(truth[None]), 64, 0, 0.25)
    assert estimate.starts[0] is None
    start, _ = decode(estimate.starts[2])  # the right half
    assert relative(matched(start, truth[None, :, 64:]), truth[None, :, 64:]) < 0.03


@pytest.mark.parametrize("tile, overlap", [(60, 16), (64, 64), (64, 8)])
def test_tiles_that_do_not_fit_the_grid_are_refused(tile, overlap):
    with pytest.raises(ValueError, match=f"tiles of {tile} pixels with an overlap of {overlap}"):
        tiled(Reader(), pictures_of(plane(128, 128)[None]), tile, overlap, 0.5)


def joint_plane(truth, own):
    """Predictions of parts of a plane: cells' first pixels as RGB, codes as depth, of each part's scale or of one."""

    def predict(rows, columns):
        depth = truth[None, 16 * rows.start : 16 * rows.stop, 16 * columns.start : 16 * columns.stop]
        scale = depth.mean() if own else truth.mean()
        return depth[:, None, ::16, ::16], patchify(contract(depth / scale))

    return predict


def test_joint_tiles_of_one_scale_are_the_whole_picture():
    truth = plane(160, 224)
    rgb, codes = in_tiles(joint_plane(truth, own=False), 10, 14, 4, 2)
    assert relative(rgb, truth[None, None, ::16, ::16]) < 1e-6
    assert relative(expand(unpatchify(codes)), truth[None] / truth.mean()) < 1e-5


def test_joint_tiles_share_the_scale_of_a_reference_without_a_seam():
    truth = plane(160, 224)
    reference = truth[None] / truth.mean()
    _, codes = in_tiles(joint_plane(truth, own=True), 10, 14, 4, 2, reference)
    depth = expand(unpatchify(codes))
    assert relative(depth, reference) < 0.02
    steps = depth[0].diff(dim=0).abs()
    borders = [32 * k - 1 for k in range(1, 5)]  # where tiles begin and end
    inside = [row for row in range(159) if row not in borders]
    assert steps[borders].mean() < 1.05 * steps[inside].mean()
    _, own = in_tiles(joint_plane(truth, own=True), 10, 14, 4, 2)
    assert relative(expand(unpatchify(own)), reference) > 0.2  # what the reference is for


# --- clips ---


def flight(count=12):
    """Depth (N,H,W) as a camera sees it that flies forward."""
    return torch.stack([plane(48, 64) + 2 - 1.5 * i / count for i in range(count)])


def test_frames_of_other_scales_come_to_one():
    truth = flight()
    scale = torch.linspace(0.5, 2, 12)[torch.randperm(12, generator=torch.manual_seed(1))][:, None, None]
    solved = same_scale_and_shift(truth / scale)
    apart = (solved[1:] - solved[:-1]).abs().mean() / solved.mean()
    assert apart < 1.1 * (truth[1:] - truth[:-1]).abs().mean() / truth.mean()
    assert solved.mean((1, 2)).std() / solved.mean() < 0.25 < (truth / scale).mean((1, 2)).std() / truth.mean()


def test_a_clip_at_one_scale_stays_as_it_is_and_unknown_pixels_do_not_count():
    still = plane(48, 64).expand(5, -1, -1).clone()
    assert relative(same_scale_and_shift(still), still) < 1e-6
    still[2, 10:20] = NAN
    solved = same_scale_and_shift(still * torch.tensor([1, 2, 3, 2, 1.0])[:, None, None])
    assert solved[2, 10:20].isnan().all()
    known = solved[:, 20:]
    assert relative(known, known[:1].expand_as(known)) < 1e-3


def test_one_frame_and_frames_without_depth():
    assert torch.equal(same_scale_and_shift(plane(32, 32)[None]), plane(32, 32)[None])
    empty = torch.full((3, 32, 32), NAN)
    assert same_scale_and_shift(empty).isnan().all()
    empty[1] = plane(32, 32)
    assert relative(same_scale_and_shift(empty)[1], plane(32, 32)) < 1e-3


@pytest.mark.parametrize("wrong", ["flat", "inside out"])
def test_a_frame_that_fits_none_of_the_others_does_not_bend_them_and_is_named(wrong):
    """By least squares alone a flat frame can flatten all others, and an inverted one is turned inside out."""
    still, told = plane(48, 64), []
    frames = torch.stack([still] * (5 if wrong == "inside out" else 3))
    frames[1] = still.amax() + still.amin() - still if wrong == "inside out" else 1.0
    assert relative(same_scale_and_shift(frames, told.append), frames) < 1e-3
    assert len(told) == 1 and f"frame 1 of {len(frames)} " in told[0]
    same_scale_and_shift(frames[2:], told.append)
    assert len(told) == 1


def test_frames_share_noise_and_one_frame_is_the_plain_estimate():
    seen = []

    def spoil(depth, noise):
        seen.append(noise)
        return depth

    estimate = Reader(spoil)
    frames = pictures_of(flight(4))
    clip_depth(estimate, frames)
    assert seen[0].shape[0] == 4 and torch.equal(seen[0], seen[0][:1].expand_as(seen[0]))
    plain = decode(Reader()(frames[:1], estimate.noise(1, 48, 64)))[0]
    assert torch.equal(clip_depth(Reader(), frames[:1]), plain)


def test_frames_start_from_the_frame_before():
    estimate = Reader()
    clip_depth(estimate, pictures_of(flight(3)), denoise=0.5)
    assert [start is None for start in estimate.starts] == [True, False, False]
    assert [size[0] for size in estimate.sizes] == [1, 1, 1]
    assert torch.allclose(estimate.starts[1], encode(flight(3)[:1]), atol=1e-5)


# --- measured points ---


def sparse(depth, share, seed=0):
    chosen = torch.rand(depth.shape, generator=torch.manual_seed(seed)) < share
    return torch.where(chosen, depth, torch.nan)


def test_points_give_the_scale_and_what_the_estimate_has_bent():
    truth = 3 * plane(64, 96)
    bent = truth * (0.2 * torch.sin(torch.linspace(0, 4.5, 96)))[None].exp() / 7
    points = sparse(truth, 0.03)
    done = complete(bent, points)
    assert done.points == int(points.isfinite().sum())
    assert done.after < 0.03 < done.before
    assert float(((done.depth - truth).abs() / truth).mean()) < 0.03
    plain = complete(bent, points, finest=0)
    assert plain.after == plain.before == done.before


def test_more_points_are_never_worse():
    truth = plane(64, 64)
    wavy = truth * (0.3 * torch.sin(torch.linspace(0, 9, 64)))[:, None].exp()
    errors = [
        float(((complete(wavy, sparse(truth, share)).depth - truth).abs() / truth).mean())
        for share in (0.004, 0.04, 0.4)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02


def test_one_point_sets_the_scale_and_none_is_an_error():
    truth = plane(64, 64)
    points = torch.full_like(truth, NAN)
    with pytest.raises(ValueError, match="none of the 0 measured points"):
        complete(truth, points)
    points[30, 30] = 4 * truth[30, 30]
    assert relative(complete(truth, points).depth, 4 * truth) < 1e-5
    points[:] = NAN
    points[30:40, 30:40] = 4 * truth[30:40, 30:40]  # all in one place
    assert relative(complete(truth, points).depth, 4 * truth) < 0.05


# --- sizes ---


def test_enlarged_codes_are_the_enlarged_map():
    truth = plane(64, 96, 0.5)[None]
    larger = unpatchify(resize_codes(patchify(truth), 6, 9))
    y = torch.nn.functional.interpolate(truth[:, None], (96, 144), mode="bilinear")[:, 0]
    assert relative(larger, y) < 1e-3
    assert torch.equal(resize_codes(patchify(truth), 4, 6), patchify(truth))
    truth = torch.cat([torch.full((1, 32, 16), 0.5), torch.full((1, 32, 16), 1.6)], dim=2)
    larger = unpatchify(resize_codes(patchify(truth), 6, 6))
    assert relative(larger, truth[:, :1, :1].where(torch.arange(96) < 48, truth[:, :1, -1:])) < 1e-5  # a step stays one


def test_holes_stay_holes_when_codes_are_resized():
    depth = plane(64, 64)[None].clone()
    depth[:, 16:32, 16:32] = NAN
    larger = unpatchify(resize_codes(patchify(depth), 8, 8))
    assert larger[:, 34:62, 34:62].isnan().all() and np.isfinite(larger[:, :30].numpy()).all()


def test_softness_keeps_layout_and_takes_edges():
    depth = torch.ones(1, 64, 96)
    depth[:, :, 48:] = 3.0
    codes = encode(depth)
    assert softened(codes, 0.0) is codes
    soft, sharp = (unpatchify(x)[0] for x in (softened(codes, 0.5), codes))  # a Gaussian of 6 pixels
    assert torch.allclose(soft[:, [0, -1]], sharp[:, [0, -1]], atol=1e-3)  # far from the edge
    rise = soft[32, 48] - soft[32, 47]
    assert rise == pytest.approx(float(sharp[32, 48] - sharp[32, 47]) / (6 * (2 * torch.pi) ** 0.5), rel=0.02)
    assert soft[32, 47] + soft[32, 48] == pytest.approx(float(sharp[32, 47] + sharp[32, 48]), rel=1e-4)


def test_softness_leaves_holes_and_does_not_spread_them():
    codes = encode(torch.full((1, 32, 32), 2.0))
    codes[:, :128] = NAN  # the upper half of each patch
    soft = softened(codes, 1.0)
    assert torch.equal(soft.isnan(), codes.isnan())
    assert torch.allclose(soft[:, 128:], codes[:, 128:])


@pytest.mark.parametrize("wrong", [NAN, -0.1, 1.5, float("inf")])
def test_a_share_that_is_none_is_named(wrong):
    """A wire may bring any number: NaN as strength gave depth of nothing."""
    for settings in ({"strength": wrong}, {"strength": 1.0, "noise_level": wrong}):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            Given(torch.ones(1, 256, 2, 2), None, start=0.0, end=1.0, **settings)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        softened(torch.ones(1, 256, 2, 2), wrong)
