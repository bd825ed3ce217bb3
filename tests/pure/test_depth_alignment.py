"""Alignment and errors: exact answers, outliers, and the linear program as the judge."""

import numpy as np
import pytest
import torch
from modality_forcing.model.depth import alignment
from modality_forcing.model.depth.alignment import evaluate, fit_distance, fit_points, fit_reference

INF, NAN = float("inf"), float("nan")


def scene(height=60, width=80, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.5, 5.0, (height, width)).astype(np.float32))


def test_the_grid_takes_the_pixel_nearest_to_each_cells_centre():
    valid = np.ones((6, 6), dtype=bool)
    # 2×2 cells of 3×3 pixels: their centres are the pixels (1,1), (1,4), (4,1), (4,4).
    assert alignment.masked_nearest(valid, 2).tolist() == [7, 10, 25, 28]
    valid[1, 1] = valid[0, 1] = valid[1, 0] = valid[1, 2] = False
    valid[3:, 3:] = False
    valid[5, 5] = True
    assert alignment.masked_nearest(valid, 2).tolist() == [13, 10, 25, 35]
    valid[:3] = False
    assert alignment.masked_nearest(valid, 2).tolist() == [25, 35]


def test_small_maps_give_every_valid_pixel():
    valid = np.zeros((3, 5), dtype=bool)
    valid[1, 2] = valid[2, 4] = True
    assert alignment.masked_nearest(valid).tolist() == [7, 14]
    assert len(alignment.masked_nearest(np.ones((128, 256), dtype=bool))) == 64 * 64


def test_scale_by_hand():
    # |1·a − 2|/2 + |2·a − 4|/4 + |3·a − 30|/30: weights p/g = 0.5, 0.5, 0.1 on the ratios 2, 2, 10.
    assert alignment.solve_scale(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 30.0])) == 2.0


@pytest.mark.parametrize("seed", range(12))
def test_scale_and_shift_reach_the_linear_programs_optimum(seed):
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(seed)
    count = int(random.integers(3, 80))
    p = random.uniform(0.3, 5.0, count)
    g = np.abs(2 * p + 0.7 + random.normal(0, 0.1, count)) + 0.05
    g = np.where(random.random(count) < 0.3, random.uniform(0.2, 12.0, count), g)
    if seed % 2:  # many samples coincide, many lines tie
        p, g = np.round(p, 1), np.round(g, 1) + 0.1
    scale, shift = alignment.solve_scale_shift(p, g)
    cost = np.sum(np.abs(scale * p + shift - g) / g)
    ones, slack = np.ones((count, 1)), np.eye(count)
    rows = np.block([[p[:, None], ones, -slack], [-p[:, None], -ones, -slack]])
    best = optimize.linprog(
        np.concatenate(([0, 0], 1 / g)),
        A_ub=rows,
        b_ub=np.concatenate((g, -g)),
        bounds=[(None, None)] * 2 + [(0, None)] * count,
    )
    assert cost <= best.fun * (1 + 1e-9)


def test_a_line_is_found_under_forty_percent_of_outliers():
    random = np.random.default_rng(3)
    p = random.uniform(0.5, 5.0, 500)
    g = 3.0 * p + 1.0
    g[:200] = random.uniform(1.0, 30.0, 200)
    np.testing.assert_allclose(alignment.solve_scale_shift(p, g), (3.0, 1.0), rtol=1e-9)


def test_evaluation_of_an_affine_prediction_is_perfect():
    reference = scene()[None].repeat(2, 1, 1)
    predicted = torch.stack(((reference[0] - 0.25) / 2, reference[1] * 8))
    errors = evaluate(predicted, reference)
    torch.testing.assert_close(errors.scale, torch.tensor([2.0, 0.125], dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(errors.shift, torch.tensor([0.25, 0.0], dtype=torch.float64), rtol=0, atol=1e-5)
    assert errors.abs_rel.max() < 1e-6 and errors.delta1.tolist() == [1.0, 1.0] and errors.coverage.tolist() == [1, 1]


def test_errors_by_hand():
    fitted, reference = np.array([1.0, 2.0, 3.0, -1.0]), np.array([1.0, 1.0, 4.0, 1.0])
    # |0|, 1, 1/4, 2; ratios 1, 2, 4/3, and a negative depth.
    assert alignment.depth_errors(fitted, reference) == (3.25 / 4, 0.25)


def test_evaluation_masks():
    reference, predicted = scene()[None].clone(), scene()[None].clone()
    reference[0, 0, :] = 0.0
    reference[0, 1, 0] = NAN
    predicted[0, 2, :] = INF
    mask = torch.ones(1, 60, 80, dtype=torch.bool)
    mask[0, 30:] = False
    errors = evaluate(predicted, reference, None, mask)
    assert errors.abs_rel[0] < 1e-6
    assert errors.coverage.item() == pytest.approx(1 - 80 / (29 * 80 - 1))
    nothing = evaluate(predicted, reference, torch.zeros_like(mask))
    assert torch.isnan(nothing.abs_rel).all() and nothing.coverage.tolist() == [0.0]
    with pytest.raises(ValueError, match="equal shapes"):
        evaluate(predicted, reference[:, :5])


def test_constant_prediction_is_scaled_only():
    errors = evaluate(torch.full((1, 8, 8), 2.0), torch.full((1, 8, 8), 6.0))
    assert (errors.scale.item(), errors.shift.item(), errors.abs_rel.item()) == (3.0, 0.0, 0.0)


def test_known_distance():
    depth = scene()
    depth[9:12, 19:22] = 2.0
    depth[10, 20] = 50.0  # one stray pixel does not matter
    fit = fit_distance(depth, None, 20.4, 10.9, 3.0)
    assert (fit.scale, fit.shift, fit.used) == (1.5, 0.0, 9)
    assert fit.residual == pytest.approx((75 - 3) / 3)
    fitted, valid = fit.apply(depth)
    assert valid.all() and torch.equal(fitted, depth * 1.5)


def test_known_distance_needs_depth_there():
    depth = torch.full((5, 5), NAN)
    depth[0, 0] = 2.0
    assert fit_distance(depth, None, 1.5, 1.5, 4.0).scale == 2.0
    with pytest.raises(ValueError, match="no depth at pixel"):
        fit_distance(depth, None, 3.0, 3.0, 4.0)
    with pytest.raises(ValueError, match="outside"):
        fit_distance(depth, None, 5.0, 0.0, 4.0)
    with pytest.raises(ValueError, match="distance"):
        fit_distance(depth, None, 0.0, 0.0, 0.0)


def test_ten_points_with_three_outliers():
    depth = scene()
    random = np.random.default_rng(5)
    x, y = random.integers(0, 80, 10), random.integers(0, 60, 10)
    distance = 4.0 * depth.numpy()[y, x] + 0.5
    distance[:3] *= [3.0, 0.2, 2.0]
    fit = fit_points(depth, None, np.stack((x + 0.5, y + 0.5, distance), 1), with_shift=True)
    assert fit.scale == pytest.approx(4.0, rel=1e-5) and fit.shift == pytest.approx(0.5, abs=1e-4)
    assert (fit.used, fit.outliers, fit.dropped) == (7, 3, 0)
    assert fit.residual < 1e-6 and fit.worst == pytest.approx(4.0, rel=1e-3)  # the point at 0.2 × its distance
    alone = fit_points(depth, None, np.stack((x + 0.5, y + 0.5, distance - 0.5), 1)[3:])
    assert alone.scale == pytest.approx(4.0, rel=1e-5) and alone.outliers == 0


def test_three_noisy_points_are_all_used():
    depth = torch.tensor([[1.0, 2.0, 3.0]])
    points = torch.tensor([[0.5, 0.5, 2.0], [1.5, 0.5, 4.1], [2.5, 0.5, 6.0]])
    assert fit_points(depth, None, points, with_shift=True).used == 3
    assert fit_points(depth, None, points).scale == 2.0


def test_many_noisy_points_with_forty_percent_wrong():
    depth = scene(300, 400)
    random = np.random.default_rng(2)
    x, y = random.integers(0, 400, 20000), random.integers(0, 300, 20000)
    distance = (2.0 * depth.numpy()[y, x] + 0.3) * random.normal(1.0, 0.01, 20000)
    distance[:8000] = random.uniform(0.2, 3.0, 8000)
    fit = fit_points(depth, None, np.stack((x + 0.5, y + 0.5, distance), 1), with_shift=True)
    assert fit.scale == pytest.approx(2.0, rel=0.01) and fit.shift == pytest.approx(0.3, abs=0.02)
    assert 0.005 < fit.residual < 0.015 and 7000 < fit.outliers < 8500


def test_unusable_points_are_dropped_and_counted():
    depth = torch.full((4, 4), 2.0)
    depth[0, 0] = NAN
    points = torch.tensor(
        [[1.5, 1.5, 6.0], [0.5, 0.5, 6.0], [9.0, 1.0, 6.0], [1.0, -1.0, 6.0], [1.0, 1.0, NAN], [1, 1, 0]]
    )
    fit = fit_points(depth, None, points)
    assert (fit.scale, fit.used, fit.dropped, fit.residual) == (3.0, 1, 5, 0.0)
    with pytest.raises(ValueError, match="at least 2"):
        fit_points(depth, None, points, with_shift=True)
    with pytest.raises(ValueError, match="same depth"):
        fit_points(depth, None, torch.tensor([[1.0, 1.0, 6.0], [2.0, 2.0, 7.0]]), with_shift=True)
    with pytest.raises(ValueError, match=r"\(N,3\)"):
        fit_points(depth, None, torch.ones(3))


def test_a_reference_of_another_resolution():
    depth = scene(30, 40)
    reference = (depth * 2.5).repeat_interleave(2, 0).repeat_interleave(2, 1)
    fit = fit_reference(depth, None, reference)
    assert fit.scale == pytest.approx(2.5, rel=1e-6) and fit.residual < 1e-6
    with pytest.raises(ValueError, match="other proportions"):
        fit_reference(depth, None, reference[:40])
    with pytest.raises(ValueError, match="0 of 0"):
        fit_reference(depth, torch.zeros_like(depth), reference)
    with pytest.raises(ValueError, match="map by map"):
        fit_reference(depth[None].repeat(2, 1, 1), None, reference)


def test_inverted_depth_is_refused():
    depth = scene()
    with pytest.raises(ValueError, match="inverted"):
        fit_reference(depth, None, 6.0 - depth, with_shift=True)


def test_what_a_shift_takes_behind_the_camera_is_invalid():
    fitted, valid = alignment.Fit(1.0, -1.0, 0.0, 0.0, 2).apply(torch.tensor([[0.5, 3.0]]))
    assert valid.tolist() == [[False, True]] and fitted[0, 1] == 2.0 and torch.isnan(fitted[0, 0])
