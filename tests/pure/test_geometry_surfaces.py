"""Edges, normals, point clouds and meshes of scenes whose answer is known."""

import numpy as np
import pytest
import torch
from modality_forcing.model.geometry import camera, mesh, packets
from modality_forcing.model.geometry.edges import depth_edges
from modality_forcing.model.geometry.normals import normal_picture, normals_from_points
from modality_forcing.model.geometry.pointcloud import (
    PointCloud,
    point_clouds,
    remove_outliers,
    thin_by_voxels,
    to_bytes,
)

INF = float("inf")
WIDTH, HEIGHT = 32, 24
K = camera.intrinsics_from_focal_px(40.0, WIDTH, HEIGHT)


def wall(distance=2.0, batch=1):
    return torch.full((batch, HEIGHT, WIDTH), distance)


def floor():
    """Depth of a floor 1 below the camera: y = 1 = (row − centre)/focal · z, for rows below the middle."""
    rows = torch.arange(HEIGHT) + 0.5 - HEIGHT / 2
    depth = torch.where(rows > 0, 40.0 / rows, INF)
    return depth[None, :, None].expand(1, HEIGHT, WIDTH).contiguous()


def step():
    depth = wall(1.0)
    depth[:, :, WIDTH // 2 :] = 3.0
    return depth


def geometry(depth, image=None):
    return packets.make_geometry(depth, None, K, image, normals=True)


def test_edges_mark_both_sides_and_nothing_else():
    edges = depth_edges(step(), torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool), 0.1)
    columns = edges[0].all(0).nonzero().flatten().tolist()
    assert columns == [WIDTH // 2 - 1, WIDTH // 2] and edges.sum() == 2 * HEIGHT


def test_a_hole_is_no_edge_and_zero_turns_edges_off():
    valid = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, 5, 5] = False
    depth = wall()
    depth[0, 5, 5] = INF
    assert not depth_edges(depth, valid, 0.01).any()
    assert not depth_edges(step(), valid, 0.0).any()
    with pytest.raises(ValueError, match="edge threshold"):
        depth_edges(step(), valid, -0.1)


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e6])
def test_normals_of_walls_and_floors_at_any_scale(unit):
    got = geometry(wall(2.0 * unit))["normal"]
    torch.testing.assert_close(got, torch.tensor([0.0, 0.0, -1.0]).expand_as(got), rtol=0, atol=1e-4)
    made = geometry(floor() * unit)
    below = normals_from_points(made["points"], made["mask"], 0.0)[0, HEIGHT // 2 :]
    torch.testing.assert_close(below, torch.tensor([0.0, -1.0, 0.0]).expand_as(below), rtol=0, atol=1e-4)


def test_normals_do_not_bend_at_edges():
    got = geometry(step())["normal"]
    torch.testing.assert_close(got, torch.tensor([0.0, 0.0, -1.0]).expand_as(got), rtol=0, atol=1e-5)


def test_normals_without_neighbours_are_undefined():
    alone = torch.full((1, HEIGHT, WIDTH), INF)
    alone[0, 3, 3] = 1.0
    assert (geometry(alone)["normal"] == 0).all()
    one = packets.make_geometry(torch.ones(1, 1, 1), None, K, normals=True)
    assert one["mask"].all() and (one["normal"] == 0).all()


def test_normal_pictures():
    up = torch.tensor([[[[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]])
    assert normal_picture(up, "opengl")[0, 0].tolist() == [[0.5, 1, 0.5], [0.5, 0.5, 1], [1, 0.5, 0.5], [0.5, 0.5, 1]]
    assert normal_picture(up, "directx")[0, 0].tolist() == [[0.5, 0, 0.5], [0.5, 0.5, 1], [1, 0.5, 0.5], [0.5, 0.5, 1]]
    with pytest.raises(ValueError, match="directx"):
        normal_picture(up, "vulkan")


def test_cloud_of_a_wall_by_hand():
    image = torch.zeros(1, HEIGHT, WIDTH, 3)
    image[0, 0, 1] = torch.tensor([1.0, 0.5, 0.2])
    cloud = point_clouds(geometry(wall(4.0), image), normals=True)[0]
    assert len(cloud) == WIDTH * HEIGHT
    # x = (1.5 − 16) / 40 · 4, y = (0.5 − 12) / 40 · 4
    np.testing.assert_allclose(cloud.points[1], [-1.45, -1.15, 4.0], rtol=1e-6)
    assert cloud.colors[1].tolist() == [255, 128, 51]
    np.testing.assert_allclose(cloud.normals, np.tile([0, 0, -1.0], (len(cloud), 1)), atol=1e-5)
    np.testing.assert_allclose(cloud.spacing, 4.0 / 40.0, rtol=1e-6)
    assert cloud.points.dtype == np.float32 and cloud.colors.dtype == np.uint8 and cloud.spacing.dtype == np.float32


def test_cloud_filters_by_hand():
    assert len(point_clouds(geometry(step()))[0]) == WIDTH * HEIGHT - 2 * HEIGHT
    assert len(point_clouds(geometry(step()), edge_threshold=0.0)[0]) == WIDTH * HEIGHT
    near = point_clouds(geometry(step()), far=2.0)[0]
    assert len(near) == (WIDTH // 2 - 1) * HEIGHT and near.points[:, 2].max() == 1.0
    coarse = point_clouds(geometry(wall()), stride=5)[0]
    assert len(coarse) == 7 * 5
    np.testing.assert_allclose(coarse.spacing, 2.0 * 5 / 40.0, rtol=1e-6)


def test_batches_give_one_cloud_each():
    depth = wall(batch=3)
    depth[1, :, : WIDTH // 2] = INF
    depth[2] = INF
    clouds = point_clouds(geometry(depth * torch.tensor([1.0, 2.0, 1.0])[:, None, None]), normals=True)
    assert [len(cloud) for cloud in clouds] == [WIDTH * HEIGHT, WIDTH * HEIGHT // 2, 0]
    assert clouds[1].points[:, 2].tolist() == [4.0] * len(clouds[1])


def test_voxels_average_what_they_hold():
    points = np.array([[0, 0, 1.0], [0.2, 0.0, 1.2], [5.0, 5.0, 5.0]], np.float32)
    colors = np.array([[0, 0, 0], [100, 50, 10], [7, 8, 9]], np.uint8)
    normals = np.array([[0, 0, -1.0], [-1.0, 0, 0], [0, -1.0, 0]], np.float32)
    thin = thin_by_voxels(PointCloud(points, colors, np.full(3, 0.1, np.float32), normals), 1.0)
    np.testing.assert_allclose(thin.points, [[0.1, 0, 1.1], [5, 5, 5]], rtol=1e-6)
    assert thin.colors.tolist() == [[50, 25, 5], [7, 8, 9]]
    np.testing.assert_allclose(thin.normals[0], [-(0.5**0.5), 0, -(0.5**0.5)], rtol=1e-6)
    assert thin.spacing.tolist() == [1.0, 1.0]


def test_colours_round_and_bad_ones_saturate():
    colors = np.array([0.0, 0.5, 1.0, 127.49 / 255, 2.0, -1.0, np.nan, np.inf], np.float32)
    assert to_bytes(colors).tolist() == [0, 128, 255, 127, 255, 0, 0, 255]


def test_bad_cloud_settings_say_so():
    made = geometry(wall())
    for settings in (
        {"stride": 0},
        {"far": -1.0},
        {"far": float("nan")},
        {"voxel": -1.0},
        {"voxel": 1e-9},
        {"edge_threshold": -1},
    ):
        with pytest.raises(ValueError, match="got|too small"):
            point_clouds(made, **settings)


def test_outliers_go_and_small_clouds_stay():
    pytest.importorskip("scipy")
    depth = wall()
    depth[0, 3, 3] = 9.0
    cloud = point_clouds(geometry(depth), edge_threshold=0.0, outlier_neighbours=8)[0]
    assert len(cloud) == WIDTH * HEIGHT - 1 and cloud.points[:, 2].max() == 2.0
    assert len(remove_outliers(cloud.select(np.arange(5)), 20)) == 5
    with pytest.raises(ValueError, match="neighbours"):
        remove_outliers(cloud, 1)


def face_normals(shape):
    a, b, c = (shape.vertices[shape.faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def test_mesh_of_a_wall_by_hand():
    shape = mesh.grid_meshes(geometry(wall(4.0)), normals=True)[0]
    assert len(shape.vertices) == WIDTH * HEIGHT and len(shape.faces) == 2 * (WIDTH - 1) * (HEIGHT - 1)
    normals = face_normals(shape)
    # Pixels are 4 / 40 = 0.1 apart; twice the area of a triangle is 0.01, and it faces the camera.
    np.testing.assert_allclose(normals, np.tile([0, 0, -0.01], (len(normals), 1)), atol=1e-6)
    np.testing.assert_allclose(shape.uvs[1], [1.5 / WIDTH, 0.5 / HEIGHT], rtol=1e-6)
    assert shape.texture.shape == (HEIGHT, WIDTH, 3) and shape.faces.dtype == np.int32
    np.testing.assert_allclose(shape.normals[0], [0, 0, -1], atol=1e-5)


def test_mesh_is_cut_at_edges_but_keeps_the_border_pixels():
    shape = mesh.grid_meshes(geometry(step()))[0]
    assert len(shape.vertices) == WIDTH * HEIGHT and len(shape.faces) == 2 * (WIDTH - 2) * (HEIGHT - 1)
    z = shape.vertices[shape.faces][..., 2]
    assert (np.ptp(z, axis=1) == 0).all()
    assert len(mesh.grid_meshes(geometry(step()), edge_threshold=0.0)[0].faces) == 2 * (WIDTH - 1) * (HEIGHT - 1)


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_three_corners_still_make_a_triangle(corner):
    depth = torch.ones(1, 2, 2)
    depth[0][corner] = INF
    shape = mesh.grid_meshes(geometry(depth))[0]
    assert len(shape.faces) == 1 and len(shape.vertices) == 3
    assert face_normals(shape)[0, 2] < 0


def test_meshes_of_batches_strides_and_nothing():
    depth = wall(batch=2)
    depth[1] = INF
    full, empty = mesh.grid_meshes(geometry(depth), stride=3)
    assert len(full.vertices) == 11 * 8 and len(empty.faces) == 0 == len(empty.vertices)
    np.testing.assert_allclose(full.uvs[1], [3.5 / WIDTH, 0.5 / HEIGHT], rtol=1e-6)
    assert len(mesh.grid_meshes(packets.make_geometry(torch.ones(1, 1, 1), None, K))[0].faces) == 0
    with pytest.raises(ValueError, match="normals"):
        mesh.poisson_mesh(point_clouds(geometry(wall()))[0])
