"""Real RGB-D with its own intrinsics (see ../shared/assets/README.md) through the graph: files in, files out."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import trimesh
from geometry_graphs import CAMERA, CLOUD, LOAD, MESH, VIEW, GeometryCase, P
from graphs import Graph, Node
from modality_forcing.tasks import ROOT

RGBD = ROOT.parent / "shared" / "assets" / "rgbd"
# folder: image, depth, stored value / metres, fx, cx, cy in pixels with integer centres
SCENES = {
    "lingbot_0": ("rgb.png", "depth_mm.png", 1000, 460.1396, 319.6561, 237.3963),
    "tum_fr2_1": ("rgb.png", "depth_x5000.png", 5000, 520.9, 325.1, 249.7),
    "redwood_0": ("rgb.jpg", "depth_mm.png", 1000, 525.0, 319.5, 239.5),
    "opencalib_2": ("rgb_undistorted_960x600.jpg", "sparse_depth_x256.png", 256, 1076.4, 485.65, 302.95),
}


@dataclass
class Scene:
    """A scene as OpenCV reads it, and the graph's nodes that load it."""

    case: GeometryCase
    name: str
    colours: np.ndarray
    metres: np.ndarray

    def geometry(self, graph: Graph) -> Node:
        _, depth, unit, fx, cx, cy = SCENES[self.name]
        inputs = self.case.server.base / "input"
        (inputs / f"{self.name}_{depth}").write_bytes((RGBD / self.name / depth).read_bytes())
        # PNG, since two readers of one JPEG differ.
        cv2.imwrite(str(inputs / f"{self.name}_image.png"), self.colours[..., ::-1])
        loaded = graph.add(
            f"{P}LoadDepth",
            **{**LOAD, "scale": 1 / unit},
            file=f"{self.name}_{depth}",
            image=graph.add("LoadImage", image=f"{self.name}_image.png"),
        )
        calibration = {"focal_px": fx, "centre_x_px": cx, "centre_y_px": cy, "integer_centres": True}
        return graph.add(f"{P}SetCamera", geometry=loaded, camera="focal length in pixels", **{**CAMERA, **calibration})

    def points(self) -> np.ndarray:
        """(N,3) in glTF axes, worked out from the calibration."""
        _, _, _, fx, cx, cy = SCENES[self.name]
        rows, columns = np.nonzero(self.metres)
        z = self.metres[rows, columns]
        return np.stack(((columns - cx) / fx * z, -(rows - cy) / fx * z, -z), 1)


@pytest.fixture(params=SCENES)
def scene(request, server, tmp_path) -> Scene:
    name = request.param
    if not RGBD.is_dir():
        pytest.skip(f"no real RGB-D at {RGBD}")
    image, depth, unit = SCENES[name][:3]
    colours = cv2.imread(str(RGBD / name / image))[..., ::-1]
    metres = cv2.imread(str(RGBD / name / depth), cv2.IMREAD_UNCHANGED).astype(np.float64) / unit
    return Scene(GeometryCase(server, tmp_path), name, colours, metres)


def shape_of(path: Path):
    read = trimesh.load(path, process=False)
    return next(iter(read.geometry.values())) if hasattr(read, "geometry") else read


def test_cloud_and_filtered_cloud(scene):
    graph = Graph()
    geometry = scene.geometry(graph)
    nodes = []
    for edge, format in ((0.0, "ply"), (0.0, "glb"), (0.04, "ply")):
        cloud = graph.add(f"{P}PointCloud", geometry=geometry, **{**CLOUD, "edge_threshold": edge})
        nodes.append(graph.add(f"{P}SavePointCloud", point_cloud=cloud, filename_prefix="rgbd/cloud", format=format))
    outputs = scene.case.server.run(graph.prompt)
    ply, glb, filtered = (shape_of(scene.case.files(outputs, node, "3d")[0]) for node in nodes)
    for read in (ply, glb):
        np.testing.assert_allclose(read.vertices, scene.points(), rtol=0, atol=2e-4)
        np.testing.assert_array_equal(np.asarray(read.colors)[:, :3], scene.colours[scene.metres > 0])
    assert 0.2 * len(ply.vertices) < len(filtered.vertices) < len(ply.vertices)


def test_textured_mesh(scene):
    if scene.name == "opencalib_2":
        pytest.skip("LiDAR on 2 % of the pixels: hardly any are neighbours")
    graph = Graph()
    mesh = graph.add(f"{P}Mesh", geometry=scene.geometry(graph), **{**MESH, "edge_threshold": 0.1})
    node = graph.add(f"{P}SaveMesh", mesh=mesh, filename_prefix="rgbd/mesh")
    read = shape_of(scene.case.files(scene.case.server.run(graph.prompt), node, "3d")[0])
    assert len(read.faces) > 0.9 * len(read.vertices)
    np.testing.assert_array_equal(np.asarray(read.visual.material.baseColorTexture)[..., :3], scene.colours)
    assert ((read.face_normals * read.triangles_center).sum(1) <= 1e-6).all()
    rows = ((1 - read.visual.uv[:, 1]) * scene.metres.shape[0]).astype(int)
    columns = (read.visual.uv[:, 0] * scene.metres.shape[1]).astype(int)
    np.testing.assert_allclose(-read.vertices[:, 2], scene.metres[rows, columns], rtol=1e-5)


def test_ten_points_three_of_them_wrong(scene):
    """Depth without its unit, through the graph as a picture, back to metres."""
    known = scene.metres > 0
    relative = torch.from_numpy(np.where(known, scene.metres / scene.metres[known].mean() + 0.2, 0)).float()
    rows, columns = np.nonzero(known)
    chosen = np.linspace(0, len(rows) - 1, 10).astype(int)
    wrong = [1, 1.7, 1, 1, 0.4, 1, 1, 1, 2.2, 1]
    lines = [
        f"{columns[i] + 0.5}, {rows[i] + 0.5}, {scene.metres[rows[i], columns[i]] * factor:.5f}"
        for i, factor in zip(chosen, wrong, strict=True)
    ]
    graph = Graph()
    node = graph.add(
        f"{P}MetricFromPoints",
        geometry=scene.case.geometry(graph, relative[None]),
        points="\n".join(lines),
        fit="scale and shift",
        one_fit_for_batch=False,
    )
    geometry, report = scene.case.run(graph, geometry=node, text=(node[4],))
    assert "7 samples" in report[0] and "3 outliers" in report[0]
    np.testing.assert_allclose(geometry["depth"][0][torch.from_numpy(known)], scene.metres[known], rtol=2e-3)


def test_the_source_view_and_a_moved_view(scene):
    graph = Graph()
    geometry = scene.geometry(graph)
    still = graph.add(f"{P}RenderView", geometry=geometry, **{**VIEW, "cracks": 0, "edge_threshold": 0.0})
    packet, image, holes = scene.case.run(graph, geometry=still[1], image=still[0], mask=still[2])
    known = torch.from_numpy(scene.metres > 0)
    assert torch.equal(holes[0] == 0, known)
    np.testing.assert_allclose(packet["depth"][0][known], scene.metres[known], rtol=1e-5)
    np.testing.assert_array_equal((image[0][known] * 255).round(), scene.colours[known])

    graph = Graph()
    node = graph.add(
        f"{P}RenderView", geometry=scene.geometry(graph), **{**VIEW, "right": 0.1, "edge_threshold": 0.0, "cracks": 0}
    )
    moved, _ = scene.case.run(graph, geometry=node[1], mask=node[2])
    # 0.1 m to the right moves a point by fx * 0.1 / z pixels to the left; the nearest one wins a pixel.
    fx = SCENES[scene.name][3]
    rows, columns = np.nonzero(scene.metres)
    z = scene.metres[rows, columns]
    target = np.floor(columns + 0.5 - fx * 0.1 / z).astype(int)
    inside = target >= 0
    nearest = np.full(scene.metres.shape, np.inf)
    np.minimum.at(nearest, (rows[inside], target[inside]), z[inside])
    seen = np.isfinite(nearest)
    got = moved["depth"][0].numpy()
    # A sample is a square about a pixel wide, so a nearer neighbour may cover part of the pixel: most agree exactly.
    agree = np.isclose(got[seen], nearest[seen], rtol=1e-4)
    assert agree.mean() > 0.9 and (got[seen] <= nearest[seen] * 1.0001).mean() > 0.9
