"""Pictures, metric depth, cameras and moved views on a real server, against numbers worked out by hand."""

import pytest
import torch
from geometry_graphs import CAMERA, METRIC, PICTURE, VIEW, GeometryCase, P
from graphs import Graph
from modality_forcing.tasks.host.server import GraphError
from PIL import Image

RAMP = torch.tensor([[[1.0, 2.0, 4.0, torch.nan], [4.0, 4.0, 2.0, 2.0]]])  # (1,2,4)


@pytest.fixture
def case(server, tmp_path):
    return GeometryCase(server, tmp_path)


def picture(case, depth, **settings):
    graph = Graph()
    node = graph.add(f"{P}DepthPicture", geometry=case.geometry(graph, depth), **{**PICTURE, **settings})
    image, far = case.run(graph, image=node[0], mask=node[1])
    return image, far


def refused(case, graph, *texts):
    with pytest.raises(GraphError) as error:
        case.server.run(graph.prompt)
    for text in texts:
        assert text in error.value.message
    assert case.server.running


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # disparity 1, 1/2, 1/4: (v - 1/4) / (3/4)
        ({}, [1.0, 1 / 3, 0.0, 0.0]),
        ({"polarity": "far-white"}, [0.0, 2 / 3, 1.0, 1.0]),
        ({"mapping": "linear"}, [1.0, 2 / 3, 0.0, 0.0]),
        ({"mapping": "log"}, [1.0, 0.5, 0.0, 0.0]),
        ({"mapping": "raw"}, [1.0, 2.0, 4.0, 0.0]),
        ({"mapping": "linear", "range_from": "fixed", "near": 1.0, "far": 9.0}, [1.0, 7 / 8, 5 / 8, 0.0]),
        ({"invalid_colour": "white"}, [1.0, 1 / 3, 0.0, 1.0]),
    ],
)
def test_depth_picture(case, settings, expected):
    image, _ = picture(case, RAMP, **settings)
    torch.testing.assert_close(image[0, 0], torch.tensor(expected)[:, None].expand(4, 3), rtol=0, atol=1e-6)


def test_ranges_of_a_batch(case):
    depth = torch.cat([RAMP, 10 * RAMP])
    each, _ = picture(case, depth, mapping="log")
    torch.testing.assert_close(each[0], each[1], rtol=0, atol=1e-5)
    both, _ = picture(case, depth, mapping="log", range_from="per batch")
    # log 1..40: the second image's nearest pixel is at 10
    assert abs(float(both[1, 0, 0, 0]) - (1 - torch.log(torch.tensor(10.0)) / torch.log(torch.tensor(40.0)))) < 1e-5


def test_far_mask_and_colours(case):
    depth = torch.full((2, 4, 4), 2.0)
    depth[:, 0] = 11.0
    depth[1, 3] = torch.nan
    image, far = picture(case, depth, colour_map="turbo", invalid_colour="black")
    assert far[:, 0].all() and not far[0, 1:].any() and far[1, 3].all()
    assert (image[0, 0] != image[0, 1]).any() and not image[1, 3].any()


def test_normals_of_a_floor_in_both_conventions(case):
    """A floor one unit below a 90 degree camera: z = 1 / ((row + 0.5) / 8 - 1) for the rows below the middle."""
    rows = (torch.arange(16) + 0.5) / 8 - 1
    depth = torch.where(rows > 0, 1 / rows, torch.inf)[None, :, None].expand(1, 16, 16)
    for convention, green in (("opengl", 1.0), ("directx", 0.0)):
        graph = Graph()
        geometry = case.geometry(graph, depth)
        node = graph.add(f"{P}NormalPicture", geometry=geometry, convention=convention, edge_threshold=0.0)
        image, valid = case.run(graph, image=node[0], mask=node[1])
        assert not valid[0, :8].any() and valid[0, 8:].all()
        expected = torch.tensor([0.5, green, 0.5]).expand(8, 16, 3)
        torch.testing.assert_close(image[0, 8:], expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(image[0, :8], torch.tensor([0.5, 0.5, 1.0]).expand(8, 16, 3))


def test_geometry_from_a_picture_with_mask_and_image_of_another_size(case):
    graph = Graph()
    values = torch.linspace(0.1, 1.0, 32).reshape(1, 4, 8)
    mask = torch.ones(1, 4, 8)
    mask[0, 0, 0] = 0
    optional = {
        "mask": case.mask(graph, mask),
        "image": case.image(graph, torch.full((1, 8, 16, 3), 0.25)),
    }
    node = graph.add(
        f"{P}GeometryFromPicture",
        picture=case.image(graph, values[..., None].expand(-1, -1, -1, 3)),
        **{**METRIC, "meaning": "disparity near-white"},
        fov_x_deg=90.0,
        **optional,
    )
    (geometry,) = case.run(graph, geometry=node)
    # white is 1/near = 1, black is 1/far = 0.1
    expected = 1 / (0.1 + 0.9 * values)
    assert geometry["depth"][0, 0, 0] == torch.inf and not geometry["mask"][0, 0, 0]
    torch.testing.assert_close(geometry["depth"][0, 1:], expected[0, 1:], rtol=1e-5, atol=0)
    assert geometry["image"].shape == (1, 4, 8, 3)
    graph = Graph()
    image = case.image(graph, torch.zeros(1, 8, 8, 3))
    case.geometry(graph, values, image=image)
    graph.add("PreviewAny", source=[str(len(graph.prompt)), 0])
    refused(case, graph, "other proportions")


def test_metric_by_one_distance(case):
    depth = torch.stack([torch.full((4, 4), 2.0), torch.full((4, 4), 3.0)])
    for index, scales in ((-1, [3.0, 2.0]), (1, [2.0])):
        graph = Graph()
        node = graph.add(
            f"{P}MetricFromDistance",
            geometry=case.geometry(graph, depth),
            x_px=1.0,
            y_px=2.0,
            distance=6.0,
            image_index=index,
        )
        geometry, scale, report = case.run(graph, geometry=node, text=(node[1], node[4]))
        assert [float(text) for text in scale] == pytest.approx(scales)
        expected = torch.tensor([[6.0, 6.0] if index < 0 else [4.0, 6.0]]).reshape(2, 1, 1).expand(2, 4, 4)
        torch.testing.assert_close(geometry["depth"], expected)
        torch.testing.assert_close(geometry["points"][..., 2], expected)
        assert "depth x" in report[0]


def test_metric_by_typed_points_of_two_images(case):
    """Metres are 2 d + 1 in the first image and 3 d in the second; each has one wrong point."""
    depth = 1 + torch.arange(48.0).reshape(1, 6, 8).repeat(2, 1, 1) / 10
    metres = torch.stack([2 * depth[0] + 1, 3 * depth[1]])
    lines = ["# x, y, distance, image"]
    for image in (0, 1):
        for number, (y, x) in enumerate([(0, 0), (1, 3), (2, 6), (4, 1), (5, 7), (3, 4), (5, 0)]):
            wrong = 2.5 if number == 2 else 1
            lines.append(f"{x + 0.5}, {y + 0.5}, {wrong * float(metres[image, y, x])}, {image}")
    graph = Graph()
    node = graph.add(
        f"{P}MetricFromPoints",
        geometry=case.geometry(graph, depth),
        points="\n".join(lines),
        fit="scale and shift",
        one_fit_for_batch=False,
    )
    texts = tuple(node[i] for i in (1, 2, 3, 4))
    geometry, scale, shift, residual, report = case.run(graph, geometry=node, text=texts)
    torch.testing.assert_close(geometry["depth"], metres, rtol=1e-4, atol=1e-4)
    assert [float(t) for t in scale] == pytest.approx([2, 3], rel=1e-4)
    assert [float(t) for t in shift] == pytest.approx([1, 0], abs=1e-3)
    assert max(float(t) for t in residual) < 1e-4
    assert report[0].count("1 outliers") == 2


def test_metric_by_sparse_map_and_by_reference_as_one_fit(case):
    depth = 1 + torch.arange(64.0).reshape(1, 8, 8).repeat(2, 1, 1) / 10
    metres = 2.5 * depth
    sparse = torch.full_like(metres, torch.nan)
    sparse[0, ::4, ::3] = metres[0, ::4, ::3]
    for kind, given, name in (("Points", sparse, "sparse"), ("Reference", metres[:1], "reference")):
        graph = Graph()
        points = {"points": ""} if kind == "Points" else {}
        node = graph.add(
            f"{P}MetricFrom{kind}",
            geometry=case.geometry(graph, depth),
            fit="scale",
            one_fit_for_batch=True,
            **points,
            **{name: case.geometry(graph, given)},
        )
        geometry, scale = case.run(graph, geometry=node, text=(node[1],))
        assert [float(t) for t in scale] == pytest.approx([2.5])  # one number for the batch
        torch.testing.assert_close(geometry["depth"], metres)


@pytest.mark.parametrize(
    ("points", "texts"),
    [
        ("", ["no points"]),
        ("1, 2", ["line 1", "x, y, distance"]),
        ("1, 2, 3\n1, zwei, 3", ["line 2", "zwei"]),
        ("100, 2, 3", ["outside the depth map", "4 x 4"]),
        ("1, 2, 3, 7", ["image 7", "batch of 1"]),
        ("1, 2, -3", ["usable depth"]),
    ],
)
def test_points_that_cannot_be_used(case, points, texts):
    graph = Graph()
    geometry = case.geometry(graph, torch.ones(1, 4, 4))
    node = graph.add(f"{P}MetricFromPoints", geometry=geometry, points=points, fit="scale", one_fit_for_batch=False)
    graph.add("PreviewAny", source=node[4])
    refused(case, graph, *texts)


@pytest.mark.parametrize(
    ("camera", "settings", "fov_x", "fov_y"),
    [
        ("horizontal FOV", {"fov_deg": 90.0}, 90.0, 53.13010),
        ("vertical FOV", {"fov_deg": 90.0}, 126.86990, 90.0),
        ("focal length in pixels", {"focal_px": 4.0}, 90.0, 53.13010),
        ("focal length in pixels", {"focal_px": 40.0, "calibrated_width_px": 80}, 90.0, 53.13010),
        ("focal length in mm", {"focal_mm": 18.0, "sensor_width_mm": 36.0}, 90.0, 53.13010),
        ("from reference", {"reference": 60.0}, 60.0, 32.20423),
        ("keep", {}, 55.0, 29.17886),
    ],
)
def test_set_camera(case, camera, settings, fov_x, fov_y):
    """Depth 8 x 4: at 90 degrees the focal length is 4 pixels, so x / z = (column + 0.5 - 4) / 4."""
    graph = Graph()
    depth = torch.full((2, 4, 8), 3.0)
    settings = dict(settings)
    if "reference" in settings:
        settings["reference"] = case.geometry(graph, depth[:1], settings["reference"])
    node = graph.add(
        f"{P}SetCamera", geometry=case.geometry(graph, depth, 55.0), camera=camera, **{**CAMERA, **settings}
    )
    geometry, got_x, got_y = case.run(graph, geometry=node, text=(node[1], node[2]))
    assert [float(got_x[0]), float(got_y[0])] == pytest.approx([fov_x, fov_y], abs=1e-3)
    assert len(got_x) == 1
    if fov_x == 90.0:
        expected = 3 * (torch.arange(8) + 0.5 - 4) / 4
        torch.testing.assert_close(geometry["points"][..., 0], expected.expand(2, 4, 8))


def test_da3_and_back(case):
    graph = Graph()
    depth = RAMP.repeat(2, 1, 1)
    there = graph.add(f"{P}GeometryToDA3", geometry=case.geometry(graph, depth, 70.0))
    back = graph.add(
        f"{P}GeometryFromDA3", da3_geometry=there, sky_threshold=0.5, confidence_threshold=0.0, fov_x_deg=0.0
    )
    (geometry,) = case.run(graph, geometry=back)
    torch.testing.assert_close(geometry["depth"], depth.nan_to_num(torch.inf))
    assert abs(float(geometry["intrinsics"][1, 0, 0]) - 0.5 / 0.700207538) < 1e-5  # tan 35 degrees


def two_walls():
    """A wall at 4 with a square at 2 in the middle, red and blue, 16 x 16."""
    depth = torch.full((1, 16, 16), 4.0)
    depth[:, 4:12, 4:12] = 2.0
    image = torch.zeros(1, 16, 16, 3)
    image[..., 0] = 1.0
    image[:, 4:12, 4:12] = torch.tensor([0.0, 0.0, 1.0])
    return depth, image


def render(case, depth, image, graph=None, **settings):
    graph = graph or Graph()
    geometry = case.geometry(graph, depth, image=case.image(graph, image))
    node = graph.add(f"{P}RenderView", geometry=geometry, **{**VIEW, "edge_threshold": 0.0, **settings})
    return case.run(graph, geometry=node[1], image=node[0], mask=node[2])


def test_moved_view(case):
    """Focal length 8 px: half a unit to the right shifts the wall by 1 and the square by 2 pixels to the left."""
    depth, image = two_walls()
    geometry, view, holes = render(case, depth, image, right=0.5, cracks=0)
    expected = torch.full((16, 16), 4.0)
    expected[:, 15] = torch.inf  # beyond the source picture
    expected[4:12, 2:10] = 2.0
    expected[4:12, 10] = torch.inf  # the wall here was behind the square
    torch.testing.assert_close(geometry["depth"][0], expected)
    assert torch.equal(holes[0] > 0, expected == torch.inf)
    assert torch.equal(view[0, 6, 5], torch.tensor([0.0, 0.0, 1.0]))
    assert not view[0][expected == torch.inf].any()


def test_view_from_a_load3d_camera(case, object_info):
    """Core's Load 3D hands out its viewer's camera, y up and looking down -z: half a unit to the right again."""
    depth, image = two_walls()
    picture = case.folder / "viewport.png"
    Image.new("RGBA", (4, 4)).save(picture)
    name = case.server.upload_image(picture)
    (case.server.base / "input" / "3d").mkdir(exist_ok=True)
    (case.server.base / "input" / "3d" / "any.glb").write_bytes(b"")
    camera_output = object_info["Load3D"]["output"].index("LOAD3D_CAMERA")
    camera = {
        "position": {"x": 0.5, "y": 0.0, "z": 0.0},
        "target": {"x": 0.5, "y": 0.0, "z": -1.0},
        "zoom": 1,
        "cameraType": "perspective",
        "fov": 90.0,
    }
    moved, _, _ = render(case, depth, image, right=0.5, cracks=0)
    for lens, expected in ((camera, moved), ({**camera, "cameraType": "orthographic"}, None)):
        graph = Graph()
        viewport = {"image": name, "mask": name, "normal": name, "recording": "", "camera_info": lens}
        loaded = graph.add("Load3D", model_file="3d/any.glb", image=viewport, width=4, height=4)
        if expected is None:
            with pytest.raises(GraphError, match="orthographic"):
                render(case, depth, image, graph, camera=loaded[camera_output], cracks=0)
        else:
            got, _, _ = render(case, depth, image, graph, camera=loaded[camera_output], cracks=0)
            torch.testing.assert_close(got["depth"], expected["depth"])


def test_path_and_batch_of_views(case):
    depth, image = two_walls()
    geometry, view, holes = render(case, depth, image, right=1.0, frames=3, cracks=0)
    assert view.shape == (3, 16, 16, 3) and geometry["depth"].shape == (3, 16, 16)
    assert torch.equal(geometry["depth"][0], depth[0]) and not holes[0].any()
    single, _, _ = render(case, depth, image, right=0.5, cracks=0)
    assert torch.equal(geometry["depth"][1], single["depth"][0])
    two, _, _ = render(case, torch.cat([depth, 2 * depth]), image.repeat(2, 1, 1, 1), right=0.5, cracks=0)
    assert torch.equal(two["depth"][0], single["depth"][0]) and not torch.equal(two["depth"][1], two["depth"][0])


def test_view_of_another_size_keeps_the_picture_square(case):
    depth, image = two_walls()
    geometry, view, _ = render(case, depth, image, width=32, height=16)
    assert view.shape == (1, 16, 32, 3)
    k = geometry["intrinsics"][0]
    assert abs(float(k[0, 0]) * 32 - float(k[1, 1]) * 16) < 1e-4


def test_frames_that_do_not_fit_the_batch(case):
    graph = Graph()
    geometry = case.geometry(graph, torch.ones(3, 4, 4))
    graph.add("PreviewAny", source=graph.add(f"{P}RenderView", geometry=geometry, **{**VIEW, "frames": 2})[2])
    refused(case, graph, "2 frames", "batch of 3")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_depth_without_a_valid_pixel(case, value):
    """Pictures and views of nothing are nothing; what would be an empty file is an error."""
    depth = torch.full((1, 4, 4), value)
    image, far = picture(case, depth)
    assert image.isfinite().all() and far.all()
    graph = Graph()
    geometry = case.geometry(graph, depth)
    graph.add(
        "PreviewAny",
        source=graph.add(f"{P}MetricFromDistance", geometry=geometry, x_px=1.0, y_px=1.0, distance=2.0, image_index=-1)[
            4
        ],
    )
    refused(case, graph, "no depth at pixel")


def test_constant_depth_and_one_pixel(case):
    image, far = picture(case, torch.full((1, 1, 1), 3.0))
    assert image.flatten().tolist() == [0.5] * 3 and not far.any()
    geometry, view, holes = render(case, torch.full((1, 1, 1), 3.0), torch.ones(1, 1, 1, 3))
    assert geometry["depth"].item() == 3.0 and not holes.any()
