"""The controls together, on a random model: nothing set is the simplest graph, and what is set holds in all of them."""

import pytest
import torch
from graphs import Graph, relative_error
from modality_forcing.tasks.host.server import GraphError

H, W, STEPS = 6, 9, 3
SAMPLERS = ("euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "euler_ancestral", "lcm", "res_multistep", "ddim")
PLAIN = {"rgb_cfg": 3.0, "depth_cfg": 3.0, "follow_depth": 1.0, "follow_image": 1.0}
PLAIN.update({f"{m}_{end}_percent": float(end == "end") for m in ("rgb", "depth") for end in ("start", "end")})
ALL = {"strength": 0.7, "guidance": {"depth_cfg": 1.0, "follow_depth": 2.0}, "tile": 64, "masked": True}


@pytest.fixture
def case(make_case):
    """Two samples of 144 x 96 pixels, with depth given in half of the pixels."""
    case = make_case("v2")
    generator = torch.Generator().manual_seed(5)
    case.tensors["noise"] = torch.randn(2, 384, H, W, generator=generator)
    case.tensors["depth"] = torch.rand(2, 256, H, W, generator=generator) + 0.3
    pixels = (2, 16 * H, 16 * W)
    case.tensors["mask"] = (torch.rand(pixels, generator=generator) < 0.5).float()
    case.write()
    return case


def sampled(case, sampler="euler", strength=None, guidance=None, tile=0, masked=False, beside=None, **given):
    """None or 0 leaves a node out; `masked`: depth in half of the pixels; `beside`: a node on the model."""
    graph = Graph()
    model = case.model(graph)
    if beside is not None:
        model = graph.add(beside[0], model=model, **beside[1])
    node = graph.add("ModalityForcingSchedule", model=model, steps=STEPS, shift=1.1, log2_alpha=2.0)
    model, conditions = node, case.texts(graph)
    if tile:
        model = graph.add("ModalityForcingTileModel", model=model, tile=tile, overlap=32)
    if guidance is not None:
        model = graph.add("ModalityForcingPatchGuidance", model=model, **{**PLAIN, **guidance})
    if strength is not None:
        if masked:
            given["mask"] = case.load(graph, "Mask", "mask")
        conditions = case.condition(graph, "d2i", conditions, strength=strength, **given)
    return torch.cat(case.run(graph, case.custom_sampler(graph, model, node[1], conditions, 3.0, sampler)), dim=1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_set_is_the_simplest_graph_bit_for_bit(case, sampler):
    want = sampled(case, sampler)
    nothing = {"strength": 0.0, "softness": 0.0, "noise_level": 0.0, "masked": True, "guidance": {}, "tile": 160}
    assert torch.equal(sampled(case, sampler, **nothing), want)


def test_a_sampler_that_writes_into_its_sigmas_leaves_the_next_run_alone(case):
    """Core's uni_pc does; the server keeps the sigmas for the next prompt."""
    want = sampled(case)
    sampled(case, "uni_pc")
    assert torch.equal(sampled(case), want)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_at_once_keeps_what_is_given_and_needs_no_more_memory(case, sampler):
    got = sampled(case, sampler, **{**ALL, "strength": 1.0})
    assert got.isfinite().all()
    given = case.tensors["mask"].reshape(2, H, 16, W, 16).permute(0, 2, 4, 1, 3).reshape(2, 256, H, W) > 0
    left = 0.02 if sampler == "uni_pc" else 1e-5  # core ends it at sigma 0.001, not at 0
    assert relative_error(got[:, 128:][given], case.tensors["depth"][given]) < left
    low = sampled(case, sampler, **{**ALL, "strength": 1.0}, beside=("TestLowMemory", {}))
    assert torch.equal(low, got)


def test_all_at_once_compiled_equals_all_at_once(case, tmp_path):
    """As graphs without a C++ compiler, which takes minutes on a busy machine; by core's own: test_core_features."""
    file = tmp_path / "graphs.txt"
    compiled = ("TestCompile", {"file": str(file)})
    assert relative_error(sampled(case, **ALL, beside=compiled), sampled(case, **ALL)) < 1e-5
    assert sum(map(int, file.read_text().splitlines())) > 300  # operations: it was not left as it was


def test_sizes_and_batches_that_disagree_are_named(case):
    case.tensors["depth"] = case.tensors["depth"][:, :, :, :4].contiguous()
    case.write()
    with pytest.raises(GraphError, match="the given depth is 64 x 96 pixels, the latent to sample 144 x 96"):
        sampled(case, strength=1.0, tile=64)
    case.tensors["depth"] = torch.rand(3, 256, H, W)
    case.write()
    with pytest.raises(GraphError, match="the given depth has a batch of 3, the latent to sample one of 2"):
        sampled(case, strength=0.5, tile=64)
    case.tensors["depth"] = torch.rand(1, 256, H, W)  # one for all samples
    case.write()
    assert sampled(case, strength=0.5, tile=64).isfinite().all()
