"""Shipped workflows with the bundled model in each format: chosen at the loader, run, and as far off as measured."""

import json
import shutil

import pytest
import torch
from modality_forcing.model.demo import CODEC_FILE, WORDS_FILE
from modality_forcing.model.network.quantise import NOTES, quantise
from modality_forcing.tasks import SMALL_MODEL, WORKFLOWS
from modality_forcing.tasks.demo import upload_pictures
from modality_forcing.tasks.host.server import GraphError
from modality_forcing.tasks.workflows.convert import to_api
from modality_forcing.tasks.workflows.results import add_node, seen_geometry
from safetensors.torch import load_file

FOLDER = "modality_forcing_small"
JOINT, DEPTH = "01 Text to Image, Depth and 3D", "02 Image to Depth and 3D"
# Mean relative change of depth, of image -> depth and of a joint run: at most twice what `run.py bench quantise` says,
# whose weights alone are rounded.
CHANGES = {
    "int8": (0.01, 0.02),
    "fp8": (0.02, 0.04),
    "mxfp8": (0.02, 0.04),
    "nvfp4": (0.06, 0.12),
    "int4": (0.06, 0.12),
}


@pytest.fixture(scope="module")
def folder(server):
    folder = server.models / FOLDER / "quantised"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CODEC_FILE, WORDS_FILE):
        shutil.copy(SMALL_MODEL.parent / name, folder)
    return folder


@pytest.fixture
def depth_of(server, object_info, tmp_path):
    """Runs a workflow on a small model of this name; returns the depth that its viewer shows."""

    def run(title: str, model_name: str) -> torch.Tensor:
        prompt = to_api(json.loads((WORKFLOWS / f"{title}.json").read_text(encoding="utf-8")), object_info)
        for node in prompt.values():
            if node["class_type"] == "ModalityForcingLoadSmall":
                node["inputs"]["model_name"] = model_name
        upload_pictures(prompt, server)
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        add_node(prompt, object_info, "TestSaveGeometry", geometry=seen_geometry(prompt), file=str(file))
        server.run(prompt)
        return load_file(file)["depth"]

    return run


@pytest.mark.parametrize("name", NOTES)
def test_a_format(server, folder, depth_of, name):
    if name != "fp8":
        pytest.importorskip("comfy_kitchen")
    quantise(SMALL_MODEL, folder / f"{name}.safetensors", name)
    known = (server.host / "comfy" / "quant_ops.py").read_text(encoding="utf-8")
    if NOTES[name]["format"] not in known:
        with pytest.raises(GraphError, match=r"Update ComfyUI \(0.33 runs all"):
            depth_of(DEPTH, f"quantised/{name}.safetensors")
        return
    for title, most in zip((DEPTH, JOINT), CHANGES[name], strict=True):
        want, got = (depth_of(title, model) for model in (SMALL_MODEL.name, f"quantised/{name}.safetensors"))
        off = (got - want).abs() / want
        change = float(off[off.isfinite()].mean())  # the sky is infinitely far
        assert 0 < change < most
