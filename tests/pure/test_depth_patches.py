"""Torn depth patches are told from whole ones."""

import torch
from modality_forcing.model.depth.codec import encode, patchify
from modality_forcing.model.depth.patches import ENLARGED, MOVED, tear
from modality_forcing.model.scenes import generate
from torch.nn import functional as F


def floor(h=64, w=96):
    return torch.linspace(1.6, 0.4, h)[:, None].expand(1, h, w).contiguous()


def test_a_ramp_steps_one_pixel_across_borders_and_sixteen_to_the_next_patch():
    assert abs(tear(patchify(floor())) - 1 / 16) < 1e-4


def test_cells_that_were_moved_or_enlarged_are_torn():
    """Flipped cells: each border steps by 31 pixels of the ramp. Enlarged twice: back by 15 of 8."""
    whole = patchify(floor())
    assert abs(tear(whole.flip(-2)) - 31 / 16) < 1e-4
    assert tear(whole.rot90(1, (2, 3))) > MOVED
    for mode in ("bilinear", "bicubic", "nearest-exact"):
        assert tear(F.interpolate(whole, scale_factor=2, mode=mode)) > ENLARGED
    assert tear(torch.cat([whole, whole, whole.flip(-2)])) < 0.1, "of a batch all are torn, or one is rough"


def test_scenes_holes_flat_maps_one_patch_and_nothing_known_are_not_torn():
    scenes = generate([1, 2, 3], (128, 128))
    assert tear(encode(scenes.depth, scenes.valid)) < 0.3
    holes = patchify(torch.where(torch.rand(1, 64, 96, generator=torch.manual_seed(0)) < 0.3, torch.nan, floor()))
    assert tear(holes) < 0.1
    assert tear(0.5 + 1e-3 * torch.rand(1, 256, 4, 4, generator=torch.manual_seed(0))) < 0.3
    assert tear(patchify(floor(16, 16))) == 0
    assert tear(torch.full((1, 256, 2, 2), torch.nan)) == 0
