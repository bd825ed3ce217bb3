"""MOGE_GEOMETRY packets, and DA3 packets to and from them."""

import pytest
import torch
from modality_forcing.model.geometry import camera, packets

INF, NAN = float("inf"), float("nan")
K = camera.intrinsics_from_focal_px(2.0, 4, 2)


def packet(**changes):
    depth = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [NAN, INF, 0.0, -1.0]]])
    return packets.make_geometry(depth, None, K, torch.rand(1, 2, 4, 3), normals=True) | changes


def test_layout_is_cores():
    got = packet()
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in got.items()}
    assert shapes == {
        "depth": ((1, 2, 4), torch.float32),
        "points": ((1, 2, 4, 3), torch.float32),
        "mask": ((1, 2, 4), torch.bool),
        "intrinsics": ((1, 3, 3), torch.float32),
        "normal": ((1, 2, 4, 3), torch.float32),
        "image": ((1, 2, 4, 3), torch.float32),
    }


def test_unusable_pixels_are_masked_as_core_does():
    got = packet()
    assert got["mask"].tolist() == [[[True] * 4, [False] * 4]]
    assert torch.isinf(got["depth"][0, 1]).all() and torch.isinf(got["points"][0, 1]).all()
    assert (got["normal"][0, 1] == 0).all()
    torch.testing.assert_close(got["points"][0, 0, 0], torch.tensor([-0.75, -0.25, 1.0]))


def test_a_mask_removes_pixels_and_a_missing_image_is_grey():
    keep = torch.zeros(1, 2, 4, dtype=torch.bool)
    keep[0, 0, 1] = True
    got = packets.make_geometry(torch.ones(1, 2, 4), keep, K)
    assert torch.equal(got["mask"], keep)
    assert torch.equal(got["image"], torch.full((1, 2, 4, 3), 0.5))
    assert "normal" not in got


def test_alpha_is_dropped_and_one_camera_serves_a_batch():
    got = packets.make_geometry(torch.ones(3, 2, 4), None, K, torch.rand(3, 2, 4, 4))
    assert got["image"].shape == (3, 2, 4, 3) and got["intrinsics"].shape == (3, 3, 3)


def test_reading_back_derives_what_is_missing():
    made = packet()
    read = packets.read_geometry({key: made[key] for key in ("depth", "intrinsics")})
    assert torch.equal(read.valid, made["mask"])
    torch.testing.assert_close(read.points[read.valid], made["points"][made["mask"]])
    assert read.normal is None and read.image.shape == (1, 2, 4, 3)


def test_points_that_are_not_finite_are_not_valid():
    made = packet()
    made["points"][0, 0, 0] = torch.tensor([INF, -INF, 1.0])
    made["points"][0, 0, 2, 1] = NAN
    assert packets.read_geometry(made).valid[0, 0].tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"depth": torch.ones(2, 4)}, "depth"),
        ({"depth": torch.ones(0, 2, 4)}, "at least one pixel"),
        ({"depth": "file"}, "type str"),
        ({"mask": torch.ones(1, 4, 2, dtype=torch.bool)}, "mask"),
        ({"points": torch.ones(1, 2, 4)}, "points"),
        ({"normal": torch.ones(1, 4, 2, 3)}, "normal"),
        ({"image": torch.ones(1, 4, 2, 3)}, "resize the image"),
        ({"image": torch.ones(2, 2, 4, 3)}, "one image for each"),
        ({"intrinsics": torch.eye(3)}, "intrinsics"),
        ({"intrinsics": K.repeat(2, 1, 1)}, "2 cameras for 1"),
    ],
)
def test_bad_packets_name_the_key(changes, text):
    with pytest.raises(ValueError, match=text):
        packets.read_geometry(packet(**changes))


def test_panoramas_and_strangers_are_refused():
    made = packet()
    del made["intrinsics"]
    with pytest.raises(ValueError, match="panorama"):
        packets.read_geometry(made)
    with pytest.raises(ValueError, match="no depth"):
        packets.read_geometry({"points": made["points"]})
    with pytest.raises(ValueError, match="expected a MOGE_GEOMETRY dict"):
        packets.read_geometry([made])


def da3(**changes):
    """As core makes it: K in pixels of the network's 504×378 input, depth at the source's size."""
    k = torch.tensor([[[[504.0, 0, 252], [0, 504, 189], [0, 0, 1]]]])
    return {
        "depth": torch.ones(1, 6, 8),
        "image": torch.rand(1, 6, 8, 3),
        "mode": "multiview",
        "intrinsics": k,
    } | changes


def test_da3_camera_is_normalised_by_the_networks_size():
    got = packets.geometry_from_da3(da3())
    torch.testing.assert_close(got["intrinsics"], torch.tensor([[[1.0, 0, 0.5], [0, 504 / 378, 0.5], [0, 0, 1]]]))
    # 8 pixels wide, focal length 8 px: the first pixel centre is 3.5 px left of the middle.
    torch.testing.assert_close(got["points"][0, 0, 0, 0], torch.tensor(-3.5 / 8))


def test_da3_sky_and_confidence_are_masked():
    sky = torch.zeros(1, 6, 8)
    sky[0, 0, 0] = 0.9
    confidence = torch.linspace(5.0, 9.0, 48).reshape(1, 6, 8)
    got = packets.geometry_from_da3(da3(sky=sky, confidence=confidence), confidence_threshold=0.5)
    expected = torch.arange(48).reshape(1, 6, 8) >= 24
    assert torch.equal(got["mask"], expected)
    assert packets.geometry_from_da3(da3(sky=sky))["mask"].sum() == 47


def test_da3_without_a_camera_asks_for_one():
    mono = da3()
    del mono["intrinsics"]
    with pytest.raises(ValueError, match="connect a camera"):
        packets.geometry_from_da3(mono)
    with pytest.raises(ValueError, match="pose estimation failed"):
        packets.geometry_from_da3(da3(intrinsics=torch.eye(3)[None, None]))
    assert packets.geometry_from_da3(mono, K)["mask"].all()


def test_da3_round_trip_keeps_an_off_centre_camera():
    k = camera.intrinsics_from_focal_px(5.0, 4, 2, centre_x_px=1.0)
    made = packets.make_geometry(packet()["depth"], None, k, torch.rand(1, 2, 4, 3))
    sent = packets.geometry_to_da3(made)
    # Core reads integer pixel centres: half a pixel less than ours.
    assert sent["intrinsics"].tolist() == [[[[5.0, 0.0, 0.5], [0.0, 5.0, 0.5], [0.0, 0.0, 1.0]]]]
    assert sent["extrinsics"].shape == (1, 1, 3, 4) and (sent["depth"][0, 1] == 0).all()
    back = packets.geometry_from_da3(sent)
    for key in ("depth", "points", "mask", "intrinsics", "image"):
        torch.testing.assert_close(back[key], made[key])


def test_another_camera_moves_the_points_and_keeps_the_rest():
    depth = torch.tensor([[[2.0, torch.nan], [4.0, 1.0]]])
    image = torch.rand(1, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    packet = packets.make_geometry(depth, None, camera.intrinsics_from_fov_x(90.0, 2, 2), image, normals=True)
    other = packets.with_camera(packet, camera.intrinsics_from_fov_x(126.8698976, 2, 2))  # tan of half of it is 2
    assert torch.equal(other["depth"], packet["depth"]) and torch.equal(other["image"], image)
    known = packet["mask"]
    torch.testing.assert_close(other["points"][known][:, :2], 2 * packet["points"][known][:, :2])
    assert "normal" not in other
    flat = {key: packet[key] for key in ("depth", "mask")}  # another pack's packet, without a camera
    torch.testing.assert_close(
        packets.with_camera(flat, packet["intrinsics"])["points"][known], packet["points"][known]
    )
    with pytest.raises(ValueError, match="panorama"):
        packets.with_camera({**flat, "points": packet["points"]}, packet["intrinsics"])
