"""Every shipped workflow runs on a real server as it opens, only smaller and shorter."""

import io
import json

import pytest
import torch
from modality_forcing.model.demo.text import TextEncoder
from modality_forcing.tasks import INPUTS, SMALL_MODEL, WORKFLOWS
from modality_forcing.tasks.demo import upload_pictures
from modality_forcing.tasks.host.server import GraphError
from modality_forcing.tasks.workflows.builder import Subgraph
from modality_forcing.tasks.workflows.catalogue import CATALOGUE
from modality_forcing.tasks.workflows.convert import to_api
from modality_forcing.tasks.workflows.make import SUBGRAPHS, files
from modality_forcing.tasks.workflows.results import add_node, seen_geometry
from PIL import Image
from safetensors.torch import load_file

SIDE, STEPS = 64, 3
# Saved pictures, by their file name's start, and their (width, height). The example pictures are 512 x 384.
SQUARE, FITTED, FULL = (SIDE, SIDE), (64, 48), (512, 384)
EXPECTED = {
    "01 Text to Image, Depth and 3D": {"text_image": SQUARE},
    "02 Image to Depth and 3D": {"image_depth": FULL},
    "03 Depth to Image": {"depth_image": FITTED},
    "04 Complete Depth": {"completed_image": FITTED},
    "05 Inpaint Image and Depth": {"inpainted_image": FITTED},
    "06 Look Around": {"look_around_image": FITTED},
    "07 Depth File to Point Cloud and Mesh": {},
    "08 Refine Depth": {},
    "09 Depth for a ControlNet": {},
    "10 Depth Ensemble": {"uncertainty": FITTED},
    "11 Depth of Large Pictures": {"large_depth": FITTED},
    "12 Video Depth": {"video_depth": SQUARE},
    "13 Sparse Depth": {},
    "14 Second Pass": {"second_image": (96, 96)},
    "15 Walk in a Scene": {},
}
SMALLER = {"width": SIDE, "height": SIDE, "max_side": SIDE, "steps": STEPS}


def read(title: str) -> dict:
    return json.loads((WORKFLOWS / f"{title}.json").read_text(encoding="utf-8"))


@pytest.fixture
def prepared(server, object_info):
    """Makes the prompt of a shipped workflow, small and short."""

    def prepare(title: str, graph: dict | None = None) -> dict:
        prompt = to_api(graph or read(title), object_info)
        for node in prompt.values():
            numbers = {name: value for name, value in node["inputs"].items() if isinstance(value, int) and value}
            node["inputs"].update({name: SMALLER[name] for name in SMALLER.keys() & numbers.keys()})
        upload_pictures(prompt, server)
        return prompt

    return prepare


def nodes_of(prompt: dict, class_type: str) -> list[str]:
    return [key for key, node in prompt.items() if node["class_type"] == class_type]


def test_every_file_is_described_and_expected_and_has_a_thumbnail():
    titles = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    assert titles == [made.title for made in CATALOGUE] == sorted(EXPECTED)
    assert titles == sorted(path.stem for path in WORKFLOWS.glob("*.jpg"))


def test_files_are_what_make_writes(object_info):
    """As prompts and as what is seen: an input that a node got later is not written into every workflow."""

    def seen(graph: dict) -> list:
        levels = [graph, *(graph.get("definitions") or {}).get("subgraphs", [])]
        notes = [node["widgets_values"] for node in graph["nodes"] if node["type"] == "MarkdownNote"]
        return [
            notes,
            *([node["type"], node.get("title"), node["size"][0]] for level in levels for node in level["nodes"]),
        ]

    written = files(object_info)
    assert set(written) == {*WORKFLOWS.glob("*.json"), *SUBGRAPHS.glob("*.json")}
    for path, text in written.items():
        shipped, described = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
        assert to_api(shipped, object_info) == to_api(described, object_info), f"{path}: run.py workflows make"
        assert seen(shipped) == seen(described), f"{path}: run.py workflows make"


def test_the_prompts_are_in_the_small_models_words(object_info):
    words = TextEncoder.load(SMALL_MODEL.parent / "words.json")
    for title in EXPECTED:
        for node in to_api(read(title), object_info).values():
            if node["class_type"] == "CLIPTextEncode":
                assert words.unknown_words(node["inputs"]["text"]) == []


@pytest.mark.parametrize("title", EXPECTED)
def test_it_runs(server, object_info, prepared, tmp_path, title):
    prompt = prepared(title)
    file = tmp_path / "geometry.safetensors"
    add_node(prompt, object_info, "TestSaveGeometry", geometry=seen_geometry(prompt), file=str(file))
    outputs = server.run(prompt)

    sizes = {}
    for image in (image for output in outputs.values() for image in output.get("images", [])):
        if image["type"] == "output":
            content = server.view(image["filename"], image["subfolder"], image["type"])
            sizes[image["filename"].rsplit("_", 2)[0]] = Image.open(io.BytesIO(content)).size
    assert sizes == EXPECTED[title]
    geometry = load_file(file)
    depth = geometry["depth"][geometry["mask"]]
    assert geometry["mask"].any() and depth.isfinite().all() and (depth > 0).all()
    assert depth.std() > 0


def test_given_depth_comes_back(server, object_info, prepared, tmp_path):
    """At strength 1 the decoded depth is the picture's."""
    prompt = prepared("03 Depth to Image")
    (decoded,), (fit,) = (nodes_of(prompt, f"ModalityForcing{kind}") for kind in ("DecodeDepth", "FitImage"))
    names = [str(tmp_path / name) for name in ("picture.safetensors", "fitted.safetensors")]
    for name, link in zip(names, ([decoded, 1], [fit, 0]), strict=True):
        add_node(prompt, object_info, "TestSaveImage", image=link, file=name)
    server.run(prompt)
    got, want = (load_file(name)["image"] for name in names)
    # The decoded picture's range is its own percentiles', so black and white points differ a little.
    assert torch.corrcoef(torch.stack([got.flatten(), want.flatten()]))[0, 1] > 0.99


def unmuted(graph: dict, name: str) -> dict:
    """The workflow with a muted box, and what saves its picture, switched on, as Ctrl+M does."""
    (inside,) = [item for item in graph["definitions"]["subgraphs"] if item["name"] == name]
    (box,) = [node for node in graph["nodes"] if node["type"] == inside["id"]]
    behind = {link[3] for link in graph["links"] if link[1] == box["id"]}
    for node in (box, *inside["nodes"], *(node for node in graph["nodes"] if node["id"] in behind)):
        node["mode"] = 0
    return graph


def test_the_controlnet_gets_the_depth_picture_in_full_float(server, object_info, prepared, tmp_path):
    title = "09 Depth for a ControlNet"
    prompt = prepared(title, unmuted(read(title), "Paint with a ControlNet"))
    hint, picture = tmp_path / "hint.safetensors", tmp_path / "picture.safetensors"
    (checkpoint,), (control,) = (nodes_of(prompt, kind) for kind in ("CheckpointLoaderSimple", "ControlNetLoader"))
    prompt[checkpoint] = prompt[nodes_of(prompt, "ModalityForcingLoadSmall")[0]]
    prompt[control] = {"class_type": "TestControlNet", "inputs": {"file": str(hint)}}
    (sampler,), (empty,) = (nodes_of(prompt, kind) for kind in ("KSampler", "EmptyLatentImage"))
    prompt[empty]["inputs"] |= {"width": FITTED[0], "height": FITTED[1]}
    split = add_node(prompt, object_info, "ModalityForcingSplitLatents", latent=[sampler, 0])
    prompt[next(key for key in nodes_of(prompt, "VAEDecode"))]["inputs"]["samples"] = [split, 0]
    (decoded,) = nodes_of(prompt, "ModalityForcingDecodeDepth")
    add_node(prompt, object_info, "TestSaveImage", image=[decoded, 1], file=str(picture))
    server.run(prompt)
    got, want = load_file(hint)["hint"], load_file(picture)["image"].movedim(-1, 1)
    assert torch.equal(got, want)
    assert want.min() >= 0 and want.max() <= 1 and len(want.unique()) > 256


def test_the_released_model_takes_the_small_ones_place(server, object_info):
    graph = unmuted(read("01 Text to Image, Depth and 3D"), "Released Model")
    prompt = to_api(graph, object_info)
    (small,) = nodes_of(prompt, "ModalityForcingLoadSmall")
    given = {name: prompt[small]["inputs"][name] for name in ("model", "clip", "vae")}
    assert [prompt[key]["class_type"] for key, _ in given.values()] == [
        "ModalityForcingLoadModel",
        "CLIPLoader",
        "VAELoader",
    ]


def test_load_small_model_passes_on_what_is_connected(server, object_info, prepared):
    prompt = prepared("01 Text to Image, Depth and 3D")
    (small,) = nodes_of(prompt, "ModalityForcingLoadSmall")
    other = add_node(prompt, object_info, "ModalityForcingLoadSmall")
    prompt[small]["inputs"] |= {"model": [other, 0], "clip": [other, 1]}
    with pytest.raises(GraphError, match=r"got no vae .*Connect all three"):
        server.run(prompt)
    prompt[small]["inputs"]["vae"] = [other, 2]
    server.run(prompt)


def test_the_picture_outside_the_hole_stays(server, object_info, prepared, tmp_path):
    prompt = prepared("05 Inpaint Image and Depth")
    (sampler,) = nodes_of(prompt, "SamplerCustomAdvanced")
    (condition,) = nodes_of(prompt, "ModalityForcingImageCondition")
    links = {"latent": [sampler, 0], "given": prompt[condition]["inputs"]["rgb"]}
    for name, link in links.items():
        add_node(prompt, object_info, "TestSaveLatent", latent=link, file=str(tmp_path / f"{name}.safetensors"))
    server.run(prompt)
    got, want = (load_file(tmp_path / f"{name}.safetensors")["samples"] for name in links)
    # The hole is rows 128..304 and columns 176..368 of 384 x 512 pixels: of 3 x 4 cells, all but the outer columns.
    difference = (got[:, :128] - want).abs().amax(dim=(0, 1, 2))
    assert difference[[0, 3]].max() < 1e-4
    assert difference[[1, 2]].min() > 0.1


def test_the_depth_outside_the_hole_stays_and_the_hole_has_depth_of_its_unit(server, object_info, prepared, tmp_path):
    prompt = prepared("04 Complete Depth")
    kinds = {"completed": "FitToPoints", "measured": "GeometryFromPicture"}
    for name, kind in kinds.items():
        (key,) = nodes_of(prompt, f"ModalityForcing{kind}")
        file = str(tmp_path / f"{name}.safetensors")
        add_node(prompt, object_info, "TestSaveGeometry", geometry=[key, 0], file=file)
    server.run(prompt)
    got, want = (load_file(tmp_path / f"{name}.safetensors")["depth"] for name in kinds)
    known = want.isfinite()
    assert 0.5 < known.float().mean() < 0.9
    assert torch.equal(got[known], want[known])
    near, far = want[known].aminmax()
    assert bool(((got > near / 2) & (got < 2 * far)).all())


def test_blueprints_are_boxes_that_stand_alone(server):
    entries = server.get_json("/global_subgraphs").values()
    names = {entry["name"] for entry in entries if entry["info"]["node_pack"].startswith("custom_nodes.")}
    assert names == {path.stem for path in SUBGRAPHS.glob("*.json")}
    for path in SUBGRAPHS.glob("*.json"):
        graph = json.loads(path.read_text(encoding="utf-8"))
        (box,), (inside,) = graph["nodes"], graph["definitions"]["subgraphs"]
        assert box["type"] == inside["id"] == Subgraph(path.stem, [], {}).id and inside["name"] == path.stem


def test_shipped_pictures_are_small_and_of_their_kind():
    sizes = {path.name: path.stat().st_size for path in (*INPUTS.iterdir(), *WORKFLOWS.glob("*.jpg"))}
    assert max(sizes.values()) < 100_000
    for name in ("modality_forcing_depth_hole.png", "modality_forcing_scene_hole.png"):
        alpha = Image.open(INPUTS / name).getchannel("A")
        assert alpha.getpixel((0, 0)) == 255 and alpha.getpixel((256, 200)) == 0
