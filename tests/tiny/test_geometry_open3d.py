"""What Open3D thinks of our files and filters. Open3D takes seconds to import, so this is not among the pure tests."""

import numpy as np
import pytest
import torch
from modality_forcing.model.geometry import camera, files, packets
from modality_forcing.model.geometry.mesh import grid_meshes, poisson_mesh
from modality_forcing.model.geometry.pointcloud import PointCloud, point_clouds, remove_outliers
from modality_forcing.model.geometry.pose import camera_pose
from modality_forcing.model.geometry.registration import ROUNDS, registered
from modality_forcing.model.geometry.render import render_views
from modality_forcing.model.geometry.scene import add_view, moved_cloud

open3d = pytest.importorskip("open3d", exc_type=ImportError)
WIDTH, HEIGHT = 64, 48
K = camera.intrinsics_from_focal_px(60.0, WIDTH, HEIGHT)
GLTF = np.array([1.0, -1.0, -1.0])


@pytest.fixture(scope="module")
def packet():
    """A sphere of radius 1 at distance 3 before a wall at 5, with noise."""
    ray = camera.unproject(torch.ones(1, HEIGHT, WIDTH), K)[0]
    length = (ray**2).sum(-1)
    inside = (3 * 1.0) ** 2 - length * (9.0 - 1.0)
    depth = torch.where(inside > 0, (3.0 - inside.clamp_min(0).sqrt()) / length, 5.0)
    depth = depth * (1 + 0.001 * torch.randn(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)))
    image = torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))
    return packets.make_geometry(depth[None], None, K, image)


def test_ply_reads_back(tmp_path, packet):
    (cloud,) = point_clouds(packet, normals=True)
    got = open3d.io.read_point_cloud(str(files.save_ply(tmp_path / "a.ply", cloud, {"workflow": "x" * 50000})))
    np.testing.assert_array_equal(np.asarray(got.points).astype(np.float32), cloud.points * GLTF.astype(np.float32))
    np.testing.assert_allclose(np.asarray(got.normals), cloud.normals * GLTF, atol=1e-7)
    np.testing.assert_allclose(np.asarray(got.colors) * 255, cloud.colors, atol=1e-4)


def test_textured_glb_reads_back(tmp_path, packet):
    (shape,) = grid_meshes(packet)
    got = open3d.io.read_triangle_mesh(str(files.save_glb(tmp_path / "a.glb", shape)))
    expected = (shape.vertices * GLTF.astype(np.float32))[shape.faces].reshape(-1, 3)
    vertices, triangles = np.asarray(got.vertices), np.asarray(got.triangles)
    np.testing.assert_allclose(vertices[triangles].reshape(-1, 3), expected, atol=1e-6)


def test_outlier_removal_is_open3ds(packet):
    (cloud,) = point_clouds(packet, edge_threshold=0.0)
    source = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(cloud.points.astype(np.float64)))
    kept = np.asarray(source.remove_statistical_outlier(16, 1.5)[1])
    got = remove_outliers(cloud, 16, 1.5)
    assert 0 < len(kept) < len(cloud)
    np.testing.assert_array_equal(got.points, cloud.points[kept])


def test_poisson_finds_the_sphere(packet):
    (cloud,) = point_clouds(packet, far=4.0, normals=True)
    shape = poisson_mesh(cloud, depth=6, trim_percent=20.0)
    assert len(shape.faces) > 500 and shape.colors.shape == shape.vertices.shape
    front = shape.vertices[shape.vertices[:, 2] < 2.5]
    np.testing.assert_allclose(np.linalg.norm(front - [0, 0, 3], axis=1), 1.0, atol=0.05)
    corners = shape.vertices[shape.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    ahead = corners[:, 0, 2] < 2.3
    assert ((normals * corners[:, 0]).sum(1) < 0)[ahead].mean() > 0.99  # fronts face the camera
    files.glb_bytes(shape)


def test_points_that_open3d_cannot_take_are_refused():
    """One place, few points and NaN end the process inside of Open3D; no surface comes back as an empty mesh."""
    rng = np.random.default_rng(0)
    points = rng.random((50, 3)).astype(np.float32)
    facing = np.tile(np.float32([0, 0, -1]), (50, 1))
    broken = {
        "one": points[:1],
        "one place": np.ones_like(points),
        "three places": np.repeat(points[:3], 20, axis=0)[:50],
        "nan": np.where(np.arange(50)[:, None] < 47, np.float32(np.nan), points),
        "none": points[:0],
        "too far": points * np.float32(1e38),
    }
    for name, values in broken.items():
        count = len(values)
        cloud = PointCloud(values, np.zeros((count, 3), np.uint8), np.ones(count, np.float32), facing[:count])
        with pytest.raises(ValueError, match="Poisson"):
            poisson_mesh(cloud, depth=5)
            raise AssertionError(name)
    whole = PointCloud(points, np.zeros((50, 3), np.uint8), np.ones(50, np.float32))
    with pytest.raises(ValueError, match="normals"):
        poisson_mesh(whole)
    some = PointCloud(
        np.concatenate((points, broken["nan"])), np.zeros((100, 3), np.uint8), np.ones(100), np.tile(facing, (2, 1))
    )
    assert len(poisson_mesh(some, depth=5).faces) > 100


def test_icp_finds_a_small_motion_in_rounds_that_can_be_stopped(packet):
    (cloud,) = point_clouds(packet)
    motion = camera_pose(right=0.03, up=-0.02, yaw_deg=1.0)
    seen = []
    found = registered(cloud.points, moved_cloud(cloud, motion).points, 0.2, lambda *at: seen.append(at))
    assert torch.allclose(found, motion, atol=2e-3)
    assert seen == [(i, ROUNDS) for i in range(len(seen))] and seen

    def stop(index, _count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registered(cloud.points, cloud.points, 0.2, stop)
    assert torch.equal(registered(cloud.points[:9], cloud.points, 0.2), torch.eye(4))


def test_icp_leaves_a_perfect_view_where_it_is(packet):
    (cloud,) = point_clouds(packet, edge_threshold=0.1)
    pose = camera_pose(right=0.4, yaw_deg=-5)
    seen = render_views([cloud], pose[None], K, WIDTH, HEIGHT)
    view = packets.make_geometry(seen.depth, ~seen.hole, K, seen.image)
    depth = torch.where(seen.hole, 5.0, seen.depth)
    painted = packets.make_geometry(depth, None, K, seen.image)
    plain, _ = add_view(cloud, painted, view, pose, 0.0)
    refined, _ = add_view(cloud, painted, view, pose, 0.0, icp=True)
    assert len(refined) > len(cloud)
    np.testing.assert_allclose(refined.points[-100:].mean(0), plain.points[-100:].mean(0), atol=0.02)
