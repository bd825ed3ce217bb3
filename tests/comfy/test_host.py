"""The server and its client: a prompt runs, and what is refused, fails or is interrupted says where and why."""

import pytest
from modality_forcing.tasks.host.server import GraphError

# Core nodes only, the same on every ComfyUI.
PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 0x336699}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "host"}},
}


def changed(node_id: str, **inputs) -> dict:
    node = PICTURE[node_id]
    return {**PICTURE, node_id: {**node, "inputs": {**node["inputs"], **inputs}}}


def test_a_prompt_runs_and_its_picture_can_be_read(server):
    outputs = server.run(PICTURE)
    (image,) = outputs["2"]["images"]
    data = server.view(image["filename"], image["subfolder"], image["type"])
    assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20], "big") == 32


def test_a_picture_can_be_uploaded(server, tmp_path):
    from PIL import Image

    path = tmp_path / "blue.png"
    Image.new("RGB", (8, 8), (0, 0, 255)).save(path)
    assert server.upload_image(path) == "blue.png"
    assert server.view("blue.png", type="input") == path.read_bytes()


def test_a_refused_prompt_names_the_node_and_the_input(server):
    with pytest.raises(GraphError, match=r"node 1 \(EmptyImage\): .*width") as caught:
        server.run(changed("1", width=-5))
    assert (caught.value.node_id, caught.value.node_type) == ("1", "EmptyImage")


def test_a_prompt_without_an_output_node_is_refused(server):
    with pytest.raises(GraphError, match="no outputs"):
        server.run({"1": PICTURE["1"]})


def test_a_failing_node_is_named_with_its_own_words(server):
    # The name would leave the output folder, which core's SaveImage refuses while it runs.
    with pytest.raises(GraphError, match=r"node 2 \(SaveImage\): .*outside the output folder"):
        server.run(changed("2", filename_prefix="../../escape"))


def test_models_dropped_into_the_folder_are_offered(server):
    (server.models / "diffusion_models" / "dropped.safetensors").write_bytes(b"")
    choices = server.get_json("/object_info/UNETLoader")["UNETLoader"]["input"]["required"]["unet_name"][0]
    assert "dropped.safetensors" in choices
