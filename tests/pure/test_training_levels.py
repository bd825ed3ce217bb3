"""Level sampling: the plateau logit-normal's constants, its shape, and the statistics of the draws."""

import pytest
import torch
from modality_forcing.model.training.level_sampling import (
    TaskMixture,
    draw_levels,
    logit_normal,
    plateau,
    plateau_logit_normal,
)

MU = 1.1


def test_plateau_constants_of_the_published_setting():
    p = plateau(MU)
    assert p.mode == pytest.approx(0.8607447622, abs=1e-10)
    assert p.mass_below == pytest.approx(0.7646958082, abs=1e-10)
    assert p.density == pytest.approx(2.5655989194, abs=1e-9)
    assert p.total == pytest.approx(1.1219688959, abs=1e-10)


@pytest.mark.parametrize("mu", [-2.0, 0.0, 0.4, MU, 3.0])
def test_plateau_starts_at_the_densitys_maximum(mu):
    """Against the density on a fine grid, which knows nothing of the closed form."""
    t = torch.linspace(1e-4, 1 - 1e-4, 200_001, dtype=torch.float64)
    density = torch.exp(-0.5 * (torch.logit(t) - mu) ** 2) / (2 * torch.pi) ** 0.5 / (t * (1 - t))
    p = plateau(mu)
    assert p.mode == pytest.approx(t[density.argmax()].item(), abs=2e-4)
    assert p.density == pytest.approx(density.max().item(), rel=1e-6)
    assert p.mass_below == pytest.approx(torch.trapezoid(density[t <= p.mode], t[t <= p.mode]).item(), abs=1e-4)


def test_mode_without_shift_is_one_half_by_symmetry():
    assert plateau(0.0).mode == pytest.approx(0.5, abs=1e-12)


def test_inverse_distribution_function_has_the_plateaus_density():
    """dt/du = Z / p(t): the logit-normal's density below the mode, constant above."""
    u = torch.linspace(1e-4, 1 - 1e-6, 10_001, dtype=torch.float64)
    t = plateau_logit_normal(u, MU)
    assert (t.diff() > 0).all()
    density = u.diff() / t.diff()
    middle = (t[1:] + t[:-1]) / 2
    p = plateau(MU)
    base = torch.exp(-0.5 * (torch.logit(middle) - MU) ** 2) / (2 * torch.pi) ** 0.5 / (middle * (1 - middle))
    expected = torch.where(middle < p.mode, base, torch.as_tensor(p.density, dtype=torch.float64)) / p.total
    torch.testing.assert_close(density[5:], expected[5:], rtol=2e-3, atol=1e-4)
    assert t[-1].item() == pytest.approx(1.0, abs=1e-5)


def test_logit_normal_at_hand_checked_quantiles():
    """Phi^-1 of 0.5 is 0 and of 0.8413447 is 1."""
    u = torch.tensor([0.5, 0.8413447460685429], dtype=torch.float64)
    expected = torch.sigmoid(torch.tensor([MU, MU + 1], dtype=torch.float64))
    torch.testing.assert_close(logit_normal(u, MU), expected, rtol=1e-9, atol=0)


def test_draws_follow_both_distributions():
    """200 000 samples: Kolmogorov distance below 1.63 / sqrt(n), the 1 % point."""
    n = 200_000
    levels = draw_levels(n, TaskMixture(0.0, 0.0), torch.Generator().manual_seed(3))
    limit = 1.63 / n**0.5
    ranks = (torch.arange(n, dtype=torch.float64) + 0.5) / n

    rgb = levels.t_rgb.double().sort().values
    assert (torch.special.ndtr(torch.logit(rgb) - MU) - ranks).abs().max() < limit

    depth, p = levels.t_depth.double().sort().values, plateau(MU)
    below = torch.special.ndtr(torch.logit(depth.clamp(max=p.mode)) - MU)
    cdf = (below + p.density * (depth - p.mode).clamp_min(0)) / p.total
    assert (cdf - ranks).abs().max() < limit
    assert abs(torch.corrcoef(torch.stack([levels.t_rgb, levels.t_depth]))[0, 1]) < 4 / n**0.5


def test_task_shares_and_given_modalities():
    n = 100_000
    levels = draw_levels(n, TaskMixture(0.2, 0.3), torch.Generator().manual_seed(0))
    assert levels.rgb_given.float().mean().item() == pytest.approx(0.2, abs=0.006)  # 4.7 standard errors
    assert levels.depth_given.float().mean().item() == pytest.approx(0.3, abs=0.007)
    assert not (levels.rgb_given & levels.depth_given).any()
    torch.testing.assert_close(levels.t_rgb == 0, levels.rgb_given)
    torch.testing.assert_close(levels.t_depth == 0, levels.depth_given)
    assert levels.t_rgb.dtype == levels.t_depth.dtype == torch.float32
    assert max(levels.t_rgb.max(), levels.t_depth.max()) <= 1


def test_one_seed_is_one_draw():
    first, second = (draw_levels(64, TaskMixture(), torch.Generator().manual_seed(7)) for _ in range(2))
    other = draw_levels(64, TaskMixture(), torch.Generator().manual_seed(8))
    assert torch.equal(first.t_depth, second.t_depth) and torch.equal(first.rgb_given, second.rgb_given)
    assert not torch.equal(first.t_depth, other.t_depth)


@pytest.mark.parametrize("shares", [(-0.1, 0.2), (0.7, 0.4)])
def test_impossible_mixtures_are_refused(shares):
    with pytest.raises(ValueError, match="expected shares"):
        TaskMixture(*shares)
