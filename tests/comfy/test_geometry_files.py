"""Depth, point clouds and meshes through real files: written by the nodes, read by others."""

import json
import struct

import cv2
import numpy as np
import OpenEXR
import pytest
import torch
import trimesh
from geometry_graphs import CLOUD, HEIGHT, LOAD, MESH, WIDTH, GeometryCase, P, expected_points, plane, refused
from graphs import Graph
from modality_forcing.model.depth.files import load_depth
from modality_forcing.tasks.host.server import GraphError
from PIL import Image

SAVE = {"format": "png (16 bit)", "unit": "metre", "step": 0.0}
FORMATS = ["png (16 bit)", "exr (32 bit)", "npy (32 bit)", "tiff (32 bit)"]


@pytest.fixture
def case(server, tmp_path):
    return GeometryCase(server, tmp_path)


def save_depth(graph, geometry, prefix="depth/test", format="png (16 bit)", unit="metre", step=0.0):
    inputs = {"filename_prefix": prefix, "format": format, "unit": unit, "step": step}
    return graph.add(f"{P}SaveDepth", geometry=geometry, **inputs)


@pytest.mark.parametrize("format", FORMATS)
def test_depth_files_of_a_batch_and_back(case, format):
    depth, _ = plane(2)
    graph = Graph()
    node = save_depth(graph, case.geometry(graph, depth), format=format)
    kind = "images" if format.startswith("png") else "files"
    files = case.files(case.server.run(graph.prompt), node, kind)
    assert len(files) == 2
    step = 0.0
    for index, file in enumerate(files):
        if format.startswith("png"):
            stored = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            assert stored.dtype == np.uint16
            step = float(depth[index].nan_to_num(0).max()) / 65535
            values = stored * step
        elif format.startswith("exr"):
            values = OpenEXR.File(str(file)).channels()["Y"].pixels
        elif format.startswith("npy"):
            values = np.load(file)
        else:
            values = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        np.testing.assert_allclose(values, depth[index].nan_to_num(0), rtol=0, atol=step / 2 + 1e-9)

        (case.server.base / "input" / file.name).write_bytes(file.read_bytes())
        graph = Graph()
        loaded = graph.add(f"{P}LoadDepth", file=file.name, **LOAD)
        geometry, valid, notes = case.run(graph, geometry=loaded[0], mask=loaded[1], text=(loaded[2],))
        assert torch.equal(valid > 0, depth[index].isfinite()[None])
        known = geometry["mask"]
        torch.testing.assert_close(geometry["depth"][known], depth[index][None][known], rtol=1e-6, atol=step / 2)
        assert f"{WIDTH} x {HEIGHT}" in notes[0] and "Warning" not in notes[0]
        assert ("metre" in notes[0]) == (not format.startswith("npy"))


def test_depth_of_an_output_file_and_changed_files(case):
    """Core's mark [output] works, and a file that changes is read again."""
    folder = case.output / "made"
    folder.mkdir(exist_ok=True)
    np.save(folder / "a.npy", np.full((2, 3), 5.0, np.float32))

    def loaded():
        graph = Graph()
        return case.run(graph, geometry=graph.add(f"{P}LoadDepth", file="made/a.npy [output]", **LOAD))[0]["depth"]

    assert (loaded() == 5).all()
    np.save(folder / "a.npy", np.full((2, 4), 6.0, np.float32))
    assert loaded().shape == (1, 2, 4)


def test_8_bit_and_coloured_depth_warn(case):
    path = case.server.base / "input" / "eight.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(1, 255, (4, 4, 3), np.uint8))
    graph = Graph()
    loaded = graph.add(f"{P}LoadDepth", file="eight.png", **LOAD)
    (notes,) = case.run(graph, text=(loaded[2],))
    assert "8 bits" in notes[0] and "colour" in notes[0]
    declared = case.server.object_info()[f"{P}LoadDepth"]["input"]["required"]["file"]
    assert "eight.png" in (declared[0] if isinstance(declared[0], list) else declared[1]["options"])


@pytest.mark.parametrize(
    "name", ["../secret.npy", "/etc/passwd", "none.png", "C:\\windows\\x.png", "a/../../secret.npy", ".", ""]
)
def test_depth_files_that_must_not_be_read(case, name):
    np.save(case.server.base / "secret.npy", np.ones((2, 2), np.float32))
    graph = Graph()
    graph.add("PreviewAny", source=graph.add(f"{P}LoadDepth", file=name, **LOAD)[2])
    with pytest.raises(GraphError, match="no depth file|inside ComfyUI|Invalid file path|not in list"):
        case.server.run(graph.prompt)


def test_damaged_and_empty_depth_files(case):
    inputs = case.server.base / "input"
    (inputs / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    np.save(inputs / "empty.npy", np.zeros((2, 2), np.float32))
    for name, text in (("damaged.png", "damaged"), ("empty.npy", "no valid depth")):
        graph = Graph()
        graph.add("PreviewAny", source=graph.add(f"{P}LoadDepth", file=name, **LOAD)[2])
        refused(case, graph, name, text)


@pytest.mark.parametrize("prefix", ["../out", "a/../../b", "/tmp/out", "", "folder/", "x\0y"])
def test_prefixes_that_must_not_be_written(case, prefix):
    depth, _ = plane()
    before = {p for p in case.server.base.parent.rglob("*") if "output" not in p.parts}
    for kind in ("depth", "cloud", "mesh"):
        graph = Graph()
        geometry = case.geometry(graph, depth)
        if kind == "depth":
            save_depth(graph, geometry, prefix)
        elif kind == "cloud":
            cloud = graph.add(f"{P}PointCloud", geometry=geometry, **CLOUD)
            graph.add(f"{P}SavePointCloud", point_cloud=cloud, filename_prefix=prefix, format="ply")
        else:
            mesh = graph.add(f"{P}Mesh", geometry=geometry, **MESH)
            graph.add(f"{P}SaveMesh", mesh=mesh, filename_prefix=prefix)
        refused(case, graph, "file name prefix")
    after = {p for p in case.server.base.parent.rglob("*") if "output" not in p.parts}
    assert not {p for p in after - before if p.suffix != ".safetensors"}


def test_nothing_is_overwritten(case):
    depth, _ = plane()
    folder = case.output / "kept"
    folder.mkdir(exist_ok=True)
    names = []
    for run in range(2):
        graph = Graph()
        node = save_depth(graph, case.geometry(graph, depth + run), "kept/depth", "npy (32 bit)")
        names += [path.name for path in case.files(case.server.run(graph.prompt), node, "files")]
    assert names == ["depth_00001_.npy", "depth_00002_.npy"]


def test_depth_that_does_not_fit_the_step(case):
    graph = Graph()
    save_depth(graph, case.geometry(graph, torch.full((1, 2, 2), 100.0)), step=0.001)
    refused(case, graph, "does not fit 16 bits", "EXR")


@pytest.mark.parametrize("range_from", ["per batch", "fixed"])
def test_ranges_of_png(case, range_from):
    """One far pixel takes neither the levels of its own picture nor the step of the sequence."""
    depth = torch.rand(2, 40, 50, generator=torch.manual_seed(0)) + 1.0
    depth[0, 0, 0] = 400_000.0
    graph = Graph()
    settings = {"range_from": range_from, "far": 2.0, "clip_percent": 0.1}
    node = graph.add(
        f"{P}SaveDepth", geometry=case.geometry(graph, depth), filename_prefix="depth/range", **SAVE, **settings
    )
    paths = case.files(case.server.run(graph.prompt), node, "images")
    loaded = [load_depth(path) for path in paths]
    levels = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths]
    assert levels[0][0, 0] == 65535 and len(np.unique(levels[0])) > 1900
    far = 2.0 if range_from == "fixed" else float(depth.max(2).values.max(1).values[1])
    for got, wanted in zip(loaded, depth, strict=True):
        torch.testing.assert_close(got.depth[0], wanted.clamp_max(far), atol=1e-3, rtol=0)


def test_exr_channels_by_name(case):
    depth = np.float32([[1, 2], [3, 4]])
    name = "channels.exr"
    channels = {"R": depth * 0, "G": depth * 0, "B": depth * 0, "Z": depth, "far.Z": depth * 10}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, channels).write(str(case.server.base / "input" / name))
    for channel, factor in (("", 1), (" far ", 10)):
        graph = Graph()
        loaded = graph.add(f"{P}LoadDepth", file=name, **LOAD, channel=channel)
        geometry, text = case.run(graph, geometry=loaded[0], text=[loaded[2]])
        assert geometry["depth"][0].tolist() == (depth * factor).tolist()
        assert f"channel {'far.Z' if channel else 'Z'}" in text[0]
    graph = Graph()
    graph.add("PreviewAny", source=graph.add(f"{P}LoadDepth", file=name, **LOAD, channel="left")[2])
    refused(case, graph, name, "left", "far.Z")


def test_files_carry_the_workflow(case):
    depth, image = plane()
    graph = Graph()
    geometry = case.geometry(graph, depth, image=case.image(graph, image))
    png, exr = (save_depth(graph, geometry, "depth/workflow", format) for format in FORMATS[:2])
    cloud = graph.add(f"{P}PointCloud", geometry=geometry, **CLOUD)[0]
    ply = graph.add(f"{P}SavePointCloud", point_cloud=cloud, filename_prefix="3d/workflow", format="ply")
    glb = graph.add(
        f"{P}SaveMesh", mesh=graph.add(f"{P}Mesh", geometry=geometry, **MESH), filename_prefix="3d/workflow"
    )
    outputs = case.server.run(graph.prompt)
    saves = {"images": (png,), "files": (exr,), "3d": (ply, glb)}
    paths = [case.files(outputs, node, kind)[0] for kind, nodes in saves.items() for node in nodes]
    with Image.open(paths[0]) as picture:
        found = [picture.text["prompt"]]
    with OpenEXR.File(str(paths[1])) as file:
        found.append(file.header()["prompt"])
    head = paths[2].read_bytes().split(b"end_header")[0].decode()
    found.append(
        "".join(line.removeprefix("comment prompt ") for line in head.splitlines() if "comment prompt" in line)
    )
    content = paths[3].read_bytes()
    found.append(json.loads(content[20 : 20 + struct.unpack_from("<I", content, 12)[0]])["asset"]["extras"]["prompt"])
    for text in found:
        assert {node["class_type"] for node in json.loads(text).values()} >= {f"{P}SaveDepth", f"{P}SaveMesh"}


@pytest.mark.parametrize("format", ["ply", "glb"])
@pytest.mark.parametrize("normals", [False, True])
def test_point_clouds_of_a_batch(case, format, normals):
    depth, image = plane(2)
    graph = Graph()
    geometry = case.geometry(graph, depth, image=case.image(graph, image))
    cloud = graph.add(f"{P}PointCloud", geometry=geometry, **{**CLOUD, "normals": normals})
    node = graph.add(f"{P}SavePointCloud", point_cloud=cloud, filename_prefix="3d/cloud", format=format)
    graph.add("PreviewAny", source=cloud[1])
    outputs = case.server.run(graph.prompt)
    assert outputs[str(int(node) + 1)]["text"] == ["47", "47"]
    for index, file in enumerate(case.files(outputs, node, "3d")):
        read = trimesh.load(file)
        read = read if format == "ply" else next(iter(read.geometry.values()))
        np.testing.assert_allclose(read.vertices, expected_points(depth[index]), rtol=1e-6, atol=1e-6)
        colours = np.round(image[index][depth[index].isfinite()].numpy() * 255)
        np.testing.assert_array_equal(np.asarray(read.colors)[:, :3], colours)
        assert (b"float nx" in file.read_bytes() or b"NORMAL" in file.read_bytes()) == normals


def test_cloud_filters(case):
    depth, _ = plane()
    for settings, expected in (
        ({"stride": 2}, 11),
        ({"far": 2.05}, int((depth <= 2.05).sum())),
        ({"voxel": 100.0}, 1),
        ({"outlier_neighbours": 5, "outlier_deviations": 100.0}, 47),
    ):
        graph = Graph()
        cloud = graph.add(f"{P}PointCloud", geometry=case.geometry(graph, depth), **{**CLOUD, **settings})
        (points,) = case.run(graph, text=(cloud[1],))
        assert points == [str(expected)]


def test_textured_meshes_of_a_batch(case):
    """The second image has a hole, so the meshes differ in size."""
    depth, image = plane(2)
    depth[1, 3:] = torch.nan
    graph = Graph()
    geometry = case.geometry(graph, depth, image=case.image(graph, image))
    mesh = graph.add(f"{P}Mesh", geometry=geometry, **{**MESH, "normals": True})
    node = graph.add(f"{P}SaveMesh", mesh=mesh, filename_prefix="3d/mesh")
    files = case.files(case.server.run(graph.prompt), node, "3d")
    for index, file in enumerate(files):
        read = next(iter(trimesh.load(file, process=False).geometry.values()))
        np.testing.assert_allclose(read.vertices, expected_points(depth[index]), rtol=1e-6, atol=1e-6)
        # Each row of quads is two triangles a pixel pair; the corner that is missing takes one of them away.
        rows = HEIGHT - 1 if index == 0 else 2
        assert len(read.faces) == 2 * rows * (WIDTH - 1) - 1
        texture = np.asarray(read.visual.material.baseColorTexture)[..., :3]
        np.testing.assert_array_equal(texture, np.round(image[index].numpy() * 255))
        # Where a vertex takes its colour from is the pixel that it came from (trimesh counts v upwards).
        pixels = np.stack((read.visual.uv[:, 0] * WIDTH, (1 - read.visual.uv[:, 1]) * HEIGHT), 1)
        rows, columns = np.nonzero(depth[index].isfinite().numpy())
        np.testing.assert_allclose(pixels, np.stack((columns, rows), 1) + 0.5, atol=1e-4)
        # The fronts face the camera: seen from there, the normals point towards it.
        assert ((read.face_normals * read.triangles_center).sum(1) < 0).all()


def test_poisson_mesh(case):
    pytest.importorskip("open3d", exc_type=ImportError)
    ray = (torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")) - 15.5) / 16
    length = 1 + (ray**2).sum(0)
    depth = (3 - (9 - 8 * length).clamp_min(0).sqrt()) / length  # a sphere of radius 1 at 3
    depth = torch.where(9 - 8 * length > 0, depth, torch.nan)[None]
    graph = Graph()
    cloud = graph.add(f"{P}PointCloud", geometry=case.geometry(graph, depth), **{**CLOUD, "normals": True})
    mesh = graph.add(f"{P}PoissonMesh", point_cloud=cloud, depth=5, trim_percent=30.0)
    node = graph.add(f"{P}SaveMesh", mesh=mesh, filename_prefix="3d/poisson")
    (file,) = case.files(case.server.run(graph.prompt), node, "3d")
    read = next(iter(trimesh.load(file).geometry.values()))
    front = read.vertices[read.vertices[:, 2] > -2.6]
    assert len(front) > 50
    np.testing.assert_allclose(np.linalg.norm(front - [0, 0, -3], axis=1), 1.0, atol=0.05)


def test_nothing_left_is_an_error(case):
    depth = torch.full((1, 4, 4), torch.nan)
    for node, settings in (("PointCloud", CLOUD), ("Mesh", MESH)):
        graph = Graph()
        made = graph.add(f"{P}{node}", geometry=case.geometry(graph, depth), **settings)
        if node == "Mesh":
            graph.add(f"{P}SaveMesh", mesh=made, filename_prefix="x")
        else:
            graph.add(f"{P}SavePointCloud", point_cloud=made, filename_prefix="x", format="ply")
        refused(case, graph, "no triangles" if node == "Mesh" else "no point is left")


def test_one_image_of_a_batch_empty(case):
    depth, _ = plane(2)
    depth[1] = torch.nan
    graph = Graph()
    cloud = graph.add(f"{P}PointCloud", geometry=case.geometry(graph, depth), **CLOUD)
    graph.add(f"{P}SavePointCloud", point_cloud=cloud, filename_prefix="x", format="ply")
    refused(case, graph, "image 1 of 2 is empty")
