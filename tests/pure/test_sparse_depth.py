"""Sparse depth: shares, places and determinism."""

import pytest
import torch
from modality_forcing.model.training.sparse import SHARES, WAYS, sparsify


def _maps(batch: int = 6, size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth growing downwards from 1 to 9 m, and a picture that is flat on the left and noisy on the right."""
    depth = torch.linspace(1.0, 9.0, size)[None, :, None].expand(batch, size, size).clone()
    rgb = torch.full((batch, 3, size, size), 0.5)
    noise = torch.rand(batch, 1, size, size // 2, generator=torch.Generator().manual_seed(3))
    rgb[..., size // 2 :] = noise
    return depth, rgb


def _run(way: str, seed: int = 0, **kw) -> tuple[torch.Tensor, torch.Tensor]:
    depth, rgb = _maps()
    return depth, sparsify(depth, rgb, torch.Generator().manual_seed(seed), way=way, **kw)


@pytest.mark.parametrize("way", WAYS)
def test_share_is_in_its_range_and_values_are_kept(way):
    depth, sparse = _run(way)
    valid = torch.isfinite(sparse)
    share = valid.float().mean((1, 2))
    low, high = SHARES[way]
    assert (share >= max(low, 0.02)).all() and (share <= min(high, 0.60) + 1e-3).all(), share
    assert share.std() > 0.005  # every map draws its own
    assert torch.equal(sparse[valid], depth[valid])
    assert torch.isnan(sparse[~valid]).all()


def test_same_generator_same_holes():
    (_, first), (_, again), (_, other) = _run("mixed", 5), _run("mixed", 5), _run("mixed", 6)
    assert torch.equal(torch.isnan(first), torch.isnan(again))
    assert not torch.equal(torch.isnan(first), torch.isnan(other))


def test_unknown_pixels_stay_missing_and_few_known_pixels_all_stay():
    depth, rgb = _maps()
    depth[:, :10] = torch.inf
    depth[:, 10:20] = torch.nan
    depth[5] = torch.nan
    depth[5, 0, :3] = 2.0  # fewer than the least share
    for way in WAYS:
        sparse = sparsify(depth, rgb, torch.Generator().manual_seed(1), way=way)
        assert torch.isnan(sparse[:5, :20]).all()
        assert torch.isfinite(sparse[:5]).float().mean((1, 2)).min() >= 0.02
        assert torch.equal(torch.isfinite(sparse[5]), torch.isfinite(depth[5]))


def test_points_prefer_texture():
    _, sparse = _run("sfm")
    valid = torch.isfinite(sparse).float()
    assert valid[..., 25:].mean() > 5 * valid[..., :23].mean()


def test_lidar_gives_lines():
    _, sparse = _run("lidar")
    valid = torch.isfinite(sparse).float()
    rows = valid.mean(2).sort(1, descending=True).values  # share of each row that is valid
    assert (valid.mean((1, 2)) < 0.13).all()
    # Uniform points at 12 % would leave no row of 48 empty (0.88^48 = 0.2 %); lines leave most rows empty.
    assert (rows == 0).float().mean() > 0.4


def test_regions_lose_what_is_far_and_shiny():
    depth, rgb = _maps(16)
    shiny = torch.zeros_like(depth, dtype=torch.bool)
    shiny[:, :, :24] = True
    sparse = sparsify(depth, rgb, torch.Generator().manual_seed(0), shiny=shiny, way="regions")
    valid = torch.isfinite(sparse).float()
    assert valid[:, :24].mean() > 1.3 * valid[:, 24:].mean()  # the near half against the far half
    assert valid[:, :, 24:].mean() > 1.3 * valid[:, :, :24].mean()


@pytest.mark.parametrize(("depth", "way", "text"), [((2, 8, 9), "lidar", "expected"), ((2, 8, 8), "sonar", "sonar")])
def test_wrong_input_is_named(depth, way, text):
    with pytest.raises(ValueError, match=text):
        sparsify(torch.ones(depth), torch.ones(2, 3, 8, 8), torch.Generator(), way=way)
