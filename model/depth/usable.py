"""The one meaning of usable depth, for all rooms: valid, finite and above 0; and ranks among such depths."""

import torch
from torch import Tensor


def usable_depth(depth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Bool of the depth's shape, on its device. `valid`: bool, or a mask of which more than 0.5 counts; None: all.

    ValueError unless depth is a tensor with at least one pixel and valid has its shape.
    """
    if not isinstance(depth, Tensor) or depth.is_complex() or depth.numel() == 0:
        raise ValueError(f"got depth {describe(depth)}, expected a tensor of numbers with at least one pixel")
    usable = (depth > 0) & (depth < torch.inf)  # NaN is neither
    if valid is None:
        return usable
    if not isinstance(valid, Tensor) or valid.is_complex() or valid.shape != depth.shape:
        raise ValueError(f"got a mask {describe(valid)} for depth {tuple(depth.shape)}, expected the same shape")
    keep = valid if valid.dtype == torch.bool else valid > 0.5
    return usable & keep.to(depth.device)


def usable_maps(depth: Tensor, valid: Tensor | None = None) -> Tensor:
    """`usable_depth` of maps (B,H,W); ValueError for other shapes."""
    if not isinstance(depth, Tensor) or depth.ndim != 3:
        raise ValueError(f"got depth {describe(depth)}, expected a tensor (B,H,W) with at least one pixel")
    return usable_depth(depth, valid)


def ranked(values: Tensor, share: float) -> Tensor:
    """The value below which `share` of the values lie (nearest rank, scalar tensor); 0 where there are none."""
    if values.numel() == 0:
        return values.new_zeros(())
    if share in (0.0, 1.0):
        return values.amin() if share == 0.0 else values.amax()
    # On the CPU: kthvalue has no limit of 16 million values as quantile has, and is not on every device.
    rank = 1 + round(share * (values.numel() - 1))
    return values.cpu().float().kthvalue(rank).values.to(values.device)


def describe(value: object) -> str:
    """Of what shape or type something is, for a message."""
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
