"""Evaluation with stand-in networks whose answers, and so whose errors, are known."""

import pytest
import torch
from modality_forcing.model.depth.codec import encode, patchify
from modality_forcing.model.network.checkpoint import load_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.training.evaluation import (
    border_and_other_steps,
    depth_to_image_consistency,
    evaluate_image_to_depth,
    fit_planes,
    image_drift,
    joint_consistency,
    own_estimator,
    table,
)
from modality_forcing.model.training.losses import LatentBatch
from torch import nn

H = W = 64
CONTEXT = torch.zeros(2, 1, 8)


class StandIn(nn.Module):
    """Answers with functions of (rgb, depth, t_rgb, t_depth)."""

    config = TransformerConfig()

    def __init__(self, velocity=None, clean_depth=None):
        super().__init__()
        self.img_in = nn.Linear(1, 1)
        self.velocity, self.clean_depth = velocity, clean_depth

    def forward(self, rgb, depth, context, t_rgb, t_depth):
        velocity = self.velocity(rgb, depth, t_rgb) if self.velocity else torch.zeros_like(rgb)
        return velocity, self.clean_depth(rgb, depth) if self.clean_depth else torch.ones_like(depth)


def grids():
    y, x = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    return x, y


def wavy():
    """Two depth maps, 1.2 to 3.8, no planes."""
    x, y = grids()
    return torch.stack([2.5 + torch.sin(7 * x) + 0.3 * torch.cos(9 * y), 2.5 + torch.sin(6 * y) * torch.cos(5 * x)])


def batch_of(depth):
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randn(len(depth), 128, H // 16, W // 16, generator=generator)
    return LatentBatch(rgb, encode(depth), CONTEXT[: len(depth)])


def by_name(rows):
    return {row.name: row for row in rows}


def test_perfect_and_affine_answers_have_no_error():
    depth = wavy()
    for answer in (depth, 3 * depth + 2):
        code = encode(answer)
        rows = by_name(
            evaluate_image_to_depth(StandIn(clean_depth=lambda rgb, x, code=code: code), [batch_of(depth)], (1, 10))
        )
        assert list(rows) == ["the true depth", "constant", "plane in depth", "plane in space", "1 step", "10 steps"]
        for name in ("1 step", "10 steps"):
            assert rows[name].abs_rel < 1e-5 and rows[name].delta1 == 1 and rows[name].coverage == 1
            assert rows[name].maps == 2
        assert min(rows[name].abs_rel for name in ("constant", "plane in depth", "plane in space")) > 0.1


def test_constant_on_two_depths_by_hand():
    """Half at 1, half at 3: the constant is 1 (weights 1 and 1/3), so AbsRel is (0 + 2/3) / 2 and half is right."""
    depth = torch.ones(1, H, W)
    depth[:, : H // 2] = 3
    row = by_name(evaluate_image_to_depth(StandIn(), [batch_of(depth)], (1,)))["constant"]
    assert row.abs_rel == pytest.approx(1 / 3, rel=1e-4) and row.delta1 == 0.5


@pytest.mark.parametrize("inverse", [False, True])
def test_planes_are_found_among_outliers_and_holes(inverse):
    x, y = grids()
    plane = 2 + 0.5 * x - 0.8 * y  # 0.7 to 3.3
    truth = (1 / plane if inverse else plane)[None].repeat(2, 1, 1)
    spoilt = truth.clone()
    spoilt[:, :10, :20] = 5.0
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[:, 30:40] = False
    valid[1] = False
    fitted = fit_planes(spoilt, valid, inverse=inverse)
    torch.testing.assert_close(fitted[0], truth[0], rtol=1e-4, atol=0)
    assert (fitted[1] == 1).all()
    other = fit_planes(spoilt, valid, inverse=not inverse)
    assert (other[0] - truth[0]).abs().max() > 0.1


def test_errors_are_those_of_valid_pixels_and_maps_without_any_are_left_out():
    depth = wavy()
    code = encode(depth)
    depth[0, :32] = torch.nan
    depth[1] = torch.nan
    rows = by_name(evaluate_image_to_depth(StandIn(clean_depth=lambda rgb, x: code), [batch_of(depth)], (1,)))
    row = rows["1 step"]
    assert row.maps == 1 and row.abs_rel < 1e-5


def test_blocks_are_steps_between_patches_over_those_inside():
    ramp = torch.arange(64.0).expand(1, 64, 64) / 100  # steps of 0.01 across, none down
    even = border_and_other_steps(patchify(ramp))[0]
    torch.testing.assert_close(even, torch.tensor([0.005, 0.005]))
    stairs = ramp + 0.02 * (torch.arange(64) // 16)  # 0.03 at the borders across
    torch.testing.assert_close(border_and_other_steps(patchify(stairs))[0], torch.tensor([0.015, 0.005]))
    stairs[:, :, 40:] = torch.nan
    torch.testing.assert_close(border_and_other_steps(patchify(stairs))[0, 1], torch.tensor(0.005), rtol=1e-2, atol=0)
    rows = by_name(evaluate_image_to_depth(StandIn(clean_depth=lambda rgb, x: x), [batch_of(wavy())], (1,), runs=16))
    assert rows["1 step"].blocks == pytest.approx(1, abs=0.02) and "| 1.0" in table(rows.values())  # plain noise


def test_mean_of_runs_is_better_than_one():
    depth = wavy()
    code = encode(depth)
    noisy = StandIn(clean_depth=lambda rgb, x: code + 0.1 * x)
    rows = by_name(evaluate_image_to_depth(noisy, [batch_of(depth)] * 2, (1,), runs=9))
    one, mean = rows["1 step"], rows["1 step, mean of 9"]
    assert one.maps == 36 and mean.maps == 4
    assert mean.abs_rel == pytest.approx(one.abs_rel / 3, rel=0.2)  # noise of 9 runs averages to a third


def test_codes_are_clipped_where_stated():
    """Truth near and far; codes of 1.85 and 1.95 for the far half differ by three times its depth unless clipped."""
    depth = torch.ones(1, H, W)
    depth[:, : H // 2] = 5
    answer = torch.full((1, H, W), 0.5)
    answer[:, : H // 2, ::2], answer[:, : H // 2, 1::2] = 1.85, 1.95
    near_2 = StandIn(clean_depth=lambda rgb, x: patchify(answer))
    clipped, free = (
        by_name(evaluate_image_to_depth(near_2, [batch_of(depth)], (1,), max_code=most))["1 step"]
        for most in (1.8, 2.0)
    )
    assert clipped.abs_rel < 1e-4 and free.abs_rel > 0.1
    over = StandIn(clean_depth=lambda rgb, x: torch.full_like(x, 2.5))
    assert by_name(evaluate_image_to_depth(over, [batch_of(depth)], (1,)))["1 step"].coverage == 1
    under = StandIn(clean_depth=lambda rgb, x: torch.full_like(x, -1))
    assert by_name(evaluate_image_to_depth(under, [batch_of(depth)], (1,)))["1 step"].coverage == 1


def codes_from(rgb):
    """Depth codes that are a smooth function of the image latent."""
    return 0.6 + 0.4 * torch.sigmoid(torch.cat([rgb, rgb], 1))


def test_joint_consistency_of_depth_that_follows_the_image():
    follows = StandIn(clean_depth=lambda rgb, x: codes_from(rgb))
    rows = by_name(joint_consistency(follows, [batch_of(wavy())], own_estimator(follows, 2), (-2, 3), steps=4))
    assert list(rows) == ["log2_alpha -2", "log2_alpha 3", "other image"]
    assert rows["log2_alpha 3"].abs_rel < 1e-5 and rows["log2_alpha -2"].abs_rel < 1e-5
    assert rows["other image"].abs_rel > 0.05

    ignores = StandIn(clean_depth=lambda rgb, x: codes_from(torch.randn_like(rgb)))
    rows = by_name(joint_consistency(ignores, [batch_of(wavy())], own_estimator(follows, 2), (3,), steps=4))
    assert rows["log2_alpha 3"].abs_rel == pytest.approx(rows["other image"].abs_rel, rel=0.2)


def test_depth_to_image_consistency_of_an_image_that_is_its_depth():
    def image_of(depth):
        return depth[:, :128]

    def estimator(rgb, context):
        code = torch.cat([rgb, rgb], 1).clamp(0.1, 1.9)
        return patch_maps(code), torch.ones(len(rgb), H, W, dtype=torch.bool)

    def patch_maps(code):
        return code.mean(1).repeat_interleave(16, 1).repeat_interleave(16, 2)

    depth = wavy()[:, ::16, ::16].repeat_interleave(16, 1).repeat_interleave(16, 2)  # constant in each patch
    depth = depth / depth.mean((1, 2), keepdim=True) / 2.5  # below the bend of the code after its mean is divided out
    batch = batch_of(depth)
    batch.rgb = image_of(batch.depth)
    network = StandIn(velocity=lambda rgb, given, t: (rgb - image_of(given)) / t[:, None, None, None])
    rows = by_name(depth_to_image_consistency(network, [batch], estimator, steps=5))
    assert rows["against the true image"].abs_rel < 1e-5
    assert rows["against the given depth"].abs_rel < 0.1  # codes above 1 bend
    assert rows["other image"].abs_rel > 0.08


def test_depth_in_part_is_noise_that_falls_with_the_images():
    """The network sees depth with noise that falls step by step, and with none at strength 1."""
    batch, levels = batch_of(wavy()), []

    def watch(rgb, depth, t_rgb):
        off = (depth - batch.depth).abs().mean().item()
        levels.append((t_rgb[0].item(), off))
        return torch.zeros_like(rgb)

    options = {"estimator": lambda rgb, context: (wavy(), torch.ones_like(wavy(), dtype=torch.bool)), "steps": 6}
    depth_to_image_consistency(StandIn(velocity=watch), [batch], strength=0.99, **options)
    offs = [off for _, off in levels]
    assert offs == sorted(offs, reverse=True) and offs[0] > 0.5 and 0 < offs[-1] < 0.1 * offs[0]
    levels.clear()
    depth_to_image_consistency(StandIn(velocity=watch), [batch], strength=1.0, **options)
    assert [off for _, off in levels] == [0] * 6


def test_drift_by_hand():
    module = StandIn(velocity=lambda rgb, depth, t: 3 * torch.ones_like(rgb))
    teacher = lambda rgb, depth, context, t: (2 * torch.ones_like(rgb), None)  # noqa: E731
    assert image_drift(module, teacher, [batch_of(wavy())], channels=7) == pytest.approx(1 / 4)


def test_same_seed_same_table(golden):
    module = load_transformer(golden / "v2_tiny.checkpoint.safetensors")
    batch = batch_of(wavy())
    batch.context = torch.ones(2, 3, module.config.text_width)
    first, second, other = (evaluate_image_to_depth(module, [batch], (2,), runs=2, seed=seed) for seed in (1, 1, 2))
    assert first == second and first[-1] != other[-1] and first[0] == other[0]
    lines = table(first).splitlines()
    assert len(lines) == 2 + len(first) and lines[2].startswith("| the true depth | ")
