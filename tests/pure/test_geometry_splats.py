"""Splats by hand: where they lie, how large they are, and what is in the file."""

import numpy as np
import pytest
import torch
from modality_forcing.model.geometry import camera, packets
from modality_forcing.model.geometry.pointcloud import PointCloud, point_clouds
from modality_forcing.model.geometry.splats import HARMONIC, OPACITY, save_splats, splats_from_cloud
from scipy.spatial.transform import Rotation

COLOURS = np.uint8([[255, 0, 51]])


def one(normal, point=(0, 0, 2)):
    normals = None if normal is None else np.float32([normal])
    return splats_from_cloud(PointCloud(np.float32([point]), COLOURS, np.float32([0.1]), normals))


def matrix(splats):
    """(N,3,3) rotations from the quaternions w x y z."""
    return Rotation.from_quat(splats.rotations[:, [1, 2, 3, 0]]).as_matrix()


def test_a_wall_seen_straight():
    for normal in ((0, 0, -1), (0, 0, 0), None):
        splats = one(normal)
        np.testing.assert_allclose(splats.scales, [[0.05, 0.05, 0.005]], rtol=1e-6)
        np.testing.assert_allclose(matrix(splats)[0, :, 2], [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(splats.harmonics * HARMONIC + 0.5, COLOURS / 255, rtol=1e-6)


def test_a_slanted_surface_is_stretched_away_from_the_viewer():
    """60 degrees: twice as long, up and away in the surface; across it the sample stays as wide as it is."""
    splats = one((0, -np.sqrt(3) / 2, -0.5))
    np.testing.assert_allclose(splats.scales, [[0.1, 0.05, 0.005]], rtol=1e-5)
    np.testing.assert_allclose(matrix(splats)[0, :, 0], [0, -0.5, np.sqrt(3) / 2], atol=1e-6)
    np.testing.assert_allclose(one((0, -1, 0)).scales[0, 0], 0.25, rtol=1e-5)  # stretched no further than 5 times


def test_a_floor_is_covered_evenly():
    """The Gaussians of a tilted plane add up to the same amount everywhere on it."""
    rows = torch.linspace(0.6, 1.0, 40)[None, :, None].expand(1, 40, 40)
    packet = packets.make_geometry(1 / rows, None, camera.intrinsics_from_fov_x(40.0, 40, 40))
    (cloud,) = point_clouds(packet, normals=True)
    splats = splats_from_cloud(cloud)
    assert np.isfinite(splats.rotations).all()
    np.testing.assert_allclose(np.linalg.norm(splats.rotations, axis=1), 1, rtol=1e-5)
    inner = np.linspace(0.3, 0.7, 5)
    places = cloud.points.reshape(40, 40, 3)[20:24, 18:22].reshape(-1, 3)
    places = np.concatenate([places[:-1] * (1 - s) + places[1:] * s for s in inner])[: 4 * 3]
    local = np.einsum("nij,pni->pnj", matrix(splats), places[:, None] - splats.points[None]) / splats.scales
    total = np.exp(-0.5 * (local[..., :2] ** 2).sum(-1)).sum(1)
    assert total.std() / total.mean() < 0.1


def test_the_file(tmp_path):
    cloud = PointCloud(np.float32([[1, 2, 3], [0, 0, 1]]), np.repeat(COLOURS, 2, 0), np.float32([0.1, 0.2]))
    path = save_splats(tmp_path / "a.ply", splats_from_cloud(cloud), {"workflow": "{}"})
    head, body = path.read_bytes().split(b"end_header\n", 1)
    lines = head.decode().splitlines()
    names = [line.split()[2] for line in lines if line.startswith("property float")]
    assert "element vertex 2" in lines and "comment workflow {}" in lines
    rows = np.frombuffer(body, np.dtype([(name, "<f4") for name in names]))
    np.testing.assert_array_equal(np.stack([rows[n] for n in "xyz"], -1), cloud.points)
    np.testing.assert_allclose(1 / (1 + np.exp(-rows["opacity"])), OPACITY, rtol=1e-5)
    np.testing.assert_allclose(np.exp(rows["scale_1"]), [0.05, 0.1], rtol=1e-5)
    np.testing.assert_allclose(rows["f_dc_0"] * HARMONIC + 0.5, 1.0, rtol=1e-5)
    assert names[-4:] == ["rot_0", "rot_1", "rot_2", "rot_3"]


def test_what_cannot_be_splats_says_so():
    empty = PointCloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), np.empty(0, np.float32))
    with pytest.raises(ValueError, match="empty"):
        splats_from_cloud(empty)
    with pytest.raises(ValueError, match="not finite"):
        one((np.nan, 0, 0))
