"""Real RGB-D with its own intrinsics, from ../shared/assets (see the README there for the licences)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from modality_forcing.model.depth import alignment
from modality_forcing.model.geometry import camera, packets
from modality_forcing.model.geometry.mesh import grid_meshes
from modality_forcing.model.geometry.pointcloud import point_clouds
from modality_forcing.model.geometry.render import render_views
from PIL import Image

RGBD = Path(__file__).resolve().parents[3] / "shared" / "assets" / "rgbd"
# folder: (image, depth, depth unit, fx, fy, cx, cy), pixel units with integer centres
SCENES = {
    "lingbot_0": ("rgb.png", "depth_mm.png", 1000, 460.1396, 460.199, 319.6561, 237.3963),
    "tum_fr2_1": ("rgb.png", "depth_x5000.png", 5000, 520.9, 521.0, 325.1, 249.7),
    "redwood_0": ("rgb.jpg", "depth_mm.png", 1000, 525.0, 525.0, 319.5, 239.5),
    "opencalib_2": ("rgb_undistorted_960x600.jpg", "sparse_depth_x256.png", 256, 1076.4, 1077.75, 485.65, 302.95),
}


@dataclass
class Scene:
    image: torch.Tensor
    depth: torch.Tensor
    intrinsics: torch.Tensor


@pytest.fixture(params=SCENES)
def scene(request):
    image, depth, unit, fx, fy, cx, cy = SCENES[request.param]
    if not RGBD.is_dir():
        pytest.skip(f"no real RGB-D at {RGBD}")
    colors = np.asarray(Image.open(RGBD / request.param / image).convert("RGB")).astype(np.float32) / 255
    metres = np.asarray(Image.open(RGBD / request.param / depth)).astype(np.float32) / unit
    height, width = metres.shape
    k = camera.intrinsics_from_focal_px(
        fx, width, height, focal_y_px=fy, centre_x_px=cx, centre_y_px=cy, integer_centres=True
    )
    return Scene(torch.from_numpy(colors)[None], torch.from_numpy(metres)[None], k)


def test_project_after_unproject_is_the_identity(scene):
    height, width = scene.depth.shape[1:]
    depth = torch.where(scene.depth > 0, scene.depth, 1.0)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    expected = torch.stack((columns, rows), -1)[None]
    # float32 itself resolves 6e-5 at 900 px: the bound of 1e-5 px is for float64, and float32 gets a few of its steps.
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 4e-4)):
        points = camera.unproject(depth.to(dtype), scene.intrinsics)
        position, z = camera.project(points, scene.intrinsics, width, height)
        assert (position - expected).abs().max() < tolerance
        assert torch.equal(z, depth.to(dtype))


def test_the_cloud_lies_where_its_calibration_says(scene, request):
    _, _, _, fx, fy, cx, cy = SCENES[request.node.callspec.params["scene"]]
    packet = packets.make_geometry(scene.depth, None, scene.intrinsics, scene.image)
    (cloud,) = point_clouds(packet, edge_threshold=0.0)
    rows, columns = np.nonzero(scene.depth[0].numpy() > 0)
    z = scene.depth[0].numpy()[rows, columns]
    expected = np.stack(((columns - cx) / fx * z, (rows - cy) / fy * z, z), 1)
    np.testing.assert_allclose(cloud.points, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(cloud.colors, np.round(scene.image[0].numpy()[rows, columns] * 255))


def test_the_source_view_shows_the_source(scene):
    height, width = scene.depth.shape[1:]
    packet = packets.make_geometry(scene.depth, None, scene.intrinsics, scene.image)
    clouds = point_clouds(packet)
    view = render_views(clouds, torch.eye(4)[None], scene.intrinsics, width, height, cracks=0)
    seen = ~view.hole
    assert int(seen.sum()) == len(clouds[0])
    assert torch.equal(view.depth[seen], scene.depth[seen])
    torch.testing.assert_close(view.image[seen], scene.image[seen], rtol=0, atol=1e-6)


def test_ten_points_bring_the_depth_back_to_metres(scene):
    """Relative depth (over its mean, and shifted) fitted by ten measured points, three of them wrong."""
    relative = torch.where(scene.depth > 0, scene.depth / scene.depth[scene.depth > 0].mean() + 0.2, 0.0)
    rows, columns = torch.nonzero(scene.depth[0] > 0, as_tuple=True)
    chosen = torch.linspace(0, len(rows) - 1, 10).long()
    rows, columns = rows[chosen], columns[chosen]
    distance = scene.depth[0, rows, columns] * torch.tensor([1, 1.7, 1, 1, 0.4, 1, 1, 1, 2.2, 1])
    points = torch.stack((columns + 0.5, rows + 0.5, distance), 1)
    fit = alignment.fit_points(relative, None, points, with_shift=True)
    fitted, valid = fit.apply(relative)
    assert (fit.used, fit.outliers) == (7, 3)
    torch.testing.assert_close(fitted[valid], scene.depth[valid], rtol=1e-4, atol=1e-4)


def test_the_mesh_covers_what_the_cloud_covers(scene):
    packet = packets.make_geometry(scene.depth, None, scene.intrinsics, scene.image)
    (shape,) = grid_meshes(packet, stride=2)
    corners = shape.vertices[shape.faces]
    nearest, farthest = corners[..., 2].min(1, initial=np.inf), corners[..., 2].max(1, initial=0)
    assert (farthest <= nearest * 1.0401).all()
    # Seen from the camera at the origin, all triangles turn their front to it.
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners[:, 0]).sum(1) < 0).all()
