"""Camera conventions and poses, with numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from modality_forcing.model.geometry import camera, pose


def assert_close(got, expected, tolerance=1e-6):
    torch.testing.assert_close(
        torch.as_tensor(got), torch.as_tensor(expected), rtol=0, atol=tolerance, check_dtype=False
    )


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (2000, 200)])
def test_the_narrowest_field_of_view_that_nodes_offer_is_taken(size):
    """1 degree, and 10 degrees of a panorama: 0.5 / tan(0.5 degrees) = 57 widths, and more heights."""
    camera.check_intrinsics(camera.intrinsics_from_fov_x(1.0, *size))
    with pytest.raises(ValueError, match="below 1 degree"):
        camera.check_intrinsics(camera.intrinsics_from_focal_px(100.0 * max(size), *size))


def test_fov_of_90_degrees_has_a_focal_length_of_half_the_width():
    k = camera.intrinsics_from_fov_x(90.0, 400, 200)
    assert_close(k, [[[0.5, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]])
    assert_close(camera.intrinsics_from_fov_y(90.0, 400, 200), [[[0.25, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1.0]]])


def test_all_ways_to_the_same_camera_agree():
    # Full frame, 18 mm lens: 36 / 18 = 2 = 2·tan(fov_x/2), so fov_x = 90° and the focal length is half the width.
    expected = camera.intrinsics_from_fov_x(90.0, 600, 400)
    assert_close(camera.intrinsics_from_focal_mm(18.0, 36.0, 600, 400), expected)
    assert_close(camera.intrinsics_from_focal_px(300.0, 600, 400), expected)
    fov_y = math.degrees(2 * math.atan(200 / 300))
    assert_close(camera.intrinsics_from_fov_y(fov_y, 600, 400), expected)


def test_fov_comes_back_also_off_centre():
    fov_x, fov_y = camera.fov_deg(camera.intrinsics_from_fov_x(63.0, 640, 480))
    assert_close(fov_x, [63.0], 1e-4)
    assert_close(fov_y, [math.degrees(2 * math.atan(math.tan(math.radians(31.5)) * 480 / 640))], 1e-4)
    # Centre at the left border, focal length = width: from straight ahead to 45° right.
    k = camera.intrinsics_from_focal_px(100.0, 100, 100, centre_x_px=0.0)
    assert_close(camera.fov_deg(k)[0], [45.0], 1e-4)
    assert_close(torch.stack(camera.focal_px(k, 100, 100)), [[100.0], [100.0]], 1e-4)


def test_integer_centres_shift_the_centre_by_half_a_pixel_and_back():
    k = camera.intrinsics_from_focal_px(10.0, 8, 4, centre_x_px=3.5, centre_y_px=1.5, integer_centres=True)
    assert_close(k[0, :2, 2], [0.5, 0.5])
    assert_close(camera.pixel_intrinsics(k, 8, 4, integer_centres=True), [[[10.0, 0, 3.5], [0, 10.0, 1.5], [0, 0, 1]]])
    assert_close(camera.pixel_intrinsics(k, 8, 4), [[[10.0, 0, 4.0], [0, 10.0, 2.0], [0, 0, 1]]])


def test_unproject_by_hand():
    # 4×2 pixels, focal length 2 px, centre (2, 1): pixel centres lie at x = 0.5, 1.5, 2.5, 3.5 and y = 0.5, 1.5.
    k = camera.intrinsics_from_focal_px(2.0, 4, 2)
    points = camera.unproject(torch.full((1, 2, 4), 4.0), k)
    assert_close(points[0, 0, 0], [-3.0, -1.0, 4.0])  # (0.5 − 2) / 2 · 4, (0.5 − 1) / 2 · 4
    assert_close(points[0, 1, 3], [3.0, 1.0, 4.0])


def test_project_inverts_unproject():
    k = torch.cat([camera.intrinsics_from_focal_px(500.0 + i, 64, 48, centre_x_px=30.0 + i) for i in range(3)])
    depth = torch.rand(3, 48, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5 + 0.1
    position, z = camera.project(camera.unproject(depth, k), k, 64, 48)
    rows, columns = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    assert_close(position, torch.stack((columns, rows), -1).expand(3, 48, 64, 2), 1e-9)
    assert torch.equal(z, depth)


def test_points_behind_the_camera_have_no_position():
    position, z = camera.project(torch.tensor([[[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]]), camera._matrix(1.0, 1.0), 2, 2)
    assert torch.isnan(position).all()
    assert_close(z, [[-1.0, 0.0]])


def test_dtypes():
    k = camera.intrinsics_from_fov_x(60, 4, 4)
    assert camera.unproject(torch.ones(1, 4, 4, dtype=torch.float16), k).dtype == torch.float32
    assert camera.unproject(torch.ones(1, 4, 4, dtype=torch.float64), k).dtype == torch.float64


def test_gltf_axes_are_their_own_inverse_and_a_rotation():
    points = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    np.testing.assert_array_equal(camera.swap_gltf_axes(points), [[1.0, -2.0, -3.0]])
    assert camera.swap_gltf_axes(points).dtype == np.float32
    assert_close(camera.swap_gltf_axes(camera.swap_gltf_axes(torch.eye(3))), torch.eye(3))
    assert math.prod(camera.GLTF_AXES) == 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: camera.intrinsics_from_fov_x(0.0, 10, 10),
        lambda: camera.intrinsics_from_fov_x(180.0, 10, 10),
        lambda: camera.intrinsics_from_fov_y(float("nan"), 10, 10),
        lambda: camera.intrinsics_from_fov_x(60.0, 0, 10),
        lambda: camera.intrinsics_from_focal_px(-5.0, 10, 10),
        lambda: camera.intrinsics_from_focal_mm(35.0, 0.0, 10, 10),
        lambda: camera.check_intrinsics(torch.eye(3)),
        lambda: camera.check_intrinsics(torch.tensor([[[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]])),
        lambda: camera.check_intrinsics(torch.full((1, 3, 3), float("nan"))),
        lambda: camera.expand_intrinsics(camera._matrix(1.0, 1.0).repeat(2, 1, 1), 3),
        lambda: camera.unproject(torch.ones(4, 4), camera._matrix(1.0, 1.0)),
        lambda: camera.project(torch.ones(1, 4, 2), camera._matrix(1.0, 1.0), 4, 4),
    ],
)
def test_bad_cameras_say_so(make):
    with pytest.raises(ValueError, match="expected|give one|must be"):
        make()


def test_turns_and_moves():
    ahead, right = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    assert_close(pose.camera_pose(yaw_deg=90)[:3, :3] @ ahead, [1.0, 0.0, 0.0])  # looks right
    assert_close(pose.camera_pose(pitch_deg=90)[:3, :3] @ ahead, [0.0, -1.0, 0.0])  # looks up, y is down
    assert_close(pose.camera_pose(roll_deg=90)[:3, :3] @ right, [0.0, 1.0, 0.0])  # clockwise
    assert_close(pose.camera_pose(1.0, 2.0, 3.0)[:3, 3], [1.0, -2.0, 3.0])


def test_an_orbit_keeps_its_pivot_ahead():
    matrix = pose.camera_pose(yaw_deg=90.0, pivot=2.0)
    assert_close(matrix[:3, 3], [-2.0, 0.0, 2.0])
    assert_close(torch.linalg.inv(matrix) @ torch.tensor([0.0, 0.0, 2.0, 1.0]), [0.0, 0.0, 2.0, 1.0])


def test_load3d_camera():
    at_origin = {"position": {"x": 0, "y": 0, "z": 0}, "quaternion": {"x": 0, "y": 0, "z": 0, "w": 1}}
    assert_close(pose.pose_from_load3d(at_origin), torch.eye(4))
    # 3 above and 4 behind in glTF axes, looking at the origin.
    matrix = pose.pose_from_load3d({"position": {"x": 0, "y": 3, "z": 4}, "target": {"x": 0, "y": 0, "z": 0}})
    assert_close(matrix[:3, 3], [0.0, -3.0, -4.0])
    assert_close(torch.linalg.inv(matrix) @ torch.tensor([0.0, 0.0, 0.0, 1.0]), [0.0, 0.0, 5.0, 1.0])
    assert_close(matrix[:3, 0], [1.0, 0.0, 0.0])
    down = pose.pose_from_load3d({"position": {"x": 0, "y": 2, "z": 0}, "target": {"x": 0, "y": 0, "z": 0}})
    assert_close(down[:3, :3] @ torch.tensor([0.0, 0.0, 1.0]), [0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    "info",
    [
        {},
        None,
        {"position": {"x": 1}},
        {"position": dict.fromkeys("xyz", 0.0), "target": dict.fromkeys("xyz", 0.0)},
        {"position": dict.fromkeys("xyz", []), "target": dict.fromkeys("xyz", 0.0)},
        {"position": dict.fromkeys("xyz", 1e308), "target": dict.fromkeys("xyz", 0.0)},
    ],
)
def test_bad_load3d_cameras_say_so(info):
    with pytest.raises(ValueError, match="camera"):
        pose.pose_from_load3d(info)


def test_the_lens_of_a_load3d_camera():
    assert pose.fov_y_from_load3d({}) is None
    assert pose.fov_y_from_load3d({"fov": 90, "zoom": None}) == pytest.approx(90.0)
    assert pose.fov_y_from_load3d({"fov": 90, "zoom": 2.0}) == pytest.approx(math.degrees(2 * math.atan(0.5)))
    for wrong in ({"fov": [[1.0]]}, {"fov": math.nan}, {"fov": 50, "zoom": -1.0}, {"fov": 50, "zoom": {"x": 1}}):
        with pytest.raises(ValueError, match="the camera's (fov|zoom)"):
            pose.fov_y_from_load3d(wrong)


def test_a_pose_from_elsewhere_turns_and_moves_and_no_more():
    moved = pose.camera_pose(right=2.0, yaw_deg=30.0, pitch_deg=-10.0)
    assert torch.equal(pose.checked_pose(moved), moved)
    mirrored, scaled, spoiled = (moved.clone() for _ in range(3))
    mirrored[:3, 0] *= -1
    scaled[:3, :3] *= 2
    spoiled[0, 3] = math.nan
    for wrong in (torch.zeros(4, 4), mirrored, scaled, spoiled):
        with pytest.raises(ValueError, match="no rotation and position"):
            pose.checked_pose(wrong)
    with pytest.raises(ValueError, match=r"expected a tensor \(4,4\)"):
        pose.checked_pose(moved[:3])
