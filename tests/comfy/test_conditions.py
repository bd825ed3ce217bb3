"""Strength, masks, holes and batches of a given modality, against rollouts written out here from the paper."""

import math

import pytest
import torch
from graphs import Graph, relative_error
from modality_forcing.model.depth.codec import patchify
from modality_forcing.model.depth.softness import softened
from modality_forcing.model.diffusion.schedule import base_levels

TOLERANCE = 1e-4
STEPS, CFG, LOG2_ALPHA = 5, 4.0, 5.0


def sample_with(case, mode, graph=None, latent=None, cfg=CFG, log2_alpha=LOG2_ALPHA, **settings):
    graph = graph or Graph()
    schedule = graph.add(
        "ModalityForcingSchedule", model=case.model(graph), steps=STEPS, shift=1.1, log2_alpha=log2_alpha
    )
    conditions = case.condition(graph, mode, case.texts(graph), **settings)
    return case.run(graph, case.custom_sampler(graph, schedule, schedule[1], conditions, cfg, latent=latent))


def guided(case, rgb, depth, t_rgb, t_depth):
    """Both heads with guidance CFG."""
    batch = rgb.shape[0]
    levels = (t_rgb.expand(batch), t_depth.expand(batch))
    texts = (case.tensors[name].expand(batch, -1, -1) for name in ("context", "null_context"))
    with torch.no_grad():
        conditional, unconditional = (case.module(rgb, depth, text, *levels) for text in texts)
    return [u + CFG * (c - u) for c, u in zip(conditional, unconditional, strict=True)]


def tilted(t, log2_alpha):
    alpha = 2.0**log2_alpha
    return alpha * t / (1 + (alpha - 1) * t)


def depth_step(x, x0, t, t_next):
    return x + (t_next - t) * (x - x0) / max(float(t), 0.05)


@pytest.mark.parametrize("strength", [0.01, 0.4, 0.99])
def test_partial_depth_strength(make_case, strength):
    """x_depth = (1 - t) cond + t eps at every step, t = f_alpha(t_rgb), log2_alpha by the curve of the effect."""
    case = make_case("v2")
    noise, given = case.tensors["noise"], 0.3 + case.tensors["rgb"].mean() + 0.1 * case.tensors["depth"]
    case.tensors["depth"] = given
    case.write()
    got_rgb, got_depth = sample_with(case, "d2i", strength=strength)

    t = base_levels(STEPS)
    rgb, eps = noise[:, :128], noise[:, 128:]
    for now, after in zip(t[:-1], t[1:], strict=True):
        level = tilted(now, -0.88 * math.log(strength / (1 - strength)))
        velocity, _ = guided(case, rgb, (1 - level) * given + level * eps, now, level)
        rgb = rgb + (after - now) * velocity
    assert relative_error(got_rgb, rgb) < TOLERANCE
    assert relative_error(got_depth, given) < TOLERANCE


def test_partial_image_strength(make_case):
    """The mirror: depth runs on the schedule, RGB is given at f_alpha(t_depth), -0.4 at strength 0.5."""
    case, strength = make_case("v2"), 0.5
    noise, given = case.tensors["noise"], 0.7 * case.tensors["rgb"].flip(-1)
    case.tensors["rgb"] = given
    case.write()
    got_rgb, got_depth = sample_with(case, "i2d", strength=strength)

    t = base_levels(STEPS)
    eps, depth = noise[:, :128], noise[:, 128:]
    for now, after in zip(t[:-1], t[1:], strict=True):
        level = tilted(now, -0.4)
        _, clean = guided(case, (1 - level) * given + level * eps, depth, level, now)
        depth = depth_step(depth, clean, now, after)
    assert relative_error(got_rgb, given) < TOLERANCE
    assert relative_error(got_depth, depth) < TOLERANCE


def test_softness_is_the_softened_map_and_nothing_at_0(make_case):
    case = make_case("v2")
    plain = sample_with(case, "d2i")
    for got, want in zip(sample_with(case, "d2i", softness=0.0), plain, strict=True):
        assert torch.equal(got, want)
    soft = sample_with(case, "d2i", softness=0.5)
    assert not torch.equal(soft[0], plain[0])
    case.tensors["depth"] = softened(case.tensors["depth"], 0.5)
    case.write()
    for got, want in zip(soft, sample_with(case, "d2i"), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("mode", ["i2d", "d2i"])
def test_strength_zero_is_the_joint_run(make_case, mode):
    case = make_case("v2")
    want = case.reference("joint", LOG2_ALPHA, CFG, STEPS)
    for got, expected in zip(sample_with(case, mode, strength=0.0), want, strict=True):
        assert relative_error(got, expected) < TOLERANCE


def test_depth_mask_holds_pixels_and_samples_the_rest(make_case):
    """Per pixel, also inside a patch: the given part is noised to the modality's level at every step."""
    case = make_case("v2")
    pixels = torch.zeros(1, 64, 64)
    pixels[:, 5:40, 20:] = 1
    given = case.tensors["depth"].abs().clamp(0.1, 1.9)
    case.tensors.update(depth=given, mask=pixels)
    case.write()
    graph = Graph()
    got_rgb, got_depth = sample_with(case, "d2i", graph, mask=case.load(graph, "Mask", "mask"))

    inside = patchify(pixels > 0.5)
    t_rgb = base_levels(STEPS)
    t_depth = tilted(t_rgb, LOG2_ALPHA)
    rgb, eps = case.tensors["noise"].split([128, 256], dim=1)
    depth = eps
    for i in range(STEPS):
        depth = torch.where(inside, (1 - t_depth[i]) * given + t_depth[i] * eps, depth)
        velocity, clean = guided(case, rgb, depth, t_rgb[i], t_depth[i])
        rgb = rgb + (t_rgb[i + 1] - t_rgb[i]) * velocity
        depth = depth_step(depth, clean, t_depth[i], t_depth[i + 1])
    depth = torch.where(inside, given, depth)
    assert relative_error(got_rgb, rgb) < TOLERANCE
    assert relative_error(got_depth, depth) < TOLERANCE
    assert (got_depth - given)[inside].abs().max() < 1e-5
    assert (got_depth - given)[~inside].abs().mean() > 1e-2


def test_image_mask_holds_whole_patches(make_case):
    case = make_case("v2")
    pixels = torch.zeros(1, 64, 64)
    pixels[:, 0:16, 0:16] = 1  # a whole patch
    pixels[:, 16:32, 16:23] = 1  # 7 of 16 columns: less than half
    pixels[:, 32:48, 32:40] = 1  # half
    case.tensors["mask"] = pixels
    case.write()
    graph = Graph()
    rgb, _ = sample_with(case, "i2d", graph, mask=case.load(graph, "Mask", "mask"))
    held = (rgb - case.tensors["rgb"]).abs().amax(1)[0] < 1e-5  # (4,4)
    want = torch.zeros(4, 4, dtype=torch.bool)
    want[0, 0] = want[2, 2] = True
    assert torch.equal(held, want)


def test_holes_are_noise_at_every_level(make_case):
    """A given map with missing pixels: the network sees the sampler's noise there."""
    case = make_case("v2")
    holes = torch.rand(case.tensors["depth"].shape, generator=torch.manual_seed(3)) < 0.4
    full = case.tensors["depth"]
    seen = torch.where(holes, case.tensors["noise"][:, 128:], full)
    case.tensors["depth"] = torch.where(holes, torch.nan, full)
    case.write()
    got_rgb, got_depth = sample_with(case, "d2i")
    case.tensors["depth"] = seen
    want_rgb, _ = case.reference("d2i", LOG2_ALPHA, CFG, STEPS)
    assert relative_error(got_rgb, want_rgb) < TOLERANCE
    assert (got_depth - full)[~holes].abs().max() < 1e-5
    assert got_depth.isfinite().all()


def test_one_condition_serves_many_samples_and_one_each_serves_its_own(make_case):
    case = make_case("v2")
    generator = torch.manual_seed(5)
    one, noise = case.tensors["rgb"], torch.randn((3, 384, 4, 4), generator=generator)
    each = torch.randn((3, 128, 4, 4), generator=generator)
    case.tensors["noise"] = noise
    for given in (one, each):
        case.tensors["rgb"] = given
        case.write()
        _, got = sample_with(case, "i2d")
        case.tensors["rgb"] = given.expand(3, -1, -1, -1)
        _, want = case.reference("i2d", LOG2_ALPHA, CFG, STEPS, noise)
        assert relative_error(got, want) < TOLERANCE


def test_condition_ends_within_the_run(make_case):
    """Given for the first part only: afterwards RGB is sampled on, from the state that the sampler carried."""
    case = make_case("v2")
    rgb, depth = sample_with(case, "i2d", end_percent=0.5)
    assert (rgb - case.tensors["rgb"]).abs().max() > 1e-3
    assert rgb.isfinite().all() and depth.isfinite().all()
    held, _ = sample_with(case, "i2d", log2_alpha=0.0, end_percent=0.999)
    assert relative_error(held, case.tensors["rgb"]) < TOLERANCE


def test_both_given_come_back(make_case):
    case = make_case("v2")
    graph = Graph()
    schedule = graph.add("ModalityForcingSchedule", model=case.model(graph), steps=3, shift=1.1, log2_alpha=5.0)
    conditions = case.condition(graph, "d2i", case.condition(graph, "i2d", case.texts(graph)))
    rgb, depth = case.run(graph, case.custom_sampler(graph, schedule, schedule[1], conditions, CFG))
    assert relative_error(rgb, case.tensors["rgb"]) < 1e-5
    assert relative_error(depth, case.tensors["depth"]) < 1e-5
