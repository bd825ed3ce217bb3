"""Our geometry in core's own nodes: saved, previewed, rendered, meshed."""

import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from geometry_graphs import CLOUD, HEIGHT, MESH, WIDTH, GeometryCase, P, expected_points, plane, refused
from graphs import Graph


@pytest.fixture
def case(server, tmp_path):
    return GeometryCase(server, tmp_path)


def glb_header(data: bytes) -> dict:
    length = struct.unpack("<I", data[12:16])[0]
    return json.loads(data[20 : 20 + length])


def test_core_saves_our_mesh(case, object_info):
    """SaveGLB on every host: the same vertices; with texture where core's MESH knows it."""
    depth, image = plane(2)
    depth[1, 3:] = torch.nan
    graph = Graph()
    geometry = case.geometry(graph, depth, image=case.image(graph, image))
    node = graph.add("SaveGLB", mesh=graph.add(f"{P}Mesh", geometry=geometry, **MESH), filename_prefix="3d/core")
    for index, file in enumerate(case.files(case.server.run(graph.prompt), node, "3d")):
        read = trimesh.load(file, process=False)
        (shape,) = read.geometry.values()
        expected = expected_points(depth[index])
        used = np.unique(shape.faces)
        np.testing.assert_allclose(shape.vertices[used], expected[used], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(shape.bounds, [expected.min(0), expected.max(0)], atol=1e-6)
        if "MoGeRender" in object_info:
            assert len(shape.vertices) == len(expected)
            assert "baseColorTexture" in glb_header(file.read_bytes())["materials"][0]["pbrMetallicRoughness"]


def needs(object_info, *nodes):
    missing = [node for node in nodes if node not in object_info]
    if missing:
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")


def test_core_previews_and_saves_our_point_cloud(case, object_info):
    needs(object_info, "PreviewPointCloud", "SavePointCloud")
    depth, image = plane(2)
    graph = Graph()
    geometry = case.geometry(graph, depth, image=case.image(graph, image))
    cloud = graph.add(f"{P}PointCloud", geometry=geometry, **CLOUD)
    file = graph.add(f"{P}PointCloudFile", point_cloud=cloud)
    size = {"viewport_state": {}, "width": 64, "height": 64}
    graph.add("PreviewPointCloud", model_3d=file, **size)
    graph.add("SavePointCloud", model_3d=file, filename_prefix="3d/core_cloud", **size)
    case.server.run(graph.prompt)
    saved = sorted((case.output / "3d").glob("core_cloud*.ply"))
    assert len(saved) == 2
    for index, path in enumerate(saved):
        np.testing.assert_allclose(trimesh.load(path).vertices, expected_points(depth[index]), rtol=1e-6, atol=1e-6)
    assert len(list((case.server.base / "temp").glob("preview_pointcloud_*.ply"))) >= 2


def test_old_core_says_what_to_use_instead(case, object_info):
    if "PreviewPointCloud" in object_info:
        pytest.skip("this ComfyUI has 3D file sockets")
    graph = Graph()
    cloud = graph.add(f"{P}PointCloud", geometry=case.geometry(graph, plane()[0]), **CLOUD)
    graph.add("PreviewAny", source=graph.add(f"{P}PointCloudFile", point_cloud=cloud))
    refused(case, graph, "Save Point Cloud")


def test_core_previews_our_saved_mesh_by_name(case):
    graph = Graph()
    mesh = graph.add(f"{P}Mesh", geometry=case.geometry(graph, plane()[0]), **MESH)
    saved = graph.add(f"{P}SaveMesh", mesh=mesh, filename_prefix="3d/named")
    node = graph.add("Preview3D", model_file=saved)
    result = case.server.run(graph.prompt)[str(node)]["result"]
    assert result[0].startswith("3d/named_") and (case.output / result[0]).is_file()


@pytest.mark.parametrize("output", ["depth", "depth_colored", "normal_opengl", "normal_directx", "mask"])
def test_core_renders_our_geometry(case, object_info, output):
    needs(object_info, "MoGeRender")
    depth, _ = plane(2)
    graph = Graph()
    node = graph.add("MoGeRender", moge_geometry=case.geometry(graph, depth), output=output)
    (image,) = case.run(graph, image=node)
    assert image.shape == (2, HEIGHT, WIDTH, 3) and image.isfinite().all()
    if output == "mask":
        assert torch.equal(image[..., 0] > 0, depth.isfinite())
    if output == "depth":
        assert (image[:, -1, -1] < 0.02).all() and (image[:, 1, 0] > 0.98).all()


@pytest.mark.parametrize("kind", ["moge", "da3"])
def test_core_meshes_our_geometry(case, object_info, kind):
    node = {"moge": "MoGePointMapToMesh", "da3": "DA3GeometryToMesh"}[kind]
    needs(object_info, node)
    depth, image = plane()
    graph = Graph()
    geometry = case.geometry(graph, depth, image=case.image(graph, image))
    common = {"batch_index": 0, "decimation": 1, "discontinuity_threshold": 0.0, "texture": True}
    if kind == "moge":
        mesh = graph.add(node, moge_geometry=geometry, **common)
    else:
        packet = graph.add(f"{P}GeometryToDA3", geometry=geometry)
        mesh = graph.add(node, da3_geometry=packet, confidence_threshold=0.0, use_sky_mask=True, **common)
    # Core's own mesh through our save node as well.
    saved = graph.add(f"{P}SaveMesh", mesh=mesh, filename_prefix=f"3d/of_{kind}")
    (file,) = case.files(case.server.run(graph.prompt), saved, "3d")
    (shape,) = trimesh.load(file, process=False).geometry.values()
    expected = expected_points(depth[0])
    assert shape.visual.material.baseColorTexture.size == (WIDTH, HEIGHT)
    for vertex in shape.vertices:
        assert np.abs(expected - vertex).max(1).min() < 1e-5


def test_core_reads_our_camera(case, object_info):
    needs(object_info, "MoGeGeometryToFOV")
    graph = Graph()
    geometry = case.geometry(graph, plane()[0], 70.0)
    node = graph.add("MoGeGeometryToFOV", moge_geometry=geometry, axis="horizontal", unit="degrees")
    (fov,) = case.run(graph, text=(node[0],))
    assert abs(float(fov[0]) - 70.0) < 1e-3
