"""Training losses against hand-checkable numbers: a stand-in network returns tensors that the test chooses."""

import pytest
import torch
from modality_forcing.model.depth.codec import patchify
from modality_forcing.model.training.level_sampling import Levels
from modality_forcing.model.training.losses import (
    LatentBatch,
    Losses,
    LossWeights,
    drop_text,
    joint_loss,
    slopes,
    text_to_image_loss,
)
from torch import nn

B, H, W = 4, 2, 3


class Answers(nn.Module):
    """Returns the tensors it was given and keeps its inputs."""

    def __init__(self, velocity, clean_depth=None):
        super().__init__()
        self.velocity, self.clean_depth = nn.Parameter(velocity.clone()), None
        if clean_depth is not None:
            self.clean_depth = nn.Parameter(clean_depth.clone())

    def forward(self, rgb, depth, context, t_rgb, t_depth=None):
        self.seen = (rgb, depth, context, t_rgb, t_depth)
        return self.velocity * 1, None if self.clean_depth is None else self.clean_depth * 1


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    depth = normal(B, 256, H, W)
    depth[0, :128] = torch.nan  # half of the first sample is a hole
    batch = LatentBatch(normal(B, 128, H, W), depth, normal(B, 5, 8))
    t_rgb, t_depth = torch.tensor([0.5, 0.0, 0.8, 0.3]), torch.tensor([0.25, 0.9, 0.0, 0.5])
    levels = Levels(t_rgb, t_depth, t_rgb == 0, t_depth == 0)  # joint, image -> depth, depth -> image, joint
    return batch, levels, normal(B, 128, H, W), normal(B, 256, H, W)


def perfect(case):
    batch, _, noise_rgb, noise_depth = case
    clean = torch.where(batch.depth.isnan(), noise_depth, batch.depth)
    return Answers(noise_rgb - batch.rgb, clean)


def test_perfect_prediction_costs_exactly_nothing(case):
    losses = joint_loss(perfect(case), *case, LossWeights())
    assert losses.total.item() == losses.rgb.item() == losses.depth.item() == losses.distill.item() == 0


def test_perfect_depth_costs_nothing_below_the_clamp_too(case):
    case[1].t_depth[3] = 0.01
    assert joint_loss(perfect(case), *case, LossWeights()).depth.item() == 0


def test_counts_leave_out_holes_and_given_modalities(case):
    losses = joint_loss(perfect(case), *case, LossWeights())
    assert losses.counts["rgb"].item() == 3 * 128 * H * W  # all but image -> depth
    assert losses.counts["depth"].item() == (0.5 + 1 + 1) * 256 * H * W  # half of joint, image -> depth, joint


def test_known_offsets_give_known_losses(case):
    """RGB off by 0.5: 0.25. Depth off by 0.1: (0.1/t)^2 at t = 0.25 (half the pixels), 0.9 and 0.5."""
    network = perfect(case)
    network.velocity.data += 0.5
    network.clean_depth.data += 0.1
    losses = joint_loss(network, *case, LossWeights(rgb=2.0, depth=3.0))
    depth = (0.5 * 0.16 + 0.01 / 0.81 + 0.04) / 2.5
    assert losses.rgb.item() == pytest.approx(0.25, rel=1e-5)
    assert losses.depth.item() == pytest.approx(depth, rel=1e-4)
    assert losses.total.item() == pytest.approx(2 * 0.25 + 3 * depth, rel=1e-4)


def test_depth_loss_is_the_velocity_loss_of_eq_7(case):
    """The same number from the noisy depth that the network saw: (x_t - x0_hat) / t against eps - x0."""
    batch, levels, noise_rgb, noise_depth = case
    network = Answers(torch.zeros_like(batch.rgb), torch.linspace(-1, 1, batch.depth.numel()).view_as(batch.depth))
    losses = joint_loss(network, *case, LossWeights())
    x_t, i = network.seen[1], [1, 3]  # the two whole maps that are sampled
    t = levels.t_depth[i, None, None, None]
    whole = ((x_t[i] - network.clean_depth[i]) / t - (noise_depth[i] - batch.depth[i])).square().sum()
    t, known = levels.t_depth[0], slice(128, None)
    half = ((x_t[0, known] - network.clean_depth[0, known]) / t - (noise_depth - batch.depth)[0, known]).square().sum()
    torch.testing.assert_close(losses.sums["depth"], whole + half, rtol=1e-5, atol=0)


def test_the_network_sees_noised_latents_and_pure_noise_in_holes(case):
    batch, levels, noise_rgb, noise_depth = case
    network = perfect(case)
    joint_loss(network, *case, LossWeights())
    rgb, depth, *_ = network.seen
    torch.testing.assert_close(rgb[0], 0.5 * batch.rgb[0] + 0.5 * noise_rgb[0])
    torch.testing.assert_close(rgb[1], batch.rgb[1])  # given: clean
    torch.testing.assert_close(depth[2], batch.depth[2])
    torch.testing.assert_close(depth[3], 0.5 * batch.depth[3] + 0.5 * noise_depth[3])
    torch.testing.assert_close(depth[0, :128], noise_depth[0, :128])
    batch.depth[2, :7] = torch.nan
    joint_loss(network, *case, LossWeights())
    torch.testing.assert_close(network.seen[1][2, :7], noise_depth[2, :7])  # at t = 0 as well


def test_nothing_flows_from_holes_and_given_modalities(case):
    batch, *_ = case
    network = Answers(torch.ones_like(batch.rgb), torch.ones_like(batch.depth))
    joint_loss(network, *case, LossWeights()).total.backward()
    rgb, depth = network.velocity.grad, network.clean_depth.grad
    assert (rgb[1] == 0).all() and (depth[2] == 0).all() and (depth[0, :128] == 0).all()
    assert (rgb[[0, 2, 3]] != 0).all() and (depth[0, 128:] != 0).all() and (depth[[1, 3]] != 0).all()


def test_gradient_is_that_of_finite_differences(case):
    batch, *_ = case
    generator = torch.Generator().manual_seed(1)
    network = Answers(torch.randn(batch.rgb.shape, generator=generator), torch.zeros_like(batch.depth))
    teacher = Answers(torch.zeros_like(batch.rgb))
    weights = LossWeights(rgb=0.7, depth=1.3, distill=0.5)

    def total(part, values):
        getattr(network, part).data.copy_(values)
        losses = joint_loss(network, *case, weights, teacher)
        sums = {name: value.double() for name, value in losses.sums.items()}
        return Losses(sums, losses.counts, weights).total

    joint_loss(network, *case, weights, teacher).total.backward()
    for part in ("velocity", "clean_depth"):
        start, step = getattr(network, part).detach().clone(), 0.05  # the loss is quadratic: any step is exact
        direction = torch.randn(start.shape, generator=generator)
        slope = (total(part, start + step * direction) - total(part, start - step * direction)).item() / (2 * step)
        total(part, start)
        assert (getattr(network, part).grad * direction).sum().item() == pytest.approx(slope, rel=1e-3)


def test_self_distillation(case):
    """Off by 0.5 from the teacher: 0.25 times 1.0 t + 0.1 (1 - t), meaned over the samples whose RGB is sampled."""
    batch, levels, *_ = case
    network = perfect(case)
    teacher = Answers(network.velocity.data + 0.5)
    losses = joint_loss(network, *case, LossWeights(distill=2.0), teacher)
    factors = [0.25 + 0.1 * 0.75, 0.1, 0.5 + 0.1 * 0.5]  # t_depth 0.25, 0 (depth given), 0.5
    assert losses.distill.item() == pytest.approx(0.25 * sum(factors) / 3, rel=1e-5)
    assert losses.total.item() == pytest.approx(2 * losses.distill.item(), rel=1e-6)
    rgb, depth, context, t_rgb, _ = teacher.seen
    assert depth is None and torch.equal(rgb, network.seen[0]) and torch.equal(t_rgb, levels.t_rgb)
    losses.total.backward()
    assert teacher.velocity.grad is None and network.velocity.grad[0].abs().min() > 0
    with pytest.raises(ValueError, match="without a teacher"):
        joint_loss(network, *case, LossWeights(distill=2.0))


def test_a_batch_without_a_sampled_modality_costs_nothing(case):
    batch, levels, noise_rgb, noise_depth = case
    given = Levels(torch.zeros(B), levels.t_depth, torch.ones(B, dtype=torch.bool), levels.depth_given)
    batch.depth[:] = torch.nan
    losses = joint_loss(Answers(noise_rgb, noise_depth), batch, given, noise_rgb, noise_depth, LossWeights())
    losses.total.backward()
    assert losses.total.item() == 0 and losses.counts["rgb"].item() == losses.counts["depth"].item() == 0


def test_parts_of_a_batch_add_up_to_the_whole(case):
    """Two processes with different shares of valid depth: sums over common counts give the whole batch's gradient."""
    batch, levels, noise_rgb, noise_depth = case
    whole = Answers(torch.ones_like(batch.rgb), torch.ones_like(batch.depth))
    expected = joint_loss(whole, *case, LossWeights())
    expected.total.backward()

    parts, networks = [], []
    for i in (slice(0, 1), slice(1, 4)):
        part = LatentBatch(batch.rgb[i], batch.depth[i], batch.context[i])
        of = Levels(levels.t_rgb[i], levels.t_depth[i], levels.rgb_given[i], levels.depth_given[i])
        networks.append(Answers(whole.velocity.data[i], whole.clean_depth.data[i]))
        parts.append(joint_loss(networks[-1], part, of, noise_rgb[i], noise_depth[i], LossWeights()))
    counts = {name: parts[0].counts[name] + parts[1].counts[name] for name in parts[0].counts}
    total = sum(part.total_over(counts) for part in parts)
    total.backward()
    torch.testing.assert_close(total, expected.total, rtol=1e-6, atol=0)
    for name in ("velocity", "clean_depth"):
        gradient = torch.cat([getattr(network, name).grad for network in networks])
        torch.testing.assert_close(gradient, getattr(whole, name).grad, rtol=1e-5, atol=1e-9)


def test_text_to_image_loss(case):
    batch, levels, noise_rgb, _ = case
    network = Answers(noise_rgb - batch.rgb + 0.5)
    losses = text_to_image_loss(network, batch, levels.t_rgb, noise_rgb)
    assert losses.total.item() == losses.rgb.item() == pytest.approx(0.25, rel=1e-5)
    assert network.seen[1] is None and losses.depth.item() == 0 and losses.counts["rgb"].item() == batch.rgb.numel()
    torch.testing.assert_close(network.seen[0][0], 0.5 * batch.rgb[0] + 0.5 * noise_rgb[0])


def test_inputs_take_the_networks_dtype_and_losses_stay_float32(case):
    class Half(Answers):
        def __init__(self, *answers):
            super().__init__(*answers)
            self.img_in = nn.Linear(1, 1).bfloat16()

    batch, _, noise_rgb, noise_depth = case
    network = Half((noise_rgb - batch.rgb).bfloat16(), noise_depth)
    losses = joint_loss(network, *case, LossWeights())
    assert {x.dtype for x in network.seen[:3]} == {torch.bfloat16}
    assert {x.dtype for x in network.seen[3:]} == {torch.float32}
    assert losses.total.dtype == torch.float32
    joint_loss(network, *case, LossWeights(), dtype=torch.float32)
    assert network.seen[0].dtype == torch.float32


def test_text_dropout():
    context, null = torch.ones(20_000, 2, 1), torch.zeros(1, 2, 1)
    probability = torch.full((20_000,), 0.1)
    probability[::2] = 0.5
    kept = drop_text(context, null, probability, torch.Generator().manual_seed(0))[:, :, 0]
    assert torch.equal(kept[:, 0], kept[:, 1])  # a sample is dropped whole
    assert kept[::2].mean().item() == pytest.approx(0.5, abs=0.02)
    assert kept[1::2].mean().item() == pytest.approx(0.9, abs=0.012)
    assert torch.equal(drop_text(context[:9], null, 0.0), context[:9])
    assert (drop_text(context[:9], null, 1.0) == 0).all()
    with pytest.raises(ValueError, match="same length and width"):
        drop_text(context, torch.zeros(1, 3, 1), 0.1)


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="no negative weight"):
        LossWeights(depth=-1.0)


def test_slopes_are_differences_of_the_map():
    ramp = torch.arange(48.0) + 100 * torch.arange(32.0)[:, None]  # 100 a row, 1 a column
    found, counts = slopes(patchify(ramp[None]))[0].unique(return_counts=True)
    assert found.tolist() == [1, 2, 4, 8, 100, 200, 400, 800]
    assert counts.tolist() == [32 * (48 - k) for k in (1, 2, 4, 8)] + [48 * (32 - k) for k in (1, 2, 4, 8)]


def test_slope_term_sees_blocks_and_not_an_offset_of_the_whole_map(case):
    batch, levels, *_ = case
    network = perfect(case)
    network.clean_depth.data += 0.1
    assert joint_loss(network, *case, LossWeights(slope=1.0)).slope.item() == pytest.approx(0, abs=1e-9)
    network.clean_depth.data[3, :, 0, 0] += 0.2  # one patch of 2 x 3 at t = 0.5: pairs over its two borders are 0.4 off
    losses = joint_loss(network, *case, LossWeights(slope=3.0))
    known = ~slopes(batch.depth)[[0, 1, 3]].isnan()  # depth -> image has no loss
    assert losses.counts["slope"].item() == known.sum() < known.numel()
    assert losses.sums["slope"].item() == pytest.approx(2 * 16 * (1 + 2 + 4 + 8) * 0.4**2, rel=1e-4)
    assert losses.total.item() == pytest.approx((losses.rgb + losses.depth + 3 * losses.slope).item(), rel=1e-6)
    assert joint_loss(network, *case, LossWeights()).counts["slope"].item() == 0
