"""The golden rollouts, and many others, through a real ComfyUI's own samplers."""

import pytest
import torch
from graphs import MODES, Graph, relative_error

TOLERANCE = 1e-4


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("mode", ["joint", "i2d", "d2i"])
def test_golden_rollout(make_golden_case, variant, mode):
    case = make_golden_case(variant)
    steps, cfg, mu = (case.settings[name] for name in ("steps", "cfg", "mu"))
    graph = Graph()
    schedule = graph.add(
        "ModalityForcingSchedule",
        model=case.model(graph),
        steps=steps,
        shift=mu,
        log2_alpha=case.settings["log2_alpha"],
    )
    conditions = case.condition(graph, mode, case.texts(graph))
    sampled = case.custom_sampler(graph, schedule, schedule[1], conditions, 1.0 if mode == "i2d" else cfg)
    rgb, depth = case.run(graph, sampled)
    assert relative_error(rgb, case.tensors[f"{mode}.rgb"]) < TOLERANCE
    assert relative_error(depth, case.tensors[f"{mode}.depth"]) < TOLERANCE


@pytest.mark.parametrize(("mode", "log2_alpha"), MODES)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("null_tokens", [8, 5], ids=["batched", "unbatched"])
def test_core_samplers_equal_the_plain_rollout(make_case, mode, log2_alpha, cfg, batch, null_tokens):
    """KSampler and SamplerCustomAdvanced; texts of one length run in one call, of two lengths in two."""
    case, seed, steps = make_case("v2"), 7, 4
    case.tensors["null_context"] = case.tensors["null_context"][:, :null_tokens]
    for name in ("rgb", "depth"):
        case.tensors[name] = torch.cat([case.tensors[name], 0.5 * case.tensors[name].flip(-1)])[:batch]
    noise = torch.randn((batch, 384, 4, 4), generator=torch.manual_seed(seed))
    case.tensors["noise"] = noise
    case.write()

    graph = Graph()
    schedule = graph.add(
        "ModalityForcingSchedule", model=case.model(graph), steps=steps, shift=1.1, log2_alpha=log2_alpha
    )
    conditions = case.condition(graph, mode, case.texts(graph))
    custom = case.custom_sampler(graph, schedule, schedule[1], conditions, cfg)
    simple = graph.add(
        "KSampler",
        model=schedule,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name="euler",
        scheduler="simple",
        positive=conditions[0],
        negative=conditions[1],
        latent_image=case.empty(graph),
        denoise=1.0,
    )
    want = case.reference(mode, log2_alpha, cfg, steps, noise)
    for sampled in (custom, simple):
        for got, expected in zip(case.run(graph, sampled), want, strict=True):
            assert relative_error(got, expected) < TOLERANCE
