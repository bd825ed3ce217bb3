"""Depth as pictures, and pictures as depth.

A picture value v in 0..1 comes from the mapped depth m(d): with `far-white`, v = (m(d) − m(near)) / (m(far) − m(near));
with `near-white`, v = 1 − that. m is 1/d for "disparity", d for "linear", log d for "log". "raw" is the depth itself,
unscaled.

Defaults are what depth ControlNets were trained on (MiDaS pictures, and core's MoGeRender): disparity, near white,
range of each image. MiDaS takes the plain minimum and maximum; we let 0.1 % at both ends saturate, as core does, so
that one stray pixel cannot darken the picture (0 gives MiDaS's rule). Invalid pixels get the far end's colour, black
there: what an estimator shows for sky.

Shapes: depth (B,H,W), valid (B,H,W) bool, pictures (B,H,W,3) float32 in 0..1, on the device of the depth.
"""

import math

import torch
from torch import Tensor

from .colour_maps import COLOUR_MAPS, apply_colour_map
from .usable import describe, ranked, usable_depth, usable_maps

MAPPINGS = ("disparity", "linear", "log", "raw")
POLARITIES = ("near-white", "far-white")
RANGES = ("per image", "per batch", "fixed")
INVALID_COLOURS = ("far", "near", "black", "white")
DEFAULT_CLIP_PERCENT = 0.1
OVERSHOOT = 0.1
SMALLEST, LARGEST = 1e-30, 1e30  # of near and far

# What a depth picture from elsewhere may mean: (mapping, polarity). "metric" values are the depth over a scale.
MEANINGS = {
    "disparity near-white": ("disparity", "near-white"),
    "disparity far-white": ("disparity", "far-white"),
    "depth far-white": ("linear", "far-white"),
    "depth near-white": ("linear", "near-white"),
    "log depth far-white": ("log", "far-white"),
    "log depth near-white": ("log", "near-white"),
    "metric": ("raw", "far-white"),
}


def depth_picture(
    depth: Tensor,
    valid: Tensor | None = None,
    *,
    mapping: str = "disparity",
    polarity: str = "near-white",
    range_from: str = "per image",
    near: float | None = None,
    far: float | None = None,
    clip_percent: float = DEFAULT_CLIP_PERCENT,
    colour_map: str = "grey",
    invalid_colour: str = "far",
) -> Tensor:
    """Picture (B,H,W,3) of depth (B,H,W).

    `range_from`: "per image", "per batch" (no flicker within a video), or "fixed" with `near` and `far` in the depth's
    unit. `clip_percent`: share of valid pixels, in percent, that may saturate at each end of a measured range (0 to
    49). Pixels that are NaN, infinite, zero, negative or not valid get `invalid_colour`. A constant depth has no range:
    it becomes 0.5. "raw" copies the depth into three channels as it is, invalid pixels as 0; range, polarity and clip
    do not apply to it.
    """
    _check_choices(mapping=mapping, polarity=polarity, range_from=range_from, invalid_colour=invalid_colour)
    if colour_map not in COLOUR_MAPS:
        raise ValueError(f"got colour map {colour_map!r}, expected one of {list(COLOUR_MAPS)}")
    usable, depth = usable_maps(depth, valid), depth.float()
    if mapping == "raw":
        if colour_map != "grey":
            raise ValueError(
                f"raw depth has no range to colour; use colour map 'grey', or another mapping than {mapping!r}"
            )
        return torch.where(usable, depth, 0.0)[..., None].repeat(1, 1, 1, 3)
    mapped = _map(torch.where(usable, depth, 1.0), mapping)
    if range_from == "fixed":
        at_near, at_far = (_map(mapped.new_tensor(value), mapping) for value in _check_near_far(near, far))
    else:
        low, high = _measured_range(mapped, usable, range_from == "per batch", clip_percent)
        at_near, at_far = (high, low) if mapping == "disparity" else (low, high)
    span = at_far - at_near
    flat = span == 0
    farness = torch.where(flat, 0.5, (mapped - at_near) / torch.where(flat, 1.0, span)).clamp(0.0, 1.0)
    values = 1.0 - farness if polarity == "near-white" else farness
    colours = apply_colour_map(values, colour_map)
    return torch.where(usable[..., None], colours, _invalid_colour(invalid_colour, polarity, colour_map).to(colours))


def depth_from_picture(
    picture: Tensor,
    meaning: str,
    *,
    near: float = 1.0,
    far: float = 10.0,
    scale: float = 1.0,
    black_is_invalid: bool = False,
) -> tuple[Tensor, Tensor]:
    """Depth (B,H,W) and valid (B,H,W) of a grey picture (B,H,W,3) or (B,H,W) in 0..1: the inverse of `depth_picture`.

    The meaning (a key of MEANINGS) is stated, never guessed. `near` and `far` are the depths of the two ends; a picture
    of relative depth does not hold them, so they are a choice (a larger far/near means more relief). "metric": depth =
    value · `scale`, where 0 is invalid. `black_is_invalid`: holes or sky are drawn as 0. NaN and infinite values are
    invalid; invalid depth is NaN. Values up to OVERSHOOT beyond 0..1, as resampling leaves them, count as 0 or 1.
    Raises ValueError for values farther outside, for a colour-mapped picture and for unknown meanings.
    """
    if meaning not in MEANINGS:
        raise ValueError(f"got meaning {meaning!r}, expected one of {list(MEANINGS)}")
    values = grey_channel(picture)
    mapping, polarity = MEANINGS[meaning]
    valid = torch.isfinite(values)
    if mapping == "raw":
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"got scale {scale}, expected a positive number: the depth of the value 1")
        depth = values * scale
        valid &= usable_depth(depth)
    else:
        near, far = _check_near_far(near, far)
        _check_picture_range(values, valid, meaning)
        at_near, at_far = (_map(values.new_tensor(value), mapping) for value in (near, far))
        farness = 1.0 - values if polarity == "near-white" else values
        mapped = at_near + farness.clamp(0.0, 1.0) * (at_far - at_near)
        depth = _unmap(mapped.clamp_min(torch.minimum(at_near, at_far)), mapping)  # rounding may reach 0, far's inverse
    if black_is_invalid:
        valid &= values > 0
    return torch.where(valid, depth, torch.nan), valid


def far_mask(depth: Tensor, valid: Tensor | None = None, *, ratio: float = 5.0, holes_are_far: bool = True) -> Tensor:
    """(B,H,W) bool: sky and background, the pixels beyond `ratio` × the median depth of their image.

    `holes_are_far`: pixels without usable depth count too. Right for generated depth and for MoGe, where a hole is what
    the network put at infinity; wrong for depth sensors, which have holes anywhere.
    """
    if not ratio > 0:
        raise ValueError(f"got ratio {ratio}, expected a positive multiple of the median depth")
    usable, depth = usable_maps(depth, valid), depth.float()
    median = torch.stack([ranked(d[u], 0.5) for d, u in zip(depth, usable, strict=True)])[:, None, None]
    beyond = usable & (depth > ratio * median)
    return beyond | ~usable if holes_are_far else beyond


def grey_channel(picture: Tensor) -> Tensor:
    """(B,H,W) of a grey picture (B,H,W,≥1) or (B,H,W); ValueError where its channels differ (colour map)."""
    if not isinstance(picture, Tensor) or picture.is_complex() or picture.numel() == 0 or picture.ndim not in (3, 4):
        raise ValueError(f"got a picture {describe(picture)}, expected a tensor (B,H,W) or (B,H,W,3)")
    if picture.ndim == 3:
        return picture.float()
    channels = picture[..., :3].float()
    spread = (channels.amax(-1) - channels.amin(-1)).nan_to_num(0.0, 0.0, 0.0).mean()
    # 2 % of white: above the chroma noise of a JPEG, far below any colour map.
    if picture.shape[-1] >= 3 and float(spread) > 0.02:
        raise ValueError(
            f"this picture is coloured (its channels differ by {float(spread):.2f} on average), "
            "so its values are not depth; use a grey depth picture"
        )
    return channels.mean(-1)


def _measured_range(mapped: Tensor, usable: Tensor, whole_batch: bool, clip_percent: float) -> tuple[Tensor, Tensor]:
    """Low and high of the mapped depth, (B,1,1), or (1,1,1) for the whole batch."""
    if not 0.0 <= clip_percent < 50.0:
        raise ValueError(f"got clip_percent = {clip_percent}, expected 0 or more and less than 50")
    groups = [mapped[usable]] if whole_batch else [m[u] for m, u in zip(mapped, usable, strict=True)]
    share = clip_percent / 100.0
    low = torch.stack([ranked(group, share) for group in groups])
    high = torch.stack([ranked(group, 1.0 - share) for group in groups])
    return low[:, None, None], high[:, None, None]


def _map(depth: Tensor, mapping: str) -> Tensor:
    if mapping == "disparity":
        return 1.0 / depth.clamp_min(torch.finfo(depth.dtype).tiny)  # smaller ones have no inverse
    return torch.log(depth) if mapping == "log" else depth


def _unmap(mapped: Tensor, mapping: str) -> Tensor:
    if mapping == "disparity":
        return 1.0 / mapped
    return torch.exp(mapped) if mapping == "log" else mapped


def _invalid_colour(name: str, polarity: str, colour_map: str) -> Tensor:
    if name in ("black", "white"):
        return torch.full((3,), float(name == "white"))
    top = (name == "near") == (polarity == "near-white")
    return apply_colour_map(torch.tensor(float(top)), colour_map)


def _check_picture_range(values: Tensor, known: Tensor, meaning: str) -> None:
    beyond = known & ((values < -OVERSHOOT) | (values > 1.0 + OVERSHOOT))
    if beyond.any():
        low, high = float(values[known].min()), float(values[known].max())
        raise ValueError(
            f"got values from {low:.4g} to {high:.4g}, but a picture of {meaning!r} holds 0..1. For values that are "
            "depth choose the meaning 'metric'; else divide by the value of white"
        )


def _check_near_far(near: float | None, far: float | None) -> tuple[float, float]:
    if near is None or far is None or not 0.0 < near < far:
        raise ValueError(f"got near = {near} and far = {far}, expected 0 < near < far in the unit of the depth")
    if near < SMALLEST or far > LARGEST:
        raise ValueError(
            f"got near = {near} and far = {far}, expected {SMALLEST:g} to {LARGEST:g}: float32 holds the inverse and "
            "the logarithm of nothing smaller or larger"
        )
    return near, far


def _check_choices(**chosen: str) -> None:
    choices = {"mapping": MAPPINGS, "polarity": POLARITIES, "range_from": RANGES, "invalid_colour": INVALID_COLOURS}
    for name, value in chosen.items():
        if value not in choices[name]:
            raise ValueError(f"got {name} {value!r}, expected one of {list(choices[name])}")
