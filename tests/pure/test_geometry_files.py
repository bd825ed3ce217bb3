"""PLY and GLB, taken apart by hand and read back by trimesh."""

import json
import struct

import numpy as np
import pytest
import torch
from modality_forcing.model.geometry import camera, files, mesh, packets
from modality_forcing.model.geometry.mesh import Mesh
from modality_forcing.model.geometry.pointcloud import PointCloud, point_clouds

K = camera.intrinsics_from_focal_px(10.0, 8, 6)


def cloud(normals=True):
    points = np.array([[1.0, 2.0, 3.0], [-0.5, 0.25, 100.0]], np.float32)
    colors = np.array([[255, 0, 7], [1, 2, 3]], np.uint8)
    directions = np.array([[0.0, 0.6, -0.8], [0.0, 0.0, 0.0]], np.float32)
    return PointCloud(points, colors, np.ones(2, np.float32), directions if normals else None)


def scene():
    depth = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(0)) * 0.02 + 2.0
    image = torch.rand(1, 6, 8, 3, generator=torch.Generator().manual_seed(1))
    return packets.make_geometry(depth, None, K, image)


def parts(glb):
    magic, version, total = struct.unpack_from("<4sII", glb)
    length, kind = struct.unpack_from("<I4s", glb, 12)
    size, binary = struct.unpack_from("<I4s", glb, 20 + length)
    assert (magic, version, total, kind, binary) == (b"glTF", 2, len(glb), b"JSON", b"BIN\0")
    assert length % 4 == size % 4 == 0 and total == 28 + length + size
    return json.loads(glb[20 : 20 + length]), glb[28 + length :]


def test_ply_by_hand():
    text, body = files.ply_bytes(cloud()).split(b"end_header\n", 1)
    assert text.decode() == (
        "ply\nformat binary_little_endian 1.0\ncomment axes: x right, y up, z towards the viewer (glTF)\n"
        "element vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
        "property float nx\nproperty float ny\nproperty float nz\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
    )
    first = struct.unpack_from("<6f3B", body)
    np.testing.assert_allclose(first, [1, -2, -3, 0, -0.6, 0.8, 255, 0, 7], rtol=1e-6)
    assert len(body) == 2 * 27


def test_ply_read_by_trimesh(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    for normals in (True, False):
        got = trimesh.load(files.save_ply(tmp_path / f"{normals}.ply", cloud(normals)))
        np.testing.assert_array_equal(got.vertices, cloud().points * [1, -1, -1])
        np.testing.assert_array_equal(got.colors[:, :3], cloud().colors)


def test_glb_points_by_hand():
    document, binary = parts(files.glb_bytes(cloud()))
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0 and "indices" not in primitive
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    assert (position["min"], position["max"]) == ([-0.5, -2.0, -100.0], [1.0, -0.25, -3.0])
    normal = document["bufferViews"][document["accessors"][primitive["attributes"]["NORMAL"]]["bufferView"]]
    values = np.frombuffer(binary, "<f4", 6, normal["byteOffset"]).reshape(2, 3)
    np.testing.assert_allclose(values, [[0, -0.6, 0.8], [0, 0, 1]], rtol=1e-6)  # no zero normals in glTF
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])


def test_glb_points_read_by_trimesh(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    loaded = trimesh.load(files.save_glb(tmp_path / "a.glb", cloud(False)))
    (got,) = loaded.geometry.values()
    np.testing.assert_array_equal(got.vertices, cloud().points * [1, -1, -1])
    np.testing.assert_array_equal(got.colors[:, :3], cloud().colors)


def test_glb_mesh_read_by_trimesh(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    (shape,) = mesh.grid_meshes(scene(), normals=True)
    assert len(shape.faces) == 2 * 5 * 7
    loaded = trimesh.load(files.save_glb(tmp_path / "a.glb", shape), process=False)
    (got,) = loaded.geometry.values()
    np.testing.assert_array_equal(got.vertices.astype(np.float32), shape.vertices * np.float32([1, -1, -1]))
    np.testing.assert_array_equal(got.faces, shape.faces)
    assert (got.face_normals[:, 2] > 0.5).all()  # towards the viewer, +z in glTF
    texture = np.asarray(got.visual.material.baseColorTexture)
    np.testing.assert_array_equal(texture[..., :3], shape.texture)
    # trimesh counts v from below. Every vertex's texel is the pixel it came from.
    texel = np.stack((got.visual.uv[:, 0] * 8, (1 - got.visual.uv[:, 1]) * 6), 1)
    np.testing.assert_allclose(texel, np.stack((np.arange(48) % 8 + 0.5, np.arange(48) // 8 + 0.5), 1), atol=1e-5)


def test_coloured_mesh_read_by_trimesh(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    shape = mesh.Mesh(
        np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1]], np.float32),
        np.array([[0, 2, 1]], np.int32),
        colors=np.array([[9, 8, 7], [6, 5, 4], [3, 2, 1]], np.uint8),
    )
    (got,) = trimesh.load(files.save_glb(tmp_path / "a.glb", shape), process=False).geometry.values()
    np.testing.assert_array_equal(got.visual.vertex_attributes["color"][:, :3], shape.colors)
    np.testing.assert_allclose(got.face_normals, [[0, 0, 1]])


def test_scale_and_axes_of_a_plane_two_metres_ahead(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    made = packets.make_geometry(torch.full((1, 6, 8), 2.0), None, K)
    got = trimesh.load(files.save_ply(tmp_path / "a.ply", point_clouds(made)[0]))
    # 8 pixels at focal length 10: from (0.5 − 4) / 10 · 2 to (7.5 − 4) / 10 · 2; the picture's top is up (+y).
    np.testing.assert_allclose(got.bounds, [[-0.7, -0.5, -2.0], [0.7, 0.5, -2.0]], rtol=1e-6)
    np.testing.assert_allclose(got.vertices[0], [-0.7, 0.5, -2.0], rtol=1e-6)


def test_nothing_to_write_and_wrong_names_say_so(tmp_path):
    empty = cloud().select(np.zeros(2, dtype=bool))
    for call in (
        lambda: files.save_ply(tmp_path / "a.ply", empty),
        lambda: files.save_glb(tmp_path / "a.glb", empty),
        lambda: files.glb_bytes(mesh.Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))),
        lambda: files.save_ply(tmp_path / "a.glb", cloud()),
        lambda: files.save_glb(tmp_path / "a", cloud()),
    ):
        with pytest.raises(ValueError, match="empty|no triangles|ends in"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_files_are_never_overwritten(tmp_path):
    path = files.save_ply(tmp_path / "a.ply", cloud())
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="not overwritten"):
        files.save_ply(path, cloud(False))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def square(**changes):
    """Two triangles over four vertices."""
    parts = {
        "vertices": np.float32([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]]),
        "faces": np.int64([[0, 1, 2], [0, 2, 3]]),
        "uvs": np.float32([[0, 0], [1, 0], [1, 1], [0, 1]]),
    }
    return Mesh(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"faces": np.int64([[0, 1, 4]])}, "vertices 0 to 4, expected 0 to 3"),
        ({"faces": np.int64([[0, 1, -1]])}, "vertices -1 to 1"),
        ({"faces": np.int64([[0, 1, 2, 3]])}, "faces of shape"),
        ({"uvs": np.zeros((3, 2), np.float32)}, r"uvs of shape \(3, 2\), expected \(4, 2\)"),
        ({"vertices": np.full((4, 3), np.nan, np.float32)}, "vertices that are not finite"),
        ({"normals": np.full((4, 3), np.inf, np.float32)}, "normals that are not finite"),
        ({"colors": np.zeros((5, 3), np.uint8)}, "colors of shape"),
        ({"faces": np.empty((0, 3), np.int64)}, "no triangles"),
    ],
)
def test_meshes_that_no_viewer_could_read_are_refused(tmp_path, changes, problem):
    with pytest.raises(ValueError, match=problem):
        files.save_glb(tmp_path / "a.glb", square(**changes))
    assert list(tmp_path.iterdir()) == [] and files.save_glb(tmp_path / "a.glb", square())


@pytest.mark.parametrize("save", [files.save_ply, files.save_glb])
def test_clouds_with_nan_are_refused(tmp_path, save):
    good = cloud()
    for name in ("points", "normals"):
        values = getattr(good, name).copy()
        values[0, 1] = np.nan
        with pytest.raises(ValueError, match=f"{name} that are not finite"):
            save(tmp_path / f"a.{save.__name__[-3:]}", PointCloud(**{**vars(good), name: values}))


def test_normals_in_ply_have_unit_length():
    body = files.ply_bytes(cloud()).split(b"end_header\n", 1)[1]
    rows = np.frombuffer(body, np.dtype([("p", "<f4", 3), ("n", "<f4", 3), ("c", "u1", 3)]))
    np.testing.assert_allclose(rows["n"], [[0, -0.6, 0.8], [0, 0, 1]], rtol=1e-6)


def test_a_packets_own_broken_normals_do_not_reach_files():
    packet = scene()
    packet["normal"] = torch.full((1, 6, 8, 3), torch.nan)
    (made,) = point_clouds(packet, normals=True)
    assert not made.normals.any() and files.ply_bytes(made)


def test_notes_are_kept_and_break_no_reader(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    notes = {"workflow": json.dumps({"note": "end_header <\u00e9> \U0001f600 " + "x" * 5000}), "prompt": "two\nlines"}
    path = files.save_ply(tmp_path / "a.ply", cloud(), notes)
    head = path.read_bytes().split(b"end_header\n", 1)[0].decode("ascii").splitlines()
    text = "".join(line.removeprefix("comment workflow ") for line in head if line.startswith("comment workflow "))
    assert json.loads(text) == json.loads(notes["workflow"]) and max(map(len, head)) < 250
    assert "comment prompt two lines" in head
    assert trimesh.load(path).vertices.shape == (2, 3)
    document, _ = parts(files.save_glb(tmp_path / "a.glb", square(), notes).read_bytes())
    assert document["asset"]["extras"] == notes
