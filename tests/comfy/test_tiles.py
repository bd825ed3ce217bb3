"""Any run in tiles: with a network that looks at each cell by itself, tiles must change nothing."""

import pytest
import torch
from graphs import Graph, relative_error
from modality_forcing.tasks.host.server import GraphError

H, W, TILE = 6, 9, 64
STEPS = 3


@pytest.fixture
def case(make_case):
    """Two samples of 144 x 96 pixels."""
    case = make_case("v2")
    generator = torch.Generator().manual_seed(3)
    for name, channels in (("rgb", 128), ("depth", 256), ("noise", 384)):
        case.tensors[name] = torch.randn(2, channels, H, W, generator=generator)
    case.tensors["depth"] = case.tensors["depth"].sigmoid()
    case.tensors["mask"] = (torch.rand(2, 16 * H, 16 * W, generator=generator) < 0.5).float()
    case.tensors["small"] = case.tensors["depth"][:1, :, :3, :4].contiguous()
    case.write()
    return case


def sampled(
    case,
    tile=TILE,
    mode="joint",
    sampler="euler",
    log2_alpha=2.0,
    plain=True,
    reference=False,
    keep=False,
    beside=None,
    count=None,
    **given,
):
    """tile 0: without the node. plain: the network that looks at each cell by itself. keep: a noise mask."""
    graph = Graph()
    model = case.model(graph)
    if count is not None:
        model = graph.add("TestCountPasses", model=model, file=str(count))
    if plain:
        model = graph.add("TestGaussianModel", model=model, mean=0.5, std=0.4)
    node = graph.add("ModalityForcingSchedule", model=model, steps=STEPS, shift=1.1, log2_alpha=log2_alpha)
    model = node
    if tile:
        small = {"reference": case.load(graph, "Latent", "small")} if reference else {}
        model = graph.add("ModalityForcingTileModel", model=model, tile=tile, overlap=32, **small)
    if beside is not None:
        model = graph.add(beside[0], model=model, **beside[1])
    if given.pop("masked", False):
        given["mask"] = case.load(graph, "Mask", "mask")
    conditions = case.condition(graph, mode, case.texts(graph), **given)
    latent = None
    if keep:
        latent = graph.add(
            "SetLatentNoiseMask", samples=case.load(graph, "Latent", "noise"), mask=case.load(graph, "Mask", "mask")
        )
    return torch.cat(
        case.run(graph, case.custom_sampler(graph, model, node[1], conditions, 3.0, sampler, latent)), dim=1
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"log2_alpha": 5.0},
        {"sampler": "dpmpp_2m_sde", "log2_alpha": -2.0},
        {"sampler": "heun", "keep": True},
        {"mode": "i2d", "sampler": "dpmpp_2m", "strength": 0.6},
        {"mode": "i2d", "masked": True},
        {"mode": "d2i", "sampler": "euler_ancestral", "strength": 0.4, "masked": True},
    ],
)
def test_tiles_change_nothing_for_a_network_that_sees_cells_alone(case, tmp_path, settings):
    file = tmp_path / "sizes.txt"
    want = sampled(case, tile=0, **settings)
    assert relative_error(sampled(case, count=file, **settings), want) < 1e-4
    assert {line.split()[1] for line in file.read_text().splitlines()} == {str(TILE // 16)}


@pytest.mark.parametrize("mode", ["joint", "d2i"])
def test_what_fits_into_a_tile_is_sampled_as_without(case, mode):
    want = sampled(case, tile=0, plain=False, mode=mode)
    assert torch.equal(sampled(case, tile=160, plain=False, mode=mode), want)


def test_a_reference_says_the_scale_and_given_depth_stays(case):
    free, bound = (sampled(case, plain=False, reference=reference) for reference in (False, True))
    assert bound.isfinite().all() and not torch.equal(free, bound)
    given = sampled(case, plain=False, reference=True, mode="d2i")[:, 128:]
    assert relative_error(given, case.tensors["depth"]) < 1e-5


def test_what_does_not_go_with_tiles_is_refused(case):
    with pytest.raises(GraphError, match="tiles of 64 pixels with an overlap of 64"):
        graph = Graph()
        tiled = graph.add("ModalityForcingTileModel", model=case.model(graph), tile=64, overlap=64)
        case.run(graph, case.custom_sampler(graph, tiled, None, case.texts(graph), 1.0))
    cache = ("EasyCache", {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False})
    with pytest.raises(GraphError, match="EasyCache and RGB-D Tiles"):
        sampled(case, beside=cache)
    case.tensors["small"] = case.tensors["small"].expand(3, -1, -1, -1)
    case.write()
    with pytest.raises(GraphError, match="reference of 3 maps for a batch of 2"):
        sampled(case, reference=True)
