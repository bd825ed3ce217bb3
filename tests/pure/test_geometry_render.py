"""Views from a moved camera: identity, known shifts, occlusion, holes and cracks."""

import numpy as np
import pytest
import torch
from modality_forcing.model.geometry import camera, packets, pose
from modality_forcing.model.geometry.pointcloud import point_clouds
from modality_forcing.model.geometry.render import render_views

WIDTH, HEIGHT = 40, 30
K = camera.intrinsics_from_focal_px(50.0, WIDTH, HEIGHT)
IDENTITY = torch.eye(4)[None]


def picture(batch=1):
    levels = np.random.default_rng(0).integers(0, 256, (batch, HEIGHT, WIDTH, 3))
    return torch.from_numpy(levels.astype(np.float32) / 255)


def clouds(depth, image, **settings):
    return point_clouds(packets.make_geometry(depth, None, K, image), **settings)


def box_before_wall():
    depth = torch.full((1, HEIGHT, WIDTH), 4.0)
    depth[:, 10:20, 10:20] = 2.0
    return depth


def test_the_source_view_gives_the_source_back():
    image, depth = picture(), box_before_wall()
    depth[0, :5, :5] = float("inf")
    view = render_views(
        clouds(depth, image, edge_threshold=0.0), IDENTITY, K, WIDTH, HEIGHT, background=(1.0, 0.0, 1.0)
    )
    hole = torch.isinf(depth)
    assert torch.equal(view.hole, hole) and torch.equal(view.depth, depth)
    torch.testing.assert_close(view.image[~hole], image[~hole], rtol=0, atol=1e-6)
    assert view.image[0, 0, 0].tolist() == [1.0, 0.0, 1.0]


def test_a_step_to_the_right_shifts_by_focal_over_depth():
    # 50 px · 0.08 / 2 = 2 px for the box, 1 px for the wall at 4.
    image, depth = picture(), box_before_wall()
    view = render_views(
        clouds(depth, image, edge_threshold=0.0), pose.camera_pose(right=0.08)[None], K, WIDTH, HEIGHT, cracks=0
    )
    torch.testing.assert_close(view.image[0, 12:18, 8:18], image[0, 12:18, 10:20], rtol=0, atol=1e-6)
    torch.testing.assert_close(view.image[0, :10, :-1], image[0, :10, 1:], rtol=0, atol=1e-6)
    assert (view.depth[0, 12:18, 8:18] - 2.0).abs().max() < 1e-5
    # Uncovered: the wall's last column, and behind the right side of the box 2 − 1 = 1 column.
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[:, -1] = True
    expected[10:20, 18] = True
    assert torch.equal(view.hole[0], expected)


def test_moving_closer_leaves_no_gaps():
    view = render_views(
        clouds(torch.full((1, HEIGHT, WIDTH), 4.0), picture()),
        pose.camera_pose(forward=2.5)[None],
        K,
        WIDTH,
        HEIGHT,
        cracks=0,
    )
    assert not view.hole.any()
    assert (view.depth - 1.5).abs().max() < 1e-5


def test_cracks_close_and_true_holes_stay():
    depth = torch.full((1, HEIGHT, WIDTH), 2.0)
    depth[0, :, 8] = float("inf")  # one column: a crack
    depth[0, :, 20:26] = float("inf")  # six columns: a hole
    made = clouds(depth, torch.full((1, HEIGHT, WIDTH, 3), 0.6), edge_threshold=0.0)
    drawn = render_views(made, IDENTITY, K, WIDTH, HEIGHT, cracks=0)
    closed = render_views(made, IDENTITY, K, WIDTH, HEIGHT, cracks=2)
    assert drawn.hole[0].any(0).nonzero().flatten().tolist() == [8, 20, 21, 22, 23, 24, 25]
    assert closed.hole[0].any(0).nonzero().flatten().tolist() == [20, 21, 22, 23, 24, 25]
    assert closed.depth[0, :, 8].unique().tolist() == [2.0]
    torch.testing.assert_close(closed.image[0, :, 8], torch.full((HEIGHT, 3), 0.6))


def test_background_in_a_crack_is_covered():
    depth = torch.full((1, HEIGHT, WIDTH), 2.0)
    depth[0, :, 8] = 5.0
    view = render_views(clouds(depth, picture(), edge_threshold=0.0), IDENTITY, K, WIDTH, HEIGHT)
    assert view.depth.unique().tolist() == [2.0]


def test_clouds_and_poses_pair_up():
    depth = torch.cat([torch.full((1, HEIGHT, WIDTH), z) for z in (2.0, 3.0)])
    made = clouds(depth, picture(2))
    poses = torch.stack([pose.camera_pose(forward=f) for f in (0.5, 1.0)])
    pairs = render_views(made, poses, K, WIDTH, HEIGHT)
    assert pairs.depth.amin((1, 2)).tolist() == [1.5, 2.0]
    path = render_views(made[:1], poses, K, WIDTH // 2, HEIGHT // 2)
    assert path.image.shape == (2, HEIGHT // 2, WIDTH // 2, 3) and path.depth.amin((1, 2)).tolist() == [1.5, 1.0]


def test_nothing_in_view_is_one_hole():
    made = clouds(torch.full((1, HEIGHT, WIDTH), 2.0), picture())
    behind = render_views(made, pose.camera_pose(yaw_deg=180.0)[None], K, WIDTH, HEIGHT)
    empty = render_views([made[0].select(np.array([], dtype=int))], IDENTITY, K, WIDTH, HEIGHT)
    aside = render_views(made, pose.camera_pose(right=100.0)[None], K, 1, 1)
    assert behind.hole.all() and empty.hole.all() and aside.hole.all()
    assert (behind.image == 0).all()


def test_bad_settings_say_so():
    made = clouds(torch.full((1, HEIGHT, WIDTH), 2.0), picture())
    for arguments in (
        (made, torch.eye(4), K, 4, 4),
        (made, torch.full((1, 4, 4), float("nan")), K, 4, 4),
        (made * 2, IDENTITY.repeat(3, 1, 1), K, 4, 4),
        ([], IDENTITY, K, 4, 4),
        (made, IDENTITY, K, 0, 4),
    ):
        with pytest.raises(ValueError, match="expected"):
            render_views(*arguments)
    with pytest.raises(ValueError, match="cracks"):
        render_views(made, IDENTITY, K, 4, 4, cracks=-1)


def test_a_path_is_told_before_each_view_and_can_be_stopped():
    seen, poses = [], IDENTITY.expand(4, -1, -1)

    def stop_at_two(index, count):
        seen.append((index, count))
        if index == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        render_views(clouds(box_before_wall(), picture()), poses, K, WIDTH, HEIGHT, before_view=stop_at_two)
    assert seen == [(0, 4), (1, 4), (2, 4)]
