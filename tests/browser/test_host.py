"""The frontend opens what tasks/workflows/builder.py writes, and queues what tasks/workflows/convert.py makes of it."""

import pytest
from modality_forcing.tasks.workflows.builder import Link, Node, Note, build
from modality_forcing.tasks.workflows.convert import to_api
from PIL import Image


@pytest.fixture(scope="module")
def graph(server, object_info: dict, tmp_path_factory) -> dict:
    """A text-to-image workflow of core nodes: seeds, multiline text, combos, floats, a picture, a second output."""
    path = tmp_path_factory.mktemp("input") / "blue.png"
    Image.new("RGB", (64, 32), (0, 0, 255)).save(path)
    items = [
        Note("Only core nodes."),
        Node("checkpoint", "CheckpointLoaderSimple", {"ckpt_name": "none.safetensors"}),
        Node("positive", "CLIPTextEncode", {"clip": Link("checkpoint", "CLIP"), "text": "a street"}, column=1),
        Node("negative", "CLIPTextEncode", {"clip": Link("checkpoint", 1)}, column=1, title="Nothing"),
        Node("picture", "LoadImage", {"image": server.upload_image(path)}, column=1),
        Node("latent", "VAEEncode", {"pixels": Link("picture", "IMAGE"), "vae": Link("checkpoint", "VAE")}, column=2),
        Node(
            "sampler",
            "KSampler",
            {
                "model": Link("checkpoint", "MODEL"),
                "positive": Link("positive"),
                "negative": Link("negative"),
                "latent_image": Link("latent"),
                "seed": 7,
                "steps": 5,
                "cfg": 1.5,
                "sampler_name": "heun",
                "scheduler": "simple",
                "denoise": 0.75,
            },
            column=2,
        ),
        Node("decoded", "VAEDecode", {"samples": Link("sampler"), "vae": Link("checkpoint", "VAE")}, column=3),
        Node("saved", "SaveImage", {"images": Link("decoded"), "filename_prefix": "x"}, column=3),
        Node("shown", "PreviewImage", {"images": Link("decoded")}, column=3, mode=2),
    ]
    return build(object_info, "test", items)


def test_the_frontend_queues_what_to_api_gives(frontend, graph, object_info):
    frontend.load_workflow(graph)
    queued = frontend.prompt()
    expected = to_api(graph, object_info)
    assert expected["7"]["inputs"]["seed"] == 7 and expected["7"]["inputs"]["model"] == ["2", 0]
    assert "10" not in expected
    assert queued == expected


def test_what_the_frontend_saves_again_gives_the_same_prompt(frontend, graph, object_info):
    frontend.load_workflow(graph)
    assert to_api(frontend.saved(), object_info) == to_api(graph, object_info)


def test_a_workflow_opens_without_errors(frontend, graph):
    frontend.load_workflow(graph)
    picture = frontend.screenshot("core")
    assert picture.stat().st_size > 20_000
    assert frontend.page.evaluate("window.app.graph.nodes.length") == 10
    assert frontend.errors == []


def test_the_renderer_is_the_one_asked_for(frontend, graph, renderer):
    frontend.load_workflow(graph)
    drawn_as_elements = frontend.page.locator("[data-node-id]").count()
    assert (drawn_as_elements > 0) == (renderer == "vue")
