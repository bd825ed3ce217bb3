"""Guidance of each modality by itself, against rollouts written out here."""

import pytest
import torch
from graphs import Graph, relative_error
from modality_forcing.model.diffusion.schedule import base_levels, tilt
from modality_forcing.tasks.host.server import GraphError

TOLERANCE = 1e-4
STEPS, LOG2_ALPHA = 4, 2.0
PLAIN = {"rgb_cfg": 4.0, "depth_cfg": 4.0, "follow_depth": 1.0, "follow_image": 1.0}
PLAIN.update({f"{m}_{end}_percent": float(end == "end") for m in ("rgb", "depth") for end in ("start", "end")})


@pytest.fixture
def case(make_case):
    return make_case("v2")


def sampled(case, mode="joint", patch=False, beside=None, core_cfg=None, count=None, **weights):
    """By our guider, by our patch of the model under KSampler's kind of guider, or by core's guidance alone.

    count: a file for what TestCountPasses writes.
    """
    graph = Graph()
    model = case.model(graph)
    node = graph.add("ModalityForcingSchedule", model=model, steps=STEPS, shift=1.1, log2_alpha=LOG2_ALPHA)
    positive, negative = case.condition(graph, mode, case.texts(graph))
    model = node if beside is None else graph.add(beside[0], model=node, **beside[1])
    if count is not None:
        model = graph.add("TestCountPasses", model=model, file=str(count))
    if patch:
        model = graph.add("ModalityForcingPatchGuidance", model=model, **{**PLAIN, **weights})
    if patch or core_cfg is not None:
        cfg = 7.0 if core_cfg is None else core_cfg
        return case.run(graph, case.custom_sampler(graph, model, node[1], (positive, negative), cfg))
    settings = {**PLAIN, **weights}
    guider = graph.add("ModalityForcingGuider", model=model, positive=positive, negative=negative, **settings)
    out = graph.add(
        "SamplerCustomAdvanced",
        noise=case.load(graph, "Noise", "noise"),
        guider=guider,
        sampler=graph.add("KSamplerSelect", sampler_name="euler"),
        sigmas=node[1],
        latent_image=case.empty(graph),
    )
    return case.run(graph, out)


def rollout(case, mode, predict):
    """Euler with `predict(run, rgb, depth, t_rgb, t_depth)` -> (velocity, clean depth)."""
    rgb, depth = case.tensors["noise"].split([128, 256], dim=1)
    rgb = case.tensors["rgb"] if mode == "i2d" else rgb
    base = base_levels(STEPS)
    t_rgb = torch.zeros_like(base) if mode == "i2d" else base
    t_depth = base if mode == "i2d" else tilt(base.double(), LOG2_ALPHA).float()

    def run(text, rgb, depth, t_rgb, t_depth):
        with torch.no_grad():
            return case.module(rgb, depth, case.tensors[text], t_rgb[None], t_depth[None])

    for i in range(STEPS):
        velocity, clean = predict(run, rgb, depth, t_rgb[i], t_depth[i])
        rgb = rgb + (t_rgb[i + 1] - t_rgb[i]) * velocity
        depth = depth + (t_depth[i + 1] - t_depth[i]) * (depth - clean) / t_depth[i]
    return rgb, depth


def absent(channels):
    """The noise that stands for a modality that is not there."""
    generator = torch.Generator().manual_seed(0)
    rgb, depth = (torch.randn(n, 4, 4, generator=generator)[None] for n in (128, 256))
    return rgb if channels == 128 else depth


@pytest.mark.parametrize("patch", [False, True])
@pytest.mark.parametrize("mode", ["joint", "i2d", "d2i"])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_equal_weights_are_plain_guidance_bit_for_bit(case, mode, patch, cfg):
    got = sampled(case, mode, patch, rgb_cfg=cfg, depth_cfg=cfg)
    for part, want in zip(got, sampled(case, mode, core_cfg=cfg), strict=True):
        assert torch.equal(part, want)


@pytest.mark.parametrize("patch", [False, True])
@pytest.mark.parametrize(
    "mode, weights, passes",
    [
        ("joint", {"rgb_cfg": 3.0, "depth_cfg": 2.0}, 2),
        ("joint", {"rgb_cfg": 1.0, "depth_cfg": 1.0}, 1),
        ("joint", {"rgb_cfg": 0.0, "depth_cfg": 0.0}, 1),
        ("joint", {"rgb_cfg": 0.0, "depth_cfg": 1.0}, 2),
        ("joint", {"rgb_cfg": 0.0, "depth_cfg": 0.0, "follow_depth": 2.0}, 3),  # heeds depth by the prompt's own pass
        ("joint", {"rgb_cfg": 1.0, "depth_cfg": 1.0, "follow_depth": 2.0, "follow_image": 0.0}, 3),
        ("i2d", {"rgb_cfg": 5.0, "depth_cfg": 1.0}, 1),
        ("i2d", {"rgb_cfg": 5.0, "depth_cfg": 0.0}, 1),
        ("i2d", {"depth_cfg": 0.0, "follow_image": 2.0}, 2),
        ("i2d", {"depth_cfg": 3.0, "follow_image": 2.0}, 3),
        ("d2i", {"rgb_cfg": 0.0, "depth_cfg": 5.0}, 1),
    ],
)
def test_passes_that_no_weight_asks_for_are_not_computed(case, tmp_path, mode, weights, passes, patch):
    file = tmp_path / "passes.txt"
    sampled(case, mode, patch, count=file, **weights)
    assert sum(int(line.split()[0]) for line in file.read_text().splitlines()) == STEPS * passes


def test_guidance_0_is_the_empty_prompt_alone(case):
    """Bit for bit what the empty prompt gives by itself. Core computes it beside the prompt, in a larger batch."""
    got = sampled(case, rgb_cfg=0.0, depth_cfg=0.0)
    mahiro = ("Mahiro", {})  # reads both predictions, so both are there
    beside = sampled(case, beside=mahiro, rgb_cfg=0.0, depth_cfg=0.0)
    cores = sampled(case, core_cfg=0.0), sampled(case, beside=mahiro, core_cfg=0.0)
    pairs = zip((*got, *beside), (*cores[0], *cores[1]), strict=True)
    assert all(relative_error(part, want) < TOLERANCE for part, want in pairs)
    case.tensors["context"] = case.tensors["null_context"].clone()
    case.write()
    assert torch.equal(torch.cat(got, dim=1), torch.cat(sampled(case, core_cfg=1.0), dim=1))


@pytest.mark.parametrize("patch", [False, True])
def test_a_weight_for_each(case, patch):
    def predict(run, *state):
        (vc, dc), (vu, _) = run("context", *state), run("null_context", *state)
        return vu + 3 * (vc - vu), dc

    got = sampled(case, patch=patch, rgb_cfg=3.0, depth_cfg=1.0)
    for part, want in zip(got, rollout(case, "joint", predict), strict=True):
        assert relative_error(part, want) < TOLERANCE


def test_a_part_of_the_run_for_each(case):
    """RGB in the first half of the schedule, depth in the second; at 0.5 shift(0.5) is not guided any more."""

    def predict(run, rgb, depth, t_rgb, t_depth):
        (vc, dc), (vu, du) = (run(text, rgb, depth, t_rgb, t_depth) for text in ("context", "null_context"))
        early = t_rgb > base_levels(2)[1]
        return (vu + 4 * (vc - vu) if early else vc), (dc if early else du + 4 * (dc - du))

    got = sampled(case, rgb_end_percent=0.5, depth_start_percent=0.5)
    for part, want in zip(got, rollout(case, "joint", predict), strict=True):
        assert relative_error(part, want) < TOLERANCE


def test_coupling_of_a_joint_run(case):
    """Each heeds the other by a weight: the prediction of the prompt without the other one, which stands at t = 1."""

    def predict(run, rgb, depth, t_rgb, t_depth):
        one = torch.ones(())
        (vc, dc), (vu, du) = (run(text, rgb, depth, t_rgb, t_depth) for text in ("context", "null_context"))
        va, _ = run("context", rgb, absent(256), t_rgb, one)
        _, da = run("context", absent(128), depth, one, t_depth)
        return vu + 4 * (vc - vu) + (vc - va), du + 4 * (dc - du) - (dc - da)

    got = sampled(case, follow_depth=2.0, follow_image=0.0)
    for part, want in zip(got, rollout(case, "joint", predict), strict=True):
        assert relative_error(part, want) < TOLERANCE


def test_two_scales_where_the_image_is_given(case):
    def predict(run, rgb, depth, t_rgb, t_depth):
        (_, dc), (_, du) = (run(text, rgb, depth, t_rgb, t_depth) for text in ("context", "null_context"))
        _, da = run("null_context", absent(128), depth, torch.ones(()), t_depth)
        return torch.zeros(()), du + 3 * (dc - du) + 0.5 * (du - da)

    got = sampled(case, "i2d", depth_cfg=3.0, follow_image=1.5, follow_depth=9.0)
    for part, want in zip(got, rollout(case, "i2d", predict), strict=True):
        assert relative_error(part, want) < TOLERANCE


def test_guidance_nodes_beside_it_see_each_weight(case):
    """APG with eta 1 and no threshold is guidance by one more than its weight less one: cfg 3 acts as 3."""
    apg = ("APG", {"eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0})

    def predict(run, *state):
        (vc, dc), (vu, du) = run("context", *state), run("null_context", *state)
        # APG: U + w ((U + g) + g / w - U) = U + (w + 1) g
        return vu + 4 * (vc - vu), du + 3 * (dc - du)

    got = sampled(case, beside=apg, rgb_cfg=3.0, depth_cfg=2.0)
    for part, want in zip(got, rollout(case, "joint", predict), strict=True):
        assert relative_error(part, want) < TOLERANCE


def test_what_takes_guidance_over_too_is_refused(case):
    with pytest.raises(GraphError, match="RescaleCFG and RGB-D Guidance"):
        sampled(case, beside=("RescaleCFG", {"multiplier": 0.7}), rgb_cfg=3.0, depth_cfg=2.0)
    with pytest.raises(GraphError, match="TCFG needs guidance in all steps"):
        sampled(case, beside=("TCFG", {}), rgb_cfg=3.0, depth_cfg=1.0)


def test_a_span_that_ends_before_it_starts_is_refused(case):
    with pytest.raises(GraphError, match="guidance from 0.6 to 0.4"):
        sampled(case, rgb_start_percent=0.6, rgb_end_percent=0.4)
