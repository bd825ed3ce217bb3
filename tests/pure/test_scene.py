"""Scenes that grow view by view, with views whose right answer is known."""

import pytest
import torch
from modality_forcing.model.depth.codec import contract, encode, unpatchify
from modality_forcing.model.geometry.packets import make_geometry, read_geometry
from modality_forcing.model.geometry.pointcloud import PointCloud, point_clouds
from modality_forcing.model.geometry.pose import camera_pose
from modality_forcing.model.geometry.render import render_views
from modality_forcing.model.geometry.scene import FARTHEST, add_view, filled_from_around, joined, view_to_paint
from modality_forcing.model.scenes import generate, train_seed, views

SIZE = 64
EDGE = 0.2


@pytest.fixture(scope="module")
def walk():
    """A scene, its first view as packet and cloud, and the second as rendered from it and as it is."""
    pose = camera_pose(right=0.4, yaw_deg=-8)
    true = views(train_seed(3), torch.stack([torch.eye(4), pose]), (SIZE, SIZE), "easy", ("room",))
    pictures = true.rgb.movedim(1, -1)
    first = make_geometry(true.depth[:1], true.valid[:1], true.intrinsics, pictures[:1])
    (cloud,) = point_clouds(first, edge_threshold=EDGE)
    seen = render_views([cloud], pose[None], true.intrinsics, SIZE, SIZE)
    view = make_geometry(seen.depth, ~seen.hole, true.intrinsics, seen.image)
    return true, pictures, cloud, view, pose


def test_the_views_of_a_scene_begin_with_its_own():
    scene = generate([train_seed(5)], (32, 48), difficulty="easy", kinds=("ground",))
    both = views(train_seed(5), torch.stack([torch.eye(4), camera_pose(forward=0.5)]), (32, 48), "easy", ("ground",))
    assert torch.allclose(both.rgb[0], scene.rgb[0], atol=1e-5)
    near = scene.valid[0] & both.valid[0]
    assert torch.allclose(both.depth[0][near], scene.depth[0][near], rtol=1e-4)
    assert torch.equal(both.intrinsics, scene.intrinsics)
    below = (near & both.valid[1])[-6:]  # forward by half a metre: the ground below comes no nearer, objects do
    assert (both.depth[1][-6:][below] <= both.depth[0][-6:][below] + 1e-3).all()
    with pytest.raises(ValueError, match="difficulty got 'hard'"):
        views(0, torch.eye(4)[None], difficulty="hard")


def test_a_perfect_view_at_another_scale_fills_the_holes_with_the_truth(walk):
    true, pictures, cloud, view, pose = walk
    painted = make_geometry((true.depth[1:] - 0.3) / 2, true.valid[1:], true.intrinsics, pictures[1:])
    merged, whole = add_view(cloud, painted, view, pose, EDGE)
    hole = ~view["mask"] & true.valid[1:]
    assert hole.float().mean() > 0.05
    off = (whole["depth"][hole] - true.depth[1:][hole]).abs() / true.depth[1:][hole]
    assert off.median() < 0.02
    known = view["mask"][..., None]
    assert torch.equal(whole["image"], torch.where(known, view["image"], pictures[1:])), "colours that were known stay"
    # Seen from the second camera again: the old points are where they were, the holes are closed.
    again = render_views([merged], pose[None], true.intrinsics, SIZE, SIZE)
    assert again.hole.float().mean() < 0.35 * (~view["mask"]).float().mean()
    known = view["mask"] & ~again.hole
    assert ((again.depth - view["depth"])[known].abs() / view["depth"][known]).quantile(0.9) < 0.01
    assert len(cloud) < len(merged) <= len(cloud) + int(hole.sum())


def test_what_is_painted_begins_where_the_scene_ends(walk):
    """A painted map that is bent by 20 % from patch to patch, as a model's own is, meets the known one at the rim."""
    true, pictures, cloud, view, pose = walk
    bend = 1 + 0.2 * torch.sin(torch.arange(SIZE) / 5)
    painted = make_geometry(true.depth[1:] * bend, true.valid[1:], true.intrinsics, pictures[1:])
    _, whole = add_view(cloud, painted, view, pose, EDGE)
    near = torch.nn.functional.max_pool2d(view["mask"][:, None].float(), 3, 1, 1)[:, 0] > 0
    rim = near & ~view["mask"] & true.valid[1:]
    off = (whole["depth"][rim] - true.depth[1:][rim]).abs() / true.depth[1:][rim]
    assert rim.sum() > 50 and off.median() < 0.02


def test_what_is_farther_than_wanted_is_not_added(walk):
    true, pictures, cloud, view, pose = walk
    painted = make_geometry(true.depth[1:], true.valid[1:], true.intrinsics, pictures[1:])
    hidden = true.depth[1:][~view["mask"] & true.valid[1:]]
    far = float(hidden.median())
    added = [len(add_view(cloud, painted, view, pose, 0.0, far=limit)[0]) - len(cloud) for limit in (0.0, far)]
    assert 0.4 * added[0] < added[1] < 0.6 * added[0]


def test_a_sky_that_what_is_near_has_drawn_is_still_far(walk):
    _, _, cloud, view, pose = walk
    known, painted = torch.full((1, SIZE, SIZE), 1.0), torch.full((1, SIZE, SIZE), 1.0)
    painted[:, :, 40:] = 4.0  # from column 40 on a sky is painted, to column 50 over something near
    seen = torch.arange(SIZE).expand(1, SIZE, SIZE) < 50
    packets = [make_geometry(painted, None, view["intrinsics"]), make_geometry(known, seen, view["intrinsics"])]
    drawn = add_view(cloud, *packets, pose, 0.0)[1]["depth"]
    assert drawn[:, :, 50:].median() < 2
    assert len(add_view(cloud, *packets, pose, 0.0, far=2.0)[0]) == len(cloud)


def test_nothing_is_added_twice(walk):
    true, pictures, cloud, view, pose = walk
    painted = make_geometry(true.depth[1:], true.valid[1:], true.intrinsics, pictures[1:])
    merged, _ = add_view(cloud, painted, view, pose, EDGE)
    again, _ = add_view(merged, painted, view, pose, EDGE)
    assert len(again) == len(merged)
    assert len(joined(cloud, cloud)) == len(cloud)


def test_normals_turn_with_the_view(walk):
    true, pictures, _, view, pose = walk
    first = make_geometry(true.depth[:1], true.valid[:1], true.intrinsics, pictures[:1])
    (cloud,) = point_clouds(first, edge_threshold=EDGE, normals=True)
    painted = make_geometry(true.depth[1:], true.valid[1:], true.intrinsics, pictures[1:])
    merged, _ = add_view(cloud, painted, view, pose, EDGE)
    new = merged.select(slice(len(cloud), None))
    facing = ((pose[:3, 3].numpy() - new.points) * new.normals).sum(1)
    assert merged.normals.shape == merged.points.shape and (facing > -1e-4).mean() > 0.95


def test_views_that_do_not_belong_together_are_refused(walk):
    true, pictures, cloud, view, pose = walk
    small = make_geometry(true.depth[1:, :32], true.valid[1:, :32], true.intrinsics, pictures[1:, :32])
    with pytest.raises(ValueError, match=r"painted view \(1, 32, 64\) for a rendered one \(1, 64, 64\)"):
        add_view(cloud, small, view, pose, EDGE)


def test_cells_with_holes_are_painted_whole():
    image, depth = torch.rand(1, 64, 96, 3), torch.full((1, 64, 96), 2.0)
    known = torch.ones(1, 64, 96, dtype=torch.bool)
    known[:, 20:28, 30:50] = False  # cells (1,1) and, by 32 to 47, (1,2), and (1,3) by two columns
    known[:, 0, 0] = False  # one pixel: mended, not painted
    ready = view_to_paint(torch.where(known[..., None], image, 0.0), torch.where(known, depth, torch.inf), known)
    want = torch.zeros(1, 4, 6, dtype=torch.bool)
    want[0, 1, 1:4] = True
    assert torch.equal(ready.paint, want)
    assert torch.allclose(ready.depth, depth, rtol=1e-4) and ready.image.isfinite().all()
    assert ready.image[0, 0, 0].min() > 0.1  # no black is left
    wider = view_to_paint(image, depth, known, margin=10).paint
    assert wider[0, :3, :5].all() and wider.sum() == 15


def test_codes_are_at_the_scale_of_what_is_known():
    """A sky that is filled in from a far horizon does not press what is near towards 0."""
    depth, known = torch.full((1, 64, 64), 2.0), torch.ones(1, 64, 64, dtype=torch.bool)
    depth[:, :32], known[:, :30] = 200.0, False  # two rows of horizon
    ready = view_to_paint(torch.rand(1, 64, 64, 3), torch.where(known, depth, torch.inf), known)
    codes = unpatchify(ready.codes)
    want = unpatchify(encode(depth, known))
    assert torch.allclose(codes[known], want[known], rtol=1e-5)
    assert codes[~known].max() <= contract(torch.tensor(FARTHEST)) and codes.isfinite().all()


def test_views_off_the_grid_or_without_anything_known_are_refused():
    with pytest.raises(ValueError, match="view of 60 x 64"):
        view_to_paint(torch.rand(1, 64, 60, 3), torch.ones(1, 64, 60), torch.ones(1, 64, 60, dtype=torch.bool))
    with pytest.raises(ValueError, match="nothing of the scene"):
        view_to_paint(torch.rand(1, 64, 64, 3), torch.ones(1, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))


def test_filling_continues_what_is_around():
    ramp = torch.linspace(1, 2, 64)[None, None, :, None].expand(1, 64, 64, 1)
    known = torch.ones(1, 64, 64, dtype=torch.bool)
    known[:, 24:40, 24:40] = False
    filled = filled_from_around(ramp, known)
    assert torch.equal(filled[known], ramp[known])
    assert (filled - ramp).abs().max() < 0.1


def test_an_empty_scene_takes_all(walk):
    true, _, cloud, _, _ = walk
    none = PointCloud(cloud.points[:0], cloud.colors[:0], cloud.spacing[:0])
    assert len(joined(none, cloud)) == len(cloud) == len(joined(cloud, none))
    assert read_geometry(make_geometry(true.depth, true.valid, true.intrinsics)).valid.any()
