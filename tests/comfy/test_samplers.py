"""Core's samplers on tilted trajectories: all finite, the deterministic ones converge to the known answer."""

import pytest
import torch
from graphs import Graph, relative_error

MEAN, STD, LOG2_ALPHA = 0.5, 0.4, 2.0
DETERMINISTIC = [
    "euler",
    "heun",
    "heunpp2",
    "dpm_2",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2m",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "gradient_estimation",
    "uni_pc",
    "uni_pc_bh2",
    "ddim",
]
STOCHASTIC = [
    "euler_ancestral",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "lcm",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
]


def sampled(case, sampler, steps, log2_alpha=LOG2_ALPHA, gaussian=True):
    graph = Graph()
    model = case.model(graph)
    if gaussian:
        model = graph.add("TestGaussianModel", model=model, mean=MEAN, std=STD)
    schedule = graph.add("ModalityForcingSchedule", model=model, steps=steps, shift=1.1, log2_alpha=log2_alpha)
    conditions = case.texts(graph)
    return torch.cat(case.run(graph, case.custom_sampler(graph, schedule, schedule[1], conditions, 1.0, sampler)), 1)


@pytest.fixture
def case(make_case):
    """The golden model on ordinary noise: its own is not needed here."""
    case = make_case("v2")
    case.tensors["noise"] = torch.randn((1, 384, 4, 4), generator=torch.manual_seed(11))
    case.write()
    return case


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_deterministic_samplers_converge(case, sampler):
    """The exact flow carries noise e to mean + std e, in both modalities, whatever the tilt."""
    want = MEAN + STD * case.tensors["noise"]
    coarse, fine = (relative_error(sampled(case, sampler, steps), want) for steps in (20, 160))
    assert fine < 0.06
    assert fine < 0.25 * coarse


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_stochastic_samplers_reach_the_distribution(case, sampler):
    got = sampled(case, sampler, 80)
    for part in got.split([128, 256], dim=1):
        assert abs(float(part.mean()) - MEAN) < 0.05
        assert 0.55 * STD < float(part.std()) < 1.15 * STD


@pytest.mark.parametrize("sampler", DETERMINISTIC + STOCHASTIC)
def test_real_network_stays_finite(case, sampler):
    got = sampled(case, sampler, 6, log2_alpha=5.0, gaussian=False)
    assert got.isfinite().all()
    assert float(got.std()) > 0.01
