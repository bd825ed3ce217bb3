"""Geometry packets: ComfyUI's MOGE_GEOMETRY dict, which is ours too, and conversion from and to its DA3_GEOMETRY dict.

MOGE_GEOMETRY, key by key (B batch, H rows, W columns; float32 unless said):
    depth       (B,H,W)    z in the scene's unit, relative unless a node made it metric; inf where masked out
    points      (B,H,W,3)  OpenCV axes; inf where masked out
    mask        (B,H,W)    bool, True = valid
    intrinsics  (B,3,3)    normalised K (see camera.py); absent for panoramas, which are not pinhole cameras
    normal      (B,H,W,3)  OpenCV axes, towards the camera; 0 where undefined; optional
    image       (B,H,W,3)  0..1, on the CPU
DA3_GEOMETRY: depth (B,H,W), image, mode, and optionally sky (B,H,W) probability, confidence (B,H,W), extrinsics
(1,B,3,4) world-to-camera, intrinsics (1,B,3,3) in pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..depth.usable import describe, usable_maps
from .camera import as_float, check_intrinsics, expand_intrinsics, pixel_intrinsics, unproject
from .normals import normals_from_points


@dataclass(frozen=True)
class Geometry:
    """A checked MOGE_GEOMETRY packet; shapes as in the module's table. `valid` includes finite and positive depth."""

    depth: Tensor
    points: Tensor
    valid: Tensor
    intrinsics: Tensor
    image: Tensor
    normal: Tensor | None


def make_geometry(
    depth: Tensor,
    valid: Tensor | None,
    intrinsics: Tensor,
    image: Tensor | None = None,
    *,
    normals: bool = False,
) -> dict[str, Any]:
    """MOGE_GEOMETRY packet of depth (B,H,W), valid (B,H,W) bool or None, K (B,3,3) or (1,3,3), image (B,H,W,≥3) or
    None.

    Pixels that are not valid, not finite or not positive are masked out. Without an image the packet carries mid grey,
    since core's texturing node needs the key. `normals` adds them (see normals.py), which costs more than all the rest;
    core's nodes and ours derive them where they need them. Raises ValueError for wrong shapes.
    """
    valid = usable_maps(depth, valid)
    depth = torch.where(valid, as_float(depth), torch.inf)
    batch, height, width = depth.shape
    intrinsics = expand_intrinsics(intrinsics, batch).to(depth).clone()
    points = unproject(depth, intrinsics).masked_fill_(~valid[..., None], torch.inf)
    if image is None:
        image = torch.full((batch, height, width, 3), 0.5)
    packet = {
        "depth": depth,
        "points": points,
        "mask": valid,
        "intrinsics": intrinsics,
        "image": _check_image(image, depth),
    }
    if normals:
        packet["normal"] = normals_from_points(points, valid)
    return packet


def read_geometry(packet: dict[str, Any]) -> Geometry:
    """The packet, checked, with what is missing derived: mask from the depth, points from depth and camera, a grey
    image.

    ValueError that names the key for a packet of the wrong type or shape, and for panoramas (no intrinsics).
    """
    if not isinstance(packet, dict):
        raise ValueError(f"got geometry of type {type(packet).__name__}, expected a MOGE_GEOMETRY dict")
    if "depth" not in packet:
        raise ValueError(f"geometry has no depth, only {sorted(packet)}; connect the output of a geometry node")
    if "intrinsics" not in packet:
        raise ValueError("geometry has no intrinsics (a panorama, or another pack's packet); add a camera first")
    depth = packet["depth"]
    valid = usable_maps(depth, packet.get("mask"))
    depth = as_float(depth)
    intrinsics = expand_intrinsics(packet["intrinsics"], depth.shape[0]).to(depth)
    points = _optional(packet, "points", depth)
    if points is None:
        points = unproject(depth, intrinsics)
    else:
        points = as_float(points).to(depth.device)
        valid = valid & _finite(points)
    image = packet.get("image")
    image = torch.full((*depth.shape, 3), 0.5) if image is None else _check_image(image, depth)
    normal = _optional(packet, "normal", depth)
    return Geometry(depth, points, valid, intrinsics, image, None if normal is None else as_float(normal))


def with_camera(packet: dict[str, Any], intrinsics: Tensor) -> dict[str, Any]:
    """The packet's depth, mask and image under another camera K (B,3,3) or (1,3,3); points anew, normals dropped.

    Also for packets without a camera. ValueError for panoramas, whose depth is not along one axis.
    """
    if not isinstance(packet, dict) or "depth" not in packet:
        raise ValueError(f"got {describe(packet)}, expected a MOGE_GEOMETRY dict with depth")
    if "intrinsics" not in packet and "points" in packet:
        raise ValueError("this geometry is a panorama (points without a camera); it cannot be seen by one camera")
    return make_geometry(packet["depth"], packet.get("mask"), intrinsics, packet.get("image"))


def geometry_from_da3(
    packet: dict[str, Any],
    intrinsics: Tensor | None = None,
    *,
    sky_threshold: float = 0.5,
    confidence_threshold: float = 0.0,
) -> dict[str, Any]:
    """MOGE_GEOMETRY packet from a DA3_GEOMETRY packet; every view in its own camera's axes.

    Sky above `sky_threshold` is masked out, so is confidence below `confidence_threshold` once each image's confidence
    is stretched to 0..1, as core's DA3 nodes do (0 keeps all). `intrinsics`, normalised (B,3,3) or (1,3,3), replaces
    the packet's camera and is needed for mono packets, which have none.

    Core's packet gives K in pixels of the network's input (504 wide by default) beside depth of the source's size, and
    does not tell the former. Its principal point is the middle of that picture, so dividing by twice the centre
    normalises K at any size.
    """
    if not isinstance(packet, dict) or "depth" not in packet:
        raise ValueError(f"got {describe(packet)}, expected a DA3_GEOMETRY dict with depth")
    depth = packet["depth"]
    valid = usable_maps(depth)
    sky = _optional(packet, "sky", depth)
    if sky is not None:
        valid &= sky.to(depth.device) < sky_threshold
    confidence = _optional(packet, "confidence", depth)
    if confidence is not None and confidence_threshold > 0.0:
        valid &= _stretch(as_float(confidence).to(depth.device)) >= confidence_threshold
    if intrinsics is None:
        intrinsics = _da3_intrinsics(packet)
    return make_geometry(depth, valid, intrinsics, packet.get("image"))


def geometry_to_da3(packet: dict[str, Any]) -> dict[str, Any]:
    """DA3_GEOMETRY packet from a MOGE_GEOMETRY packet: K in pixels of the depth map with integer centres, as core's
    mesh node reads it; all cameras at the world's origin; masked pixels have depth 0, which core leaves out. The key
    `normalised_intrinsics` (B,3,3) is ours: it lets `geometry_from_da3` get back a camera whose centre is not the
    middle of the image."""
    geometry = read_geometry(packet)
    batch, height, width = geometry.depth.shape
    pixels = pixel_intrinsics(geometry.intrinsics, width, height, integer_centres=True)
    return {
        "depth": torch.where(geometry.valid, geometry.depth, 0.0).cpu(),
        "image": geometry.image,
        "mode": "multiview",
        "intrinsics": pixels[None].cpu(),
        "extrinsics": torch.eye(4)[None, None, :3].repeat(1, batch, 1, 1),
        "normalised_intrinsics": geometry.intrinsics.cpu(),
    }


def _da3_intrinsics(packet: dict[str, Any]) -> Tensor:
    if "normalised_intrinsics" in packet:
        return packet["normalised_intrinsics"]
    pixels = packet.get("intrinsics")
    if pixels is None:
        raise ValueError("this DA3 geometry has no camera (mono mode); connect a camera, or run DA3 in multi-view mode")
    if not isinstance(pixels, Tensor) or pixels.is_complex():
        raise ValueError(f"got DA3 intrinsics {describe(pixels)}, expected numbers (1,B,3,3)")
    if pixels.ndim != 4 or pixels.shape[0] != 1 or pixels.shape[2:] != (3, 3):
        raise ValueError(f"got DA3 intrinsics of shape {tuple(pixels.shape)}, expected (1,B,3,3)")
    pixels = as_float(pixels[0])
    size = 2.0 * pixels[:, :2, 2]  # (B,2): width and height of the network's input
    if not bool((size > 1.0).all()):  # core falls back to the identity matrix where it found no camera
        raise ValueError("this DA3 geometry holds no usable camera (pose estimation failed); connect a camera")
    intrinsics = torch.eye(3).repeat(pixels.shape[0], 1, 1).to(pixels)
    intrinsics[:, 0, 0] = pixels[:, 0, 0] / size[:, 0]
    intrinsics[:, 1, 1] = pixels[:, 1, 1] / size[:, 1]
    intrinsics[:, :2, 2] = 0.5
    check_intrinsics(intrinsics)
    return intrinsics


def _stretch(values: Tensor) -> Tensor:
    """(B,H,W) to 0..1 per image; constant images become 1."""
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return torch.where(high > low, (values - low) / torch.where(high > low, high - low, 1.0), 1.0)


def _optional(packet: dict[str, Any], key: str, depth: Tensor) -> Tensor | None:
    """A per-pixel entry, if it is there, whose first three axes must be those of the depth."""
    value = packet.get(key)
    if value is None:
        return None
    expected = (*depth.shape, 3) if key in ("points", "normal") else tuple(depth.shape)
    if not isinstance(value, Tensor) or value.is_complex() or tuple(value.shape) != expected:
        raise ValueError(f"got {key} {describe(value)} for depth {tuple(depth.shape)}, expected {expected}")
    return value


def _check_image(image: Tensor, depth: Tensor) -> Tensor:
    """(B,H,W,3) float on the CPU; further channels are dropped, as core does."""
    if not isinstance(image, Tensor) or image.is_complex() or image.ndim != 4 or image.shape[-1] < 3:
        raise ValueError(f"got an image {describe(image)}, expected (B,H,W,3)")
    if image.shape[:3] != depth.shape:
        raise ValueError(
            f"got an image of {tuple(image.shape[:3])} for depth of {tuple(depth.shape)} (batch, rows, columns); "
            "they must agree: resize the image, or give one image for each depth map"
        )
    return as_float(image[..., :3]).cpu()


def _finite(points: Tensor) -> Tensor:
    """(B,H,W) bool of points (B,H,W,3), row by row to stay in the cache: a packet of 4 million points is 50 MB."""
    values = points.detach().cpu().numpy()
    finite = np.empty(values.shape[:3], dtype=bool)
    with np.errstate(invalid="ignore"):  # inf − inf
        for image, result in zip(values, finite, strict=True):
            for row, row_result in zip(image, result, strict=True):
                np.isfinite(row[:, 0] + row[:, 1] + row[:, 2], out=row_result)
    return torch.from_numpy(finite).to(points.device)
