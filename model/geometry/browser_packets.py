"""What the viewers in the browser get of one image: depth by pixels, points, or triangles.

uint32, little-endian: n, the length of the header
n bytes: the header, JSON in UTF-8, filled up with blanks so that what follows starts at a multiple of 4 bytes
    {"format": "modality_forcing_geometry", "version": 2, "kind": "depth" | "points" | "mesh", "scene": name made
    from the content, "width": W, "height": H, "intrinsics": [9 numbers], "points": N, "faces": M,
    "uncertainty": whether it is there}
    intrinsics: normalised K by rows (see camera.py), of the camera that the viewer opens at
then, float32 and uint32 little-endian, uint8 sRGB:
    depth   H·W float32 depth, NaN where not valid; H·W float32 uncertainty, if any; H·W·3 uint8 colours
    points  N·3 float32 positions, OpenCV axes; N float32 spacing; N·3 uint8 colours
    mesh    N·3 float32 positions; M·3 uint32 faces; N·3 uint8 colours
"""

import hashlib
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..resize import checked_masks
from .mesh import Mesh
from .packets import read_geometry
from .pointcloud import PointCloud, to_bytes

VERSION = 2


def geometry_packet(packet: dict[str, Any], index: int, uncertainty: Tensor | None = None) -> bytes:
    """Image `index` of a MOGE_GEOMETRY packet; uncertainty (1 or B,H,W) of the same size, if there is any."""
    geometry = read_geometry(one_image(packet, index))
    depth = torch.where(geometry.valid, geometry.depth, torch.nan)[0].float().cpu().numpy()
    planes = [np.ascontiguousarray(depth, "<f4")]
    if uncertainty is not None:
        masks = checked_masks(uncertainty)
        own = masks[index % len(masks)]
        if own.shape != geometry.depth.shape[1:]:
            raise ValueError(
                f"got uncertainty of {tuple(own.shape)} for depth of {depth.shape}, expected the same size: connect "
                "'uncertainty' of the 'Depth Ensemble' that made this depth"
            )
        planes.append(np.ascontiguousarray(own.float().cpu().numpy(), "<f4"))
    header = {"kind": "depth", "uncertainty": uncertainty is not None, **camera_of(packet, index)}
    return _packet(header, [*planes, to_bytes(geometry.image[0].cpu().numpy())])


def cloud_packet(cloud: PointCloud, camera: dict[str, Any]) -> bytes:
    """A point cloud, first seen by `camera` (see `camera_of`)."""
    parts = [np.ascontiguousarray(cloud.points, "<f4"), np.ascontiguousarray(cloud.spacing, "<f4"), cloud.colors]
    return _packet({"kind": "points", "points": len(cloud), **camera}, parts)


def mesh_packet(mesh: Mesh, camera: dict[str, Any]) -> bytes:
    """A mesh, first seen by `camera`; a texture becomes the colours of the vertices."""
    parts = [np.ascontiguousarray(mesh.vertices, "<f4"), np.ascontiguousarray(mesh.faces, "<u4"), vertex_colors(mesh)]
    return _packet({"kind": "mesh", "points": len(mesh.vertices), "faces": len(mesh.faces), **camera}, parts)


def mesh_cloud(mesh: Mesh) -> PointCloud:
    """The mesh's vertices as points, spaced as its edges are long (the mean of those that meet in a vertex)."""
    corners = mesh.faces.astype(np.int64)
    count = len(mesh.vertices)
    length, number = np.zeros(count), np.zeros(count)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        edges = np.linalg.norm(mesh.vertices[corners[:, a]] - mesh.vertices[corners[:, b]], axis=1)
        for ends in (corners[:, a], corners[:, b]):
            length += np.bincount(ends, edges, count)
            number += np.bincount(ends, minlength=count)
    spacing = np.divide(length, number, out=np.zeros(count), where=number > 0).astype(np.float32)
    return PointCloud(mesh.vertices.astype(np.float32), vertex_colors(mesh), spacing)


def vertex_colors(mesh: Mesh) -> np.ndarray:
    """(N,3) uint8: the mesh's own colours, those of its texture at the vertices, or mid grey."""
    if mesh.colors is not None:
        return np.ascontiguousarray(mesh.colors)
    if mesh.uvs is None or mesh.texture is None:
        return np.full((len(mesh.vertices), 3), 128, np.uint8)
    height, width = mesh.texture.shape[:2]
    column = np.clip((mesh.uvs[:, 0] * width).astype(np.int64), 0, width - 1)
    row = np.clip((mesh.uvs[:, 1] * height).astype(np.int64), 0, height - 1)
    return np.ascontiguousarray(mesh.texture[row, column])


def camera_of(packet: dict[str, Any], index: int) -> dict[str, Any]:
    """{"width", "height", "intrinsics"} of image `index` of a packet."""
    height, width = packet["depth"].shape[1:]
    intrinsics = packet["intrinsics"]
    k = intrinsics[index % len(intrinsics)]
    return {"width": width, "height": height, "intrinsics": k.flatten().tolist()}


def one_image(packet: dict[str, Any], index: int) -> dict[str, Any]:
    """The packet with image `index` alone; what it has once for all images is kept."""
    return {
        key: value[index % len(value)][None] if isinstance(value, Tensor) else value for key, value in packet.items()
    }


def scene_of(packet: bytes) -> str:
    """The name of what a packet of this module shows."""
    length = int.from_bytes(packet[:4], "little")
    return json.loads(packet[4 : 4 + length])["scene"]


def _packet(header: dict[str, Any], arrays: list[np.ndarray]) -> bytes:
    header = {"format": "modality_forcing_geometry", "version": VERSION, **header}
    parts = [array.data for array in map(np.ascontiguousarray, arrays)]
    digest = hashlib.blake2b(json.dumps(header).encode(), digest_size=8)
    for part in parts:
        digest.update(part)
    text = json.dumps({**header, "scene": digest.hexdigest()}).encode()
    text += b" " * (-len(text) % 4)
    return b"".join([len(text).to_bytes(4, "little"), text, *parts])
