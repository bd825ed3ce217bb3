"""Sizes that the model takes (multiples of 16 pixels), and resampling of images, masks and depth to and from them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .network.config import DEPTH_PATCH as MULTIPLE

# From one pixel to the next, more than this share is another surface, unless it is a slope: steps at least SLOPE as
# large on both sides. Chosen on rendered scenes and on three depth cameras' maps, made 8 and 2 times smaller before:
# depth off by more than 4 % at 8 times is 2.5 -> 1.2 % of the pixels (scenes), 5.7 -> 2.0 and 6.4 -> 2.0 % (cameras).
SURFACE_STEP, SLOPE = 0.08, 0.25
_BLOCK = 1 << 19  # pixels worked on at once
_COLOUR = 0.1  # distance in 0..1 at which colours count as unlike
_LEAST_LIKE = 1e-3


def fitted_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The (width, height) to resize to: shrunk to `max_side` at the longer side, then each to its nearest multiple of
    16. The proportions change by at most 8 pixels a side."""
    scale = min(1.0, max_side / max(width, height))
    return tuple(max(MULTIPLE, MULTIPLE * round(size * scale / MULTIPLE)) for size in (width, height))


def cropped_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The (width, height) to crop to: shrunk to `max_side` at the longer side, then each down to a multiple of 16."""
    scale = min(1.0, max_side / max(width, height))
    return tuple(max(MULTIPLE, MULTIPLE * int(size * scale / MULTIPLE + 1e-6)) for size in (width, height))


def checked_images(images: object) -> Tensor:
    """Pictures as they came, or ValueError: a tensor of finite numbers (B,H,W,C) with at least one pixel."""
    if not isinstance(images, Tensor) or images.is_complex() or images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"got a picture {_describe(images)}, expected a tensor (batch, height, width, channels)")
    return _finite(images, "picture")


def checked_colours(images: object) -> Tensor:
    """The first three channels of `checked_images`, or ValueError: there may be more (alpha), but not fewer."""
    images = checked_images(images)
    if images.shape[-1] < 3:
        raise ValueError(f"got a picture {_describe(images)}, expected 3 channels, or 4 with alpha, in the last place")
    return images[..., :3]


def checked_masks(masks: object) -> Tensor:
    """Masks as (B,H,W), or ValueError: a tensor of finite numbers (B,H,W) or (H,W) with at least one pixel."""
    if not isinstance(masks, Tensor) or masks.is_complex() or masks.ndim not in (2, 3, 4) or masks.numel() == 0:
        raise ValueError(f"got a mask {_describe(masks)}, expected a tensor (batch, height, width)")
    return _finite(masks.reshape(-1, *masks.shape[-2:]), "mask")


def _finite(values: Tensor, what: str) -> Tensor:
    if not values.isfinite().all():
        raise ValueError(f"got a {what} that holds NaN or infinity; check the node that made it")
    return values


def _describe(value: object) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"


def centre_crop(images: Tensor, width: int, height: int) -> Tensor:
    """Cut (B,H,W,C) centrally to the proportions of `width` x `height`."""
    full_height, full_width = images.shape[1:3]
    scale = min(full_width / width, full_height / height)
    crop_width, crop_height = min(full_width, round(width * scale)), min(full_height, round(height * scale))
    left, top = (full_width - crop_width) // 2, (full_height - crop_height) // 2
    return images[:, top : top + crop_height, left : left + crop_width]


def resize_images(images: Tensor, width: int, height: int) -> Tensor:
    """(B,H,W,C) in 0..1 -> (B,height,width,C), bicubic with antialiasing."""
    if images.shape[1:3] == (height, width):
        return images
    planes = images.float().movedim(-1, 1)
    return F.interpolate(planes, (height, width), mode="bicubic", antialias=True).movedim(1, -1).clamp(0, 1)


def same_view(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether pictures of these sizes (width, height) can show the same view: the one rule for all rooms.

    They can if one scale brings the one to the other but for half a pixel of rounding in the smaller, or if one of them
    is what `fitted_size` makes of the other's proportions: sides of multiples of 16, brought there by at most 8 pixels.
    """
    small, large = sorted((size, other), key=lambda sides: sides[0] * sides[1])
    lowest = max((side - 0.5) / full for side, full in zip(small, large, strict=True))
    highest = min((side + 0.5) / full for side, full in zip(small, large, strict=True))
    return lowest <= highest or _fitted(size, other) or _fitted(other, size)


def _fitted(size: tuple[int, int], source: tuple[int, int]) -> bool:
    """Whether a size is the source's, as it is or shrunk or enlarged to the longer side, brought to multiples of 16."""
    scales = 1.0, max(size) / max(source)
    return not any(side % MULTIPLE for side in size) and any(
        all(abs(side - full * scale) <= MULTIPLE / 2 for side, full in zip(size, source, strict=True))
        for scale in scales
    )


def check_same_view(size: tuple[int, int], other: tuple[int, int], what: str, of: str) -> None:
    """ValueError unless `same_view`; `what` and `of` name the two, "an image" and "depth"."""
    if not same_view(size, other):
        raise ValueError(
            f"got {what} of {size[0]} x {size[1]} pixels for {of} of {other[0]} x {other[1]}: other proportions, so "
            "not the same view. Connect what belongs together, or crop or resize both alike"
        )


def pictures_of_view(images: object, count: int, width: int, height: int) -> Tensor:
    """The pictures (1 or count,H',W',3) of `count` depth maps of `width` x `height` pixels: one for all of them or one
    for each, of any size. ValueError for another number, and where they cannot show the same view."""
    images = checked_colours(images)
    if len(images) not in (1, count):
        raise ValueError(f"got {len(images)} images for {count} depth maps; expected 1 or one for each")
    check_same_view((images.shape[2], images.shape[1]), (width, height), "an image", "depth")
    return images


def resize_depth(
    depth: Tensor, valid: Tensor, width: int, height: int, image: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Resample depth (B,H,W) with its valid mask to (B,height,width).

    Enlarging is bilinear within a surface and never across an edge of depth: where the four pixels around lie on
    several surfaces (see `_links`), the one that weighs most is taken alone, so an edge stays a step from one pixel to
    the next. `image` (B or 1,H',W',≥3) in 0..1 of the same view, of any size, says which side a pixel is on by its
    colour. Holes keep their place (nearest pixel) and never bleed. Shrinking takes the nearest pixel.
    """
    if depth.shape[1:] == (height, width):
        return depth, valid
    kept = F.interpolate(valid[:, None].float(), (height, width), mode="nearest-exact")[:, 0] > 0.5
    values = torch.where(valid, depth, 0)
    if height < depth.shape[1] or width < depth.shape[2]:
        return F.interpolate(values[:, None], (height, width), mode="nearest-exact")[:, 0], kept
    across, down = _links(values, valid, 2), _links(values, valid, 1)
    guide = None if image is None else _guide(image, depth, width, height)
    enlarged = torch.empty(len(depth), height, width, dtype=depth.dtype, device=depth.device)
    rows = max(1, _BLOCK // (width * len(depth)))
    for top in range(0, height, rows):
        block = slice(top, min(top + rows, height))
        corners = _Corners(depth.shape[1:], (height, width), block, depth.device)
        enlarged[:, block] = _blend(corners, values, valid, across, down, guide)
    return torch.where(kept, enlarged, 0), kept


def _links(depth: Tensor, valid: Tensor, axis: int) -> Tensor:
    """Bool: whether a pixel and the next along an axis lie on one surface. Shaped as the depth, False at the end.

    They do if their depths differ by no more than SURFACE_STEP of the nearer, or by a slope: if the steps before and
    after go the same way and are at least SLOPE times as large.
    """
    count = depth.shape[axis] - 1
    links = torch.zeros_like(valid)
    if count < 1:
        return links
    first, second = depth.narrow(axis, 0, count), depth.narrow(axis, 1, count)
    both = valid.narrow(axis, 0, count) & valid.narrow(axis, 1, count)
    step = torch.where(both, (second - first) / torch.minimum(first, second).clamp_min(1e-30), 0)
    along = both & (step.abs() <= SURFACE_STEP)
    if count > 2:
        middle = step.narrow(axis, 1, count - 2)
        sides = [step.narrow(axis, start, count - 2) * middle.sign() for start in (0, 2)]
        along.narrow(axis, 1, count - 2).logical_or_(torch.minimum(*sides) > SLOPE * middle.abs())
    links.narrow(axis, 0, count).copy_(along & both)
    return links


def _guide(image: Tensor, depth: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The image in the depth's old size and in its new one: (B or 1,3,H,W) each."""
    planes = image[..., :3].to(depth.device).float().movedim(-1, 1)
    return tuple(
        F.interpolate(planes, size, mode="bilinear", antialias=True, align_corners=False)
        for size in (depth.shape[1:], (height, width))
    )


class _Corners:
    """The four old pixels around each new one: their indices, top left, top right, bottom right, bottom left, and their
    bilinear weights (h,w)."""

    def __init__(self, old: tuple[int, int], new: tuple[int, int], rows: slice, device: torch.device) -> None:
        self.rows = rows
        (top, bottom, low), (left, right, far) = (
            self._axis(*sizes, device) for sizes in zip(old, new, (rows, slice(0, new[1])), strict=True)
        )
        self.places = [(top, left), (top, right), (bottom, right), (bottom, left)]
        up, near = 1 - low, 1 - far
        self.weights = [y[:, None] * x[None] for y, x in ((up, near), (up, far), (low, far), (low, near))]

    @staticmethod
    def _axis(old: int, new: int, chosen: slice, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """First and second index, and the weight of the second."""
        place = (torch.arange(chosen.start, chosen.stop, device=device, dtype=torch.float32) + 0.5) * (old / new) - 0.5
        place = place.clamp(0, old - 1)
        first = place.floor().long()
        return first, (first + 1).clamp_max(old - 1), place - first

    def of(self, maps: Tensor) -> list[Tensor]:
        """The four (…,h,w) of maps (…,H,W)."""
        return [maps.index_select(-2, y).index_select(-1, x) for y, x in self.places]


def _blend(
    corners: _Corners, depth: Tensor, valid: Tensor, across: Tensor, down: Tensor, guide: tuple[Tensor, Tensor] | None
) -> Tensor:
    """(B,h,w) new depths, each from the corners that lie on one surface: those that together weigh most."""
    values = corners.of(depth)
    known = [weight * ok for weight, ok in zip(corners.weights, corners.of(valid), strict=True)]
    right, left = corners.of(across), corners.of(down)
    links = [right[0], left[1], right[3], left[0]]  # from each corner to the next, clockwise
    mean = _mean(known, values)
    torn = ~(links[0] & links[1] & links[2] & links[3])
    if not torn.any():
        return mean
    score = known if guide is None else _alike(corners, known, guide)
    values, known, links, score = ([part[torn] for part in parts] for parts in (values, known, links, score))
    best, chosen = torch.zeros_like(score[0]), torch.zeros_like(values[0])
    for i in range(4):
        after, opposite, before = ((i + step) % 4 for step in (1, 2, 3))
        one_way, other_way = links[i] & links[after], links[before] & links[opposite]
        reached = {
            i: torch.ones_like(one_way),
            after: links[i] | (other_way & links[after]),
            opposite: one_way | other_way,
            before: links[before] | (one_way & links[opposite]),
        }
        total = sum(score[k] * reached[k] for k in range(4)) * (known[i] > 0)
        own = _mean([known[k] * reached[k] for k in range(4)], values)
        best, chosen = torch.where(total > best, total, best), torch.where(total > best, own, chosen)
    mean[torn] = chosen
    return mean


def _mean(weights: list[Tensor], values: list[Tensor]) -> Tensor:
    total = sum(w * v for w, v in zip(weights, values, strict=True))
    return total / sum(weights).clamp_min(1e-12)


def _alike(corners: _Corners, known: list[Tensor], guide: tuple[Tensor, Tensor]) -> list[Tensor]:
    """The weights, less where the corner's colour is unlike the new pixel's."""
    small, large = guide
    wanted = large[:, :, corners.rows]
    away = [(colour - wanted).square().sum(1) for colour in corners.of(small)]
    return [w * (_LEAST_LIKE + torch.exp(-d / (2 * _COLOUR**2))) for w, d in zip(known, away, strict=True)]
