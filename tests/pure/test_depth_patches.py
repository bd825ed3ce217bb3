"""Torn depth patches are told from whole ones."""

import torch
from modality_forcing.model.depth.codec import patchify
from modality_forcing.model.depth.patches import TORN_RATIO, border_ratio


def floor(h=64, w=96):
    return torch.linspace(1.6, 0.4, h)[:, None].expand(1, h, w).contiguous()


def test_a_smooth_map_is_whole_and_steps_alike_across_borders():
    """A ramp steps evenly: in 3 x 96 of 608 steps over borders, in half of the others. 0.4737 / 0.5."""
    assert abs(border_ratio(patchify(floor())) - 0.947) < 0.001


def test_latents_flipped_or_rotated_by_cells_are_torn():
    """Flipped cells: each border steps by 31 pixels of the ramp instead of one."""
    whole = patchify(floor())
    assert abs(border_ratio(whole.flip(-2)) - 31) < 2
    assert border_ratio(whole.rot90(1, (2, 3))) > TORN_RATIO


def test_holes_one_patch_and_nothing_known_are_not_torn():
    holes = patchify(torch.where(torch.rand(1, 64, 96, generator=torch.manual_seed(0)) < 0.3, torch.nan, floor()))
    assert border_ratio(holes) < 2
    assert border_ratio(patchify(floor(16, 16))) == 0
    assert border_ratio(torch.full((1, 256, 2, 2), torch.nan)) == 0
