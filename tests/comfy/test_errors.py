"""What a person sees who connects or types something wrong; the server lives on."""

import pytest
import torch
from graphs import Graph
from modality_forcing.tasks.host.server import GraphError
from safetensors.torch import save_file


@pytest.fixture
def case(make_case):
    return make_case("v2")


def refused(case, graph, latent, *texts):
    """The graph fails with all of the texts in its message, and the server answers afterwards."""
    with pytest.raises(GraphError) as error:
        case.run(graph, latent)
    for text in texts:
        assert text in error.value.message
    assert case.server.running
    return error.value


def sampled(case, graph, conditions, latent=None, model=None):
    model = model or case.model(graph)
    schedule = graph.add("ModalityForcingSchedule", model=model, steps=2, shift=1.1, log2_alpha=5.0)
    return case.custom_sampler(graph, schedule, schedule[1], conditions, 4.0, latent=latent)


def test_plain_latent_where_a_joint_one_is_needed(case):
    graph = Graph()
    plain = case.load(graph, "Latent", "rgb")
    refused(case, graph, sampled(case, graph, case.texts(graph), plain), "128 channels", "384", "Join RGB-D Latent")


@pytest.mark.parametrize(("mode", "name"), [("i2d", "rgb"), ("d2i", "depth")])
def test_condition_on_positive_only(case, mode, name):
    graph = Graph()
    texts = case.texts(graph)
    positive, _ = case.condition(graph, mode, texts)
    latent = sampled(case, graph, (positive, texts[1]))
    refused(case, graph, latent, f"the {name} condition is on positive but not on negative", "as Condition")


def test_sizes_that_disagree(case):
    case.tensors["rgb"] = torch.ones(1, 128, 4, 6)
    case.write()
    graph = Graph()
    latent = sampled(case, graph, case.condition(graph, "i2d", case.texts(graph)))
    refused(case, graph, latent, "96 x 64", "64 x 64")


def test_batches_that_disagree(case):
    case.tensors["rgb"] = torch.ones(3, 128, 4, 4)
    case.tensors["noise"] = torch.zeros(2, 384, 4, 4)
    case.write()
    graph = Graph()
    latent = sampled(case, graph, case.condition(graph, "i2d", case.texts(graph)))
    refused(case, graph, latent, "batch of 3", "one of 2")


def test_text_of_another_encoder(case):
    case.tensors["context"] = torch.zeros(1, 8, 64)
    case.write()
    graph = Graph()
    refused(case, graph, sampled(case, graph, case.texts(graph)), "64 wide", "48 wide", "flux2")


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0, float("inf")])
def test_depth_without_a_valid_pixel(case, value):
    case.tensors["picture"] = torch.full((1, 64, 64, 3), value)
    case.write()
    graph = Graph()
    settings = {"meaning": "metric", "near": 1.0, "far": 10.0, "scale": 1.0, "black_is_hole": False}
    node = graph.add("ModalityForcingEncodeDepthPicture", picture=case.load(graph, "Image", "picture"), **settings)
    refused(case, graph, node, "no valid depth at all")


def test_given_depth_latent_of_nothing_but_holes(case):
    case.tensors["depth"] = torch.full((1, 256, 4, 4), torch.nan)
    case.write()
    graph = Graph()
    latent = sampled(case, graph, case.condition(graph, "d2i", case.texts(graph)))
    refused(case, graph, latent, "no valid depth at all")


@pytest.mark.parametrize(("mode", "text"), [("i2d", "an empty one"), ("d2i", "no valid depth at all")])
def test_an_empty_latent_is_nothing_that_is_given(case, mode, text):
    case.tensors["depth" if mode == "d2i" else "rgb"] = torch.zeros(1, 256 if mode == "d2i" else 128, 4, 4)
    case.write()
    graph = Graph()
    latent = sampled(case, graph, case.condition(graph, mode, case.texts(graph)))
    refused(case, graph, latent, text)


def test_image_latent_with_nan(case):
    case.tensors["rgb"] = torch.full((1, 128, 4, 4), torch.nan)
    case.write()
    graph = Graph()
    refused(case, graph, sampled(case, graph, case.condition(graph, "i2d", case.texts(graph))), "NaN")


def test_image_where_depth_is_expected(case):
    graph = Graph()
    positive, negative = case.texts(graph)
    node = graph.add(
        "ModalityForcingDepthCondition",
        positive=positive,
        negative=negative,
        depth=case.load(graph, "Latent", "rgb"),
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    refused(case, graph, node[2], "as depth, that of rgb alone", "256 or 384 channels", "Encode Depth Picture")


def test_width_that_is_no_multiple_of_16(case):
    graph = Graph()
    node = graph.add("ModalityForcingEmptyLatent", width=500, height=512, batch_size=1)
    refused(case, graph, node, "width 500", "496 or 512")


def test_a_tilt_that_is_no_number(case):
    """A number from a wire passes ComfyUI's own limits."""
    graph = Graph()
    node = graph.add("ModalityForcingSchedule", model=case.model(graph), steps=2, shift=1.1, log2_alpha=float("nan"))
    latent = case.custom_sampler(graph, node, node[1], case.texts(graph), 4.0)
    refused(case, graph, latent, "log2_alpha nan", "finite")


def test_span_that_ends_before_it_starts(case):
    graph = Graph()
    conditions = case.condition(graph, "i2d", case.texts(graph), start_percent=0.6, end_percent=0.4)
    refused(case, graph, sampled(case, graph, conditions), "start_percent 0.6", "end_percent 0.4")


def test_coloured_depth_picture(case):
    case.tensors["picture"] = torch.rand(1, 64, 64, 3, generator=torch.manual_seed(0))
    case.write()
    graph = Graph()
    settings = {"meaning": "disparity near-white", "near": 1.0, "far": 10.0, "scale": 1.0, "black_is_hole": False}
    node = graph.add("ModalityForcingEncodeDepthPicture", picture=case.load(graph, "Image", "picture"), **settings)
    refused(case, graph, node, "coloured", "grey depth picture")


def test_mask_of_another_size(case):
    case.tensors["mask"] = torch.ones(1, 50, 60)
    case.write()
    graph = Graph()
    conditions = case.condition(graph, "d2i", case.texts(graph), mask=case.load(graph, "Mask", "mask"))
    refused(case, graph, sampled(case, graph, conditions), "60 x 50", "64 x 64", "Fit Image to Model")


def checkpoint_graph(case, name, state):
    if state is not None:
        save_file(state, case.server.models / "diffusion_models" / name)
    graph = Graph()
    model = graph.add("ModalityForcingLoadModel", model_name=name, weight_dtype="default")
    return graph, sampled(case, graph, case.texts(graph), model=model)


def test_plain_flux2_checkpoint(case):
    state = {k: v for k, v in case.module.state_dict().items() if "depth" not in k and "cross" not in k}
    refused(case, *checkpoint_graph(case, "plain_flux2.safetensors", state), "plain_flux2", "plain FLUX.2", "depth")


def test_float16_checkpoint(case):
    state = {k: v.half() for k, v in case.module.state_dict().items()}
    refused(case, *checkpoint_graph(case, "half.safetensors", state), "half.safetensors", "float16", "bfloat16")


def test_truncated_checkpoint(case):
    file = case.server.models / "diffusion_models" / "cut.safetensors"
    file.write_bytes(case.checkpoint.read_bytes()[:-1000])
    refused(case, *checkpoint_graph(case, file.name, None), "cut.safetensors", "truncated", "again")
