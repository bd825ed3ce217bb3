"""What the viewer and the nodes tell each other: packets for the browser, views, known distances."""

import json
import math

import numpy as np
import pytest
import torch
from modality_forcing.model.geometry.browser_packets import (
    camera_of,
    cloud_packet,
    geometry_packet,
    mesh_cloud,
    mesh_packet,
    scene_of,
)
from modality_forcing.model.geometry.camera import intrinsics_from_fov_x
from modality_forcing.model.geometry.looking import View, known_distance, median_depth, read_pick, read_view
from modality_forcing.model.geometry.mesh import Mesh, grid_meshes
from modality_forcing.model.geometry.orbit import Orbit, orbit_from_load3d
from modality_forcing.model.geometry.packets import make_geometry, read_geometry
from modality_forcing.model.geometry.pointcloud import point_clouds
from modality_forcing.model.geometry.pose import pose_from_load3d


@pytest.fixture
def packet():
    """Two images of 3 × 4: a ramp, and the same twice as far with a hole."""
    depth = torch.arange(1.0, 13.0).reshape(1, 3, 4).repeat(2, 1, 1)
    depth[1] *= 2
    depth[1, 0, 0] = torch.nan
    image = torch.arange(72.0).reshape(2, 3, 4, 3) / 255
    return make_geometry(depth, None, intrinsics_from_fov_x(90.0, 4, 3), image)


def unpack(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:4], "little")
    assert length % 4 == 0
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def test_depth_packet(packet):
    header, body = unpack(geometry_packet(packet, 1, torch.full((1, 3, 4), 0.5)))
    assert [header[key] for key in ("version", "kind", "width", "height", "uncertainty")] == [2, "depth", 4, 3, True]
    assert header["intrinsics"] == pytest.approx([0.5, 0, 0.5, 0, 2 / 3, 0.5, 0, 0, 1])
    depth = np.frombuffer(body, "<f4", 12)
    assert math.isnan(depth[0]) and depth[1:].tolist() == [2.0 * z for z in range(2, 13)]
    assert np.frombuffer(body, "<f4", 12, 48).tolist() == [0.5] * 12
    assert np.frombuffer(body, np.uint8, 36, 96).tolist() == list(range(36, 72)) and len(body) == 132
    with pytest.raises(ValueError, match="uncertainty of"):
        geometry_packet(packet, 0, torch.zeros(1, 2, 2))


def test_the_scene_is_named_by_its_content(packet):
    names = {scene_of(geometry_packet(packet, index)) for index in (0, 1, 0)}
    assert len(names) == 2 and all(len(name) == 16 for name in names)


def test_cloud_and_mesh_packets(packet):
    (cloud, _), camera = point_clouds(packet, edge_threshold=0.0), camera_of(packet, 0)
    header, body = unpack(cloud_packet(cloud, camera))
    assert (header["kind"], header["points"], len(body)) == ("points", 12, 12 * 19)
    np.testing.assert_array_equal(np.frombuffer(body, "<f4", 36).reshape(12, 3), cloud.points)
    mesh = grid_meshes(packet, edge_threshold=0.0)[0]
    header, body = unpack(mesh_packet(mesh, camera))
    assert (header["points"], header["faces"], len(body)) == (12, 12, 12 * 12 + 12 * 12 + 36)
    assert np.frombuffer(body, np.uint8, 36, 288).tolist() == list(range(36))  # the texture at the vertices


def test_vertices_of_a_mesh_are_spaced_as_its_edges():
    triangle = Mesh(np.float32([[0, 0, 1], [3, 0, 1], [0, 4, 1], [9, 9, 9]]), np.int32([[0, 1, 2]]))
    cloud = mesh_cloud(triangle)
    np.testing.assert_allclose(cloud.spacing, [3.5, 4.0, 4.5, 0.0])
    assert (cloud.colors == 128).all()


@pytest.mark.parametrize(
    "orbit",
    [
        Orbit((0.0, 0.0, 3.0), 3.0),
        Orbit((0.5, -0.25, 4.0), 3.0, 30.0, 10.0, 40.0),
        Orbit((1.0, 2.0, -4.0), 0.3, -170.0, -60.0),
    ],
)
def test_an_orbit_and_its_load3d_camera_are_one(orbit):
    camera = orbit.load3d(50.0)
    torch.testing.assert_close(pose_from_load3d(camera), orbit.pose(), atol=1e-6, rtol=0)
    again = orbit_from_load3d(camera, 1.0)
    assert again.pivot == pytest.approx(orbit.pivot, abs=1e-5) and again.distance == pytest.approx(orbit.distance)
    assert (again.yaw_deg, again.pitch_deg) == pytest.approx((orbit.yaw_deg, orbit.pitch_deg), abs=1e-3)
    assert again.fov_y_deg == (50.0 if orbit.fov_y_deg is None else orbit.fov_y_deg)


def test_a_camera_without_target_looks_at_the_given_distance():
    turned = {"position": dict(x=0, y=0, z=0), "quaternion": dict(x=0, y=math.sqrt(0.5), z=0, w=math.sqrt(0.5))}
    orbit = orbit_from_load3d({**turned, "fov": 90.0, "zoom": 2.0}, 2.0)  # turned left by 90°
    assert orbit.pivot == pytest.approx((-2.0, 0.0, 0.0), abs=1e-6) and orbit.yaw_deg == pytest.approx(-90.0)
    assert orbit.fov_y_deg == pytest.approx(2 * math.degrees(math.atan(0.5)))


def test_views_are_read_and_keep_what_they_say(packet):
    assert read_view("") == View()
    text = json.dumps(
        {"pivot": [0, 0, 3], "distance": 3, "yaw": 10, "pitch": 0, "fov_y_deg": None, "edge": 0, "far": 1}
    )
    view = read_view(text)
    assert view.orbit == Orbit((0.0, 0.0, 3.0), 3.0, 10.0, 0.0) and (view.edge, view.far) == (0.0, 1.0)
    assert median_depth(read_geometry(packet), 0) == 7.0
    assert [len(cloud) for cloud in view.clouds(packet)] == [7, 6]  # each up to its own median


@pytest.mark.parametrize(
    "text",
    ["x", "[]", "{}", '{"pivot": [0, 0]}', '{"pivot": [0, 0, 1], "distance": 0, "yaw": 0, "pitch": 0}', "[" * 99999]
    + ['{"pivot": [0, 0, NaN], "distance": 1, "yaw": 0, "pitch": 0}'],
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="viewer"):
        read_view(text)
    with pytest.raises(ValueError, match="viewer"):
        read_pick(text)


def test_known_distances(packet):
    def of(pixels, distance, index=0):
        return known_distance(packet, read_pick(json.dumps({"pixels": pixels, "distance": distance, "index": index})))

    assert of([[1, 2]], 2.5) == (1.0, 2.0, 2.5)
    x, y, distance = of([[0, 0], [3, 0]], 2.0)
    points = packet["points"][0]
    factor = distance / float(points[0, 0, 2])
    assert (x, y) == (0, 0) and factor * float(torch.dist(points[0, 0], points[0, 3])) == pytest.approx(2.0)
    assert known_distance(packet, None) == (2.0, 1.0, 7.0)  # changes nothing
    for pixels, index, message in ([[9, 0]], 0, "for depth of"), ([[0, 0]], 1, "no depth"), ([[0, 0]], 5, "batch of 2"):
        with pytest.raises(ValueError, match=message):
            of(pixels, 1.0, index)
    with pytest.raises(ValueError, match="same point"):
        of([[1, 1], [1, 1]], 1.0)
