"""The nodes around sampling: latents, pictures, geometry, sizes. And what saved workflows rely on."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from graphs import Graph
from modality_forcing.model.depth.codec import decode, encode
from modality_forcing.tasks import HOST_VARIABLE, PYTHON_VARIABLE, ROOT, named_path
from safetensors.torch import load_file

SNAPSHOT = Path(__file__).parent / "node_snapshot.json"
PREFIX = "ModalityForcing"


@pytest.fixture
def case(make_case):
    return make_case("v2")


def read_image(case, graph, image):
    out = case.folder / "image.safetensors"
    graph.add("TestSaveImage", image=image, file=str(out))
    case.server.run(graph.prompt)
    return load_file(out)["image"]


def read_geometry(case, graph, geometry):
    out = case.folder / "geometry.safetensors"
    graph.add("TestSaveGeometry", geometry=geometry, file=str(out))
    case.server.run(graph.prompt)
    return load_file(out)


def test_snapshot_of_ids_inputs_and_types(object_info):
    """Saved workflows hold widget values by position: ids, input order and types are frozen; new inputs go last.

    After a wanted change: delete the file, run this test, look at the difference, commit it.
    """
    found = {
        name: {
            "inputs": [[key, _type(spec)] for key, spec in _inputs(info)],
            "outputs": info["output"],
        }
        for name, info in sorted(object_info.items())
        if name.startswith(PREFIX)
    }
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def _inputs(info):
    """Name and specification of a node's inputs in their order; hidden ones are the server's business."""
    for kind in ("required", "optional"):
        yield from info["input"].get(kind, {}).items()


def _type(spec):
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def test_every_node_has_help_and_tooltips(object_info):
    for name, info in object_info.items():
        if not name.startswith(PREFIX):
            continue
        assert (ROOT / "web" / "docs" / f"{name}.md").is_file(), name
        assert info["description"], name
        for key, spec in _inputs(info):
            if spec[0] in ("INT", "FLOAT", "BOOLEAN", "COMBO", "MASK") or isinstance(spec[0], list):
                assert spec[1].get("tooltip"), f"{name}.{key}"


def test_join_and_split_are_inverse(case):
    graph = Graph()
    joint = graph.add(
        f"{PREFIX}JoinLatents", rgb=case.load(graph, "Latent", "rgb"), depth=case.load(graph, "Latent", "depth")
    )
    parts = graph.add(f"{PREFIX}SplitLatents", latent=joint)
    again = graph.add(f"{PREFIX}JoinLatents", rgb=parts[0], depth=parts[1])
    rgb, depth = case.run(graph, again)
    assert torch.equal(rgb, case.tensors["rgb"])
    assert torch.equal(depth, case.tensors["depth"])


def test_join_leaves_the_missing_modality_unknown(case):
    graph = Graph()
    rgb, depth = case.run(graph, graph.add(f"{PREFIX}JoinLatents", rgb=case.load(graph, "Latent", "rgb")))
    assert torch.equal(rgb, case.tensors["rgb"])
    assert depth.isnan().all()


def metric_picture(depth):
    return depth[..., None].repeat(1, 1, 1, 3)


def test_depth_picture_to_latent_to_geometry(case):
    """A metric picture comes back as depth over its mean, and the geometry is that of a pinhole camera."""
    depth = 1 + torch.rand(2, 48, 80, generator=torch.manual_seed(0))
    case.tensors["picture"] = metric_picture(depth)
    case.write()
    graph = Graph()
    settings = {"meaning": "metric", "near": 1.0, "far": 10.0, "scale": 3.0, "black_is_hole": False}
    latent = graph.add(f"{PREFIX}EncodeDepthPicture", picture=case.load(graph, "Image", "picture"), **settings)
    geometry = read_geometry(case, graph, graph.add(f"{PREFIX}DecodeDepth", latent=latent, fov_x_deg=90.0))
    want = depth / depth.mean((1, 2), keepdim=True)
    assert (geometry["depth"] - want).abs().max() < 1e-5
    assert geometry["mask"].all()
    # 90 degrees: x / z = 1 at the right border, so (column + 0.5 - 40) / 40 at the pixel centres
    x = (torch.arange(80) + 0.5 - 40) / 40
    assert (geometry["points"][..., 0] / geometry["depth"] - x).abs().max() < 1e-5
    y = (torch.arange(48) + 0.5 - 24) / 40
    assert (geometry["points"][..., 1] / geometry["depth"] - y[:, None]).abs().max() < 1e-5


def test_geometry_with_holes_to_latent(case):
    depth = 1 + torch.rand(1, 32, 32, generator=torch.manual_seed(0))
    depth[:, :8] = torch.nan
    case.tensors["picture"] = metric_picture(depth)
    case.write()
    graph = Graph()
    settings = {"meaning": "metric", "near": 1.0, "far": 10.0, "scale": 1.0, "black_is_hole": False}
    encoded = graph.add(f"{PREFIX}EncodeDepthPicture", picture=case.load(graph, "Image", "picture"), **settings)
    decoded = graph.add(f"{PREFIX}DecodeDepth", latent=encoded, fov_x_deg=60.0)
    again = graph.add(f"{PREFIX}EncodeGeometry", geometry=decoded)
    out = case.folder / "latent.safetensors"
    graph.add("TestSaveLatent", latent=again, file=str(out))
    case.server.run(graph.prompt)
    got, want = load_file(out)["samples"], encode(depth)
    assert torch.equal(got.isnan(), want.isnan())
    assert (got - want).nan_to_num().abs().max() < 1e-5


def test_depth_picture_is_near_white_and_float(case):
    """The picture for ControlNets: disparity between the image's own near (1) and far (0)."""
    graph = Graph()
    latent = case.load(graph, "Latent", "depth")
    picture = read_image(case, graph, graph.add(f"{PREFIX}DecodeDepth", latent=latent, fov_x_deg=60.0)[1])
    depth, valid = decode(case.tensors["depth"])
    near = depth[valid].argmin()
    assert picture[valid][near].min() > 0.99
    assert picture[valid][depth[valid].argmax()].max() < 0.01
    assert len(picture.unique()) > 256


@pytest.mark.parametrize("size", [(100, 75), (75, 100), (64, 64), (511, 300), (1200, 800)])
def test_any_size_comes_back_at_its_own(case, size):
    """Fit Image to Model, then depth decoded at the size of the original picture."""
    width, height = size
    case.tensors["image"] = torch.rand(1, height, width, 3, generator=torch.manual_seed(0))
    case.write()
    graph = Graph()
    image = case.load(graph, "Image", "image")
    fitted = read_image(case, graph, graph.add(f"{PREFIX}FitImage", image=image, max_side=512, method="resize"))
    fitted_height, fitted_width = fitted.shape[1:3]
    assert fitted_width % 16 == fitted_height % 16 == 0
    assert max(fitted_width, fitted_height) <= 512
    scale = min(1, 512 / max(size))
    assert abs(fitted_width - width * scale) <= 8 and abs(fitted_height - height * scale) <= 8
    case.tensors["latent"] = torch.rand(1, 256, fitted_height // 16, fitted_width // 16)
    case.write()
    graph = Graph()
    image = case.load(graph, "Image", "image")
    node = graph.add(f"{PREFIX}DecodeDepth", latent=case.load(graph, "Latent", "latent"), fov_x_deg=60.0, image=image)
    geometry = read_geometry(case, graph, node)
    assert geometry["depth"].shape == (1, height, width)
    assert geometry["image"].shape == (1, height, width, 3)


def test_far_depth_is_left_out_by_a_rule(case):
    """Codes near 2 decode to hundreds of thousands; valid, far and geometry agree on what is left."""
    latent = torch.full((1, 256, 1, 1), 0.5)
    latent[0, 0] = 2 - 1e-5
    case.tensors["latent"] = latent
    case.write()
    for rule, left in (({}, 256), ({"far_rule": "multiple of the mean", "far_limit": 20.0}, 255)):
        graph = Graph()
        node = graph.add(f"{PREFIX}DecodeDepth", latent=case.load(graph, "Latent", "latent"), fov_x_deg=60.0, **rule)
        far = graph.add("MaskToImage", mask=node[3])
        got = read_geometry(case, graph, node)
        assert int(got["mask"].sum()) == left
        assert int(read_image(case, graph, far)[..., 0].sum()) == 256 - left


def test_crop_cuts_around_the_centre_without_stretch(case):
    columns = torch.arange(100.0)[None, None, :, None].expand(1, 70, 100, 3) / 100
    case.tensors["image"] = columns
    case.write()
    graph = Graph()
    image = case.load(graph, "Image", "image")
    fitted = read_image(case, graph, graph.add(f"{PREFIX}FitImage", image=image, max_side=512, method="crop"))
    assert fitted.shape[1:3] == (64, 96)
    # 96 x 64 keeps 3:2; the largest 3:2 window of 100 x 70 is 100 x 67, scaled by 0.96
    assert abs(float(fitted[0, 32, 48, 0]) - 0.5) < 0.01


def test_pack_imports_without_diffusers_and_open3d():
    """Neither is imported at start, and a broken install of one takes nothing down."""
    script = Path(__file__).parent / "import_pack.py"
    command = [str(named_path(PYTHON_VARIABLE)), str(script), str(named_path(HOST_VARIABLE)), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["nodes"] >= 12
    assert not {"diffusers", "open3d", "accelerate", "matplotlib", "cv2"} & set(report["new_modules"])
