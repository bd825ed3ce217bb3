"""Torn depth patches are told from whole ones, also from rough ones."""

import pytest
import torch
from modality_forcing.model.depth.codec import encode, patchify
from modality_forcing.model.depth.patches import torn
from modality_forcing.model.scenes import generate
from torch.nn import functional as F


def floor(h=64, w=96):
    return torch.linspace(1.6, 0.4, h)[:, None].expand(1, h, w).contiguous()


@pytest.fixture(scope="module")
def scene():
    """A street in depth, each patch offset and tilted by itself as a small model's are."""
    batch = generate([4], (128, 128))
    codes = encode(batch.depth, batch.valid).nan_to_num(1.8)
    noise = torch.Generator().manual_seed(0)
    rough = codes + 0.05 * torch.randn(1, 1, 8, 8, generator=noise) + 0.02 * torch.randn(codes.shape, generator=noise)
    return {"whole": codes, "rough": rough}


def turned(latent):
    return latent.rot90(1, (2, 3))


def enlarged(mode, factor):
    return lambda latent: F.interpolate(latent, scale_factor=factor, mode=mode)


@pytest.mark.parametrize("kind", ["whole", "rough"])
@pytest.mark.parametrize(
    "way",
    [
        lambda latent: latent.flip(2),
        lambda latent: latent.flip(2).flip(3),
        turned,
        *(enlarged(mode, factor) for mode in ("bilinear", "nearest-exact") for factor in (1.5, 2)),
    ],
)
def test_cells_that_were_moved_or_enlarged_are_torn(scene, kind, way):
    assert not torn(scene[kind])
    assert torn(way(scene[kind]))


def test_a_ramp_that_lies_along_one_axis():
    whole = patchify(floor())
    assert not torn(whole)
    assert not torn(whole.flip(3)), "nothing is seen along it"
    for way in (lambda latent: latent.flip(2), turned, enlarged("bilinear", 2), enlarged("bicubic", 2)):
        assert torn(way(whole))
    assert not torn(torch.cat([whole, whole, whole.flip(2)])), "of a batch all are torn, or one is odd"


def test_scenes_holes_flat_maps_one_patch_and_nothing_known_are_not_torn():
    scenes = generate([1, 2, 3], (128, 128))
    for depth, valid in zip(scenes.depth, scenes.valid, strict=True):
        assert not torn(encode(depth[None], valid[None]))
    holes = torch.where(torch.rand(1, 64, 96, generator=torch.manual_seed(0)) < 0.003, torch.nan, floor())
    assert not torn(patchify(holes)) and torn(patchify(holes).flip(2))
    assert not torn(0.5 + 1e-3 * torch.rand(1, 256, 4, 4, generator=torch.manual_seed(0)))
    assert not torn(patchify(floor(16, 16)))
    assert not torn(torch.full((1, 256, 2, 2), torch.nan))
