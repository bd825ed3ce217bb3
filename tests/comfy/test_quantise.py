"""Quantised files on the real host: written by the node, read by both loaders, sampled."""

import time

import pytest
import torch
from graphs import Graph, relative_error
from modality_forcing.model.network.checkpoint import load_transformer, save_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.quantise import NOTES, quantise
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.tasks.host.server import GraphError
from safetensors.torch import save_file

LIMIT_BYTES = 300_000  # beyond what the server logs, below the file to write

# Of a random network of width 64, against the same rounded weights in float32: products in bf16, activations rounded.
TOLERANCES = {"int8": 0.1, "fp8": 0.1, "mxfp8": 0.2, "nvfp4": 0.6, "int4": 0.1}


@pytest.fixture
def case(make_case):
    return make_case("v2")


def sample(case, loader, **settings):
    graph = Graph()
    model = graph.add(loader, weight_dtype="default", **settings)
    schedule = graph.add("ModalityForcingSchedule", model=model, steps=4, shift=1.1, log2_alpha=5.0)
    return case.run(graph, case.custom_sampler(graph, schedule, schedule[1], case.texts(graph), 4.0))


@pytest.mark.parametrize("name", NOTES)
def test_a_file_written_by_the_node(case, name):
    if name != "fp8":
        pytest.importorskip("comfy_kitchen")
    folder = case.server.models / "diffusion_models"
    graph = Graph()
    graph.add("ModalityForcingQuantise", model_name=case.checkpoint.name, format=name, file_name=f"new_{name}")
    case.server.run(graph.prompt)
    with pytest.raises(GraphError, match="exists already"):
        case.server.run(
            {
                "1": {
                    **graph.prompt["1"],
                    "inputs": {**graph.prompt["1"]["inputs"], "file_name": f"new_{name}.safetensors"},
                }
            }
        )
    case.module = load_transformer(folder / f"new_{name}.safetensors")
    try:
        ours = sample(case, "ModalityForcingLoadModel", model_name=f"new_{name}.safetensors")
    except GraphError as error:
        known = (case.server.host / "comfy" / "quant_ops.py").read_text(encoding="utf-8")
        assert NOTES[name]["format"] not in known
        assert "Update ComfyUI (0.33 runs all" in str(error)
        return
    for got, want in zip(ours, case.reference("joint", 5.0, 4.0, 4), strict=True):
        assert relative_error(got, want) < TOLERANCES[name]
    core = sample(case, "UNETLoader", unet_name=f"new_{name}.safetensors")
    for got, want in zip(core, ours, strict=True):
        assert relative_error(got, want) == 0


def test_names_that_leave_the_folder(case):
    for name in ("../out", "a/b", ".hidden"):
        graph = Graph()
        graph.add("ModalityForcingQuantise", model_name=case.checkpoint.name, format="fp8", file_name=name)
        with pytest.raises(GraphError, match="expected a name without folders"):
            case.server.run(graph.prompt)


def prompt(source, name):
    graph = Graph()
    graph.add("ModalityForcingQuantise", model_name=source, format="fp8", file_name=name)
    return graph.prompt


def files(case):
    return sorted(path.name for path in (case.server.models / "diffusion_models").iterdir())


def test_files_that_cannot_be_quantised(case):
    folder = case.server.models / "diffusion_models"
    quantise(case.checkpoint, folder / "already.safetensors", "fp8")
    save_file({"conv.weight": torch.zeros(3, 3)}, folder / "other_model.safetensors")
    before = files(case)
    for source, message in (("already", "quantised already .float8_e4m3fn"), ("other_model", "another model")):
        with pytest.raises(GraphError, match=message):
            case.server.run(prompt(f"{source}.safetensors", "refused"))
    assert files(case) == before


def test_a_full_disk(case):
    resource = pytest.importorskip("resource", reason="file size limits stand in for a full disk on Unix only")
    if not hasattr(resource, "prlimit"):
        pytest.skip("another process's limits can be set on Linux only")
    before, limits = files(case), resource.prlimit(case.server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(case.server.pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, limits[1]))
    try:
        with pytest.raises(GraphError, match="could not write .*full_disk.safetensors"):
            case.server.run(prompt(case.checkpoint.name, "full_disk"))
    finally:
        resource.prlimit(case.server.pid, resource.RLIMIT_FSIZE, limits)
    assert files(case) == before


def test_interrupted_half_way(case):
    config = TransformerConfig(512, 4, double_blocks=1, single_blocks=6, decoder_blocks=1, mlp_size=1536, text_width=48)
    folder = case.server.models / "diffusion_models"
    save_transformer(ModalityForcingTransformer(config).bfloat16(), folder / "large.safetensors")
    before = files(case)
    prompt_id = case.server.queue(prompt("large.safetensors", "stopped"))
    while files(case) == before:  # until it writes
        time.sleep(0.001)
    case.server.interrupt()
    with pytest.raises(GraphError, match="interrupted"):
        case.server.wait(prompt_id, timeout_s=60)
    assert files(case) == before
