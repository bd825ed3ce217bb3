"""Splats of real nodes: files that core reads, and core's own splat nodes where the host has them."""

import numpy as np
import pytest
import torch
from geometry_graphs import CLOUD, GeometryCase, P
from graphs import Graph
from modality_forcing.tasks.host.server import GraphError

LOOK_AT = {"mode": "look_at", "mode.position_x": 0.0, "mode.position_y": 0.0, "mode.position_z": 0.0}
LOOK_AT |= {"target_x": 0.0, "target_y": 0.0, "target_z": -1.0, "roll": 0.0, "zoom": 1.0, "camera_type": "perspective"}
RENDER = {"width": 64, "height": 64, "frames": 1, "splat_scale": 1.0, "sharpen": 1.0, "headlight_shading": 0.0}
RENDER |= {"opacity_threshold": 0.0, "render_style": "color", "background": "#000000"}


@pytest.fixture
def case(server, tmp_path):
    return GeometryCase(server, tmp_path)


def cloud_of_a_wall(case, graph):
    """A wall at depth 2 whose left half is red and whose right half is blue, and a nearer bar that is green."""
    depth = torch.full((1, 64, 64), 2.0)
    depth[:, 28:36, 40:56] = 1.0
    image = torch.zeros(1, 64, 64, 3)
    image[:, :, :32, 0] = 1
    image[:, :, 32:, 2] = 1
    image[:, 28:36, 40:56] = torch.tensor([0.0, 1.0, 0.0])
    geometry = case.geometry(graph, depth, fov_x_deg=60.0, image=case.image(graph, image))
    return graph.add(f"{P}PointCloud", geometry=geometry, **{**CLOUD, "normals": True})[0]


def test_a_file_on_every_host(case):
    graph = Graph()
    cloud = cloud_of_a_wall(case, graph)
    node = graph.add(f"{P}SaveSplats", point_cloud=cloud, filename_prefix="3d/splats")
    (path,) = case.files(case.server.run(graph.prompt), node, "3d")
    head, body = path.read_bytes().split(b"end_header\n", 1)
    count = int(head.split(b"element vertex ")[1].split()[0])
    assert len(body) == count * 17 * 4 and 3900 < count < 4096 and b"comment prompt" in head


def test_core_renders_our_splats(case, object_info):
    graph = Graph()
    cloud = cloud_of_a_wall(case, graph)
    splat = graph.add(f"{P}Splats", point_cloud=cloud)
    if "RenderSplat" not in object_info:
        graph.add("PreviewAny", source=splat)
        with pytest.raises(GraphError, match="Save Splats"):
            case.server.run(graph.prompt)
        return
    merged = graph.add("MergeSplat", **{"splats.splat0": splat, "splats.splat1": splat})
    camera = graph.add("CreateCameraInfo", **LOOK_AT, fov=60.0)
    rendered = graph.add("RenderSplat", splat=splat, camera_info=camera, **RENDER)
    graph.add("GetSplatCount", splat=merged)
    (image,) = case.run(graph, image=rendered)
    for row, column, colour in ((10, 10, (1, 0, 0)), (10, 54, (0, 0, 1)), (32, 48, (0, 1, 0)), (54, 20, (1, 0, 0))):
        np.testing.assert_allclose(image[0, row, column], colour, atol=0.1)  # Gaussians leave some black between
