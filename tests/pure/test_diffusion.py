"""Schedules, levels, codec and sampler against golden files, closed forms and hand-checked numbers."""

import json
import math

import pytest
import torch
from modality_forcing.model.depth import codec
from modality_forcing.model.diffusion import levels, schedule
from modality_forcing.model.diffusion.sampling import sample
from modality_forcing.model.network.checkpoint import load_transformer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn


def test_schedule_by_hand():
    t = schedule.base_levels(2, mu=1.1)
    assert t.tolist() == pytest.approx([1.0, math.exp(1.1) / (math.exp(1.1) + 1), 0.0], abs=1e-7)
    # alpha = 32: 32 * 0.5 / (1 + 31 * 0.5)
    assert float(schedule.tilt(torch.tensor(0.5), 5.0)) == pytest.approx(16 / 16.5)


def test_tilt_is_undone_by_its_opposite():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(schedule.tilt(schedule.tilt(t, 3.7), -3.7), t)
    assert float(schedule.tilt_ratio(torch.tensor(0.0), 3.0)) == 8.0


def test_any_point_fixes_the_trajectory():
    t_rgb, log2_alpha = torch.tensor(0.3), -2.5
    t_depth = schedule.tilt(t_rgb, log2_alpha)
    assert schedule.log2_alpha_through(float(t_rgb), float(t_depth)) == pytest.approx(log2_alpha, abs=1e-5)


def test_unknown_mode_and_no_steps():
    with pytest.raises(ValueError, match="'t2i'.*joint, i2d, d2i"):
        schedule.trajectory(4, "t2i")
    with pytest.raises(ValueError, match="0 steps"):
        schedule.trajectory(0, "joint")


def test_golden_schedules(golden):
    tensors = load_file(golden / "schedules_50.safetensors")
    for case in {name.rsplit(".", 1)[0] for name in tensors}:
        mode, log2_alpha = case.split(".", 1)
        got = schedule.trajectory(50, mode, None if log2_alpha == "None" else float(log2_alpha))
        for values, name in zip(got, ("t_rgb", "t_depth"), strict=True):
            assert (values - tensors[f"{case}.{name}"]).abs().max() < 1e-6


def test_given_level_ends():
    clock = torch.tensor([0.5])
    assert levels.given_level(clock, 1.0).item() == 0
    alpha = 3 ** (0.88 * math.log(2))  # a quarter of the effect
    assert levels.given_level(clock, 0.25).item() == pytest.approx(alpha * 0.5 / (1 + (alpha - 1) * 0.5))


def test_strength_turns_evenly_from_not_given_to_clean():
    """The logistic curve of the measured effect, and the published range above 0.99."""
    strengths = torch.tensor([0.1, 0.5, 0.9, 0.9966])
    effect = 1 / (1 + (levels.strength_to_log2_alpha(strengths) / 0.88).exp())
    torch.testing.assert_close(effect, strengths, atol=1e-5, rtol=0)
    assert levels.strength_to_log2_alpha(torch.tensor(0.5), "rgb") == pytest.approx(-0.4)
    assert levels.strength_to_log2_alpha(strengths)[-1] == pytest.approx(-5, abs=0.05)
    assert levels.strength_to_log2_alpha(torch.tensor([1e-9, 1 - 1e-7]), "rgb").tolist() == [14, -14]


def test_depth_velocity_is_clamped_near_zero():
    x, x0 = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.5], [0.5]])
    assert levels.depth_velocity(x, x0, torch.tensor([0.25, 0.01])).flatten().tolist() == [2.0, 10.0]


def test_codec_by_hand():
    """Depths 1 and 3 have mean 2: 0.5 stays, 1.5 becomes 2 - 1/1.5."""
    depth = torch.ones(1, 16, 32)
    depth[:, :, 16:] = 3
    latent = codec.encode(depth)
    assert latent.shape == (1, 256, 1, 2)
    torch.testing.assert_close(latent[0, :, 0, 0], torch.full((256,), 0.5))
    torch.testing.assert_close(latent[0, :, 0, 1], torch.full((256,), 2 - 1 / 1.5))


def test_channels_are_the_pixels_of_a_patch_row_by_row():
    maps = torch.arange(32 * 48.0).reshape(1, 32, 48)
    latent = codec.patchify(maps)
    assert latent[0, 17, 1, 2] == maps[0, 16 + 1, 32 + 1]
    assert torch.equal(codec.unpatchify(latent), maps)


def test_codec_round_trip_keeps_depth_over_its_mean():
    depth = torch.exp(torch.randn(3, 32, 16, generator=torch.manual_seed(0)) * 1.5)
    decoded, valid = codec.decode(codec.encode(depth))
    assert valid.all()
    torch.testing.assert_close(decoded, depth / depth.mean((1, 2), keepdim=True), rtol=1e-4, atol=0)


def test_codec_is_blind_to_scale_up_to_the_ends_of_float32():
    depth = torch.rand(1, 16, 16, generator=torch.manual_seed(0)) + 0.5
    for scale in (1e-30, 1e37):
        torch.testing.assert_close(codec.encode(depth * scale), codec.encode(depth), rtol=1e-5, atol=1e-6)


def test_codec_holes():
    depth = torch.full((2, 16, 16), 2.0)
    depth[0, 0, :4] = torch.tensor([math.nan, 0.0, -1.0, math.inf])
    depth[1] = 0
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[0, 0, 4] = False
    latent = codec.encode(depth, valid)
    unknown = latent[0, :, 0, 0].isnan()
    assert unknown.nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(latent[0, 5:, 0, 0], torch.ones(251))
    assert latent[1].isnan().all()
    decoded, known = codec.decode(latent)
    assert torch.equal(known[0].flatten(), ~unknown)
    assert (decoded[0].flatten()[unknown] == 0).all()


def test_codes_beyond_infinity_are_invalid():
    latent = torch.full((1, 256, 1, 1), 1.0)
    latent[0, :4, 0, 0] = torch.tensor([2.0, 2.5, 0.0, -0.1])
    _, valid = codec.decode(latent)
    assert (~valid).flatten().nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_codec_sizes():
    with pytest.raises(ValueError, match=r"\(1, 20, 16\).*multiples of 16"):
        codec.encode(torch.ones(1, 20, 16))
    with pytest.raises(ValueError, match=r"\(1, 128, 2, 2\).*256"):
        codec.decode(torch.ones(1, 128, 2, 2))


def test_golden_codec(golden):
    tensors = load_file(golden / "depth_codec.safetensors")
    torch.testing.assert_close(codec.encode(tensors["depth"]), tensors["latent"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(codec.decode(tensors["latent"])[0], tensors["decoded"], atol=1e-5, rtol=1e-5)


class Gaussian(nn.Module):
    """The exact prediction for data ~ N(m, s^2): the flow carries noise e to m + s e. Text scales the mean."""

    def __init__(self, mean: float = 0.5, std: float = 0.3) -> None:
        super().__init__()
        self.img_in = nn.Linear(1, 1)  # tells the sampler the type
        self.mean, self.std = mean, std

    def clean(self, x, t, text):
        t, mean = t.reshape(-1, 1, 1, 1), self.mean * text.mean((1, 2)).reshape(-1, 1, 1, 1)
        gain = self.std**2 * (1 - t) / ((1 - t) ** 2 * self.std**2 + t**2)
        return mean + gain * (x - (1 - t) * mean)

    def forward(self, rgb, depth, text, t_rgb, t_depth):
        return (rgb - self.clean(rgb, t_rgb, text)) / t_rgb.reshape(-1, 1, 1, 1), self.clean(depth, t_depth, text)


@pytest.mark.parametrize("log2_alpha", [-2.0, 0.0, 2.0])
def test_sampler_follows_the_exact_flow(log2_alpha):
    generator = torch.manual_seed(0)
    noise = torch.randn(2, 128, 2, 3, generator=generator), torch.randn(2, 256, 2, 3, generator=generator)
    text = torch.ones(1, 1, 1)
    rgb, depth = sample(Gaussian(), *noise, text, None, steps=800, mode="joint", log2_alpha=log2_alpha)
    torch.testing.assert_close(rgb, 0.5 + 0.3 * noise[0], atol=0.01, rtol=0)
    # Below t = 0.05 the clamped depth velocity takes out only 1 - 1/e of the noise that is left, 0.05 / e at the end.
    residual = 0.05 / math.e * noise[1].abs().max()
    assert (depth - 0.5 - 0.3 * noise[1]).abs().max() < residual + 0.01


def test_heun_is_of_second_order_and_euler_of_first():
    """Twice the steps: about a quarter of the error, or half of it."""
    generator = torch.manual_seed(0)
    noise = torch.randn(2, 128, 2, 3, generator=generator), torch.randn(2, 256, 2, 3, generator=generator)

    def error(solver, steps):
        rgb, _ = sample(Gaussian(), *noise, torch.ones(1, 1, 1), None, steps=steps, mode="joint", solver=solver)
        return (rgb - 0.5 - 0.3 * noise[0]).abs().max().item()

    assert error("euler", 40) / error("euler", 80) == pytest.approx(2, abs=0.2)
    assert 3.5 < error("heun", 40) / error("heun", 80) < 5
    with pytest.raises(ValueError, match="solver 'rk4'; expected one of euler, heun"):
        error("rk4", 2)


def test_guidance_moves_away_from_the_empty_prompt():
    """With mean c for the text and 0 for the empty one, guidance w gives a mean of w c in one step."""
    noise = torch.zeros(1, 128, 1, 1), torch.zeros(1, 256, 1, 1)
    texts = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    rgb, depth = sample(Gaussian(), *noise, *texts, steps=1, mode="joint", cfg=3.0)
    torch.testing.assert_close(rgb, torch.full_like(rgb, 1.5))
    torch.testing.assert_close(depth, torch.full_like(depth, 1.5))
    rgb, depth = sample(Gaussian(), *noise, *texts, steps=1, mode="joint", cfg=3.0, depth_cfg=1.0)
    torch.testing.assert_close((rgb.mean().item(), depth.mean().item()), (1.5, 0.5))
    with pytest.raises(ValueError, match="guidance 3.0 without null_context"):
        sample(Gaussian(), *noise, texts[0], None, steps=1, mode="joint", cfg=3.0)


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("mode", ["joint", "i2d", "d2i"])
def test_golden_rollout(golden, variant, mode):
    module = load_transformer(golden / f"{variant}_tiny.checkpoint.safetensors")
    file = golden / f"{variant}_tiny.case.safetensors"
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        case = json.loads(opened.metadata()["case"])
    result = sample(
        module,
        *(tensors[name] for name in ("rgb", "depth", "context", "null_context")),
        steps=case["steps"],
        mode=mode,
        cfg=1.0 if mode == "i2d" else case["cfg"],
        log2_alpha=case["log2_alpha"],
        mu=case["mu"],
    )
    for got, name in zip(result, ("rgb", "depth"), strict=True):
        want = tensors[f"{mode}.{name}"]
        assert (got - want).abs().max() < 1e-4 * want.abs().max()
