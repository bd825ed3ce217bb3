"""Quantised files on the real host: written by the node, read by both loaders, sampled."""

import pytest
from graphs import Graph, relative_error
from modality_forcing.model.network.checkpoint import load_transformer
from modality_forcing.model.network.quantise import NOTES
from modality_forcing.tasks.host.server import GraphError

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
