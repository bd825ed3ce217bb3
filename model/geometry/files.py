"""Point clouds and meshes as files: binary PLY and GLB, in glTF axes (x, −y, −z of OpenCV's), scale kept.

PLY   binary little-endian; float x y z, float nx ny nz if there are normals, uchar red green blue.
GLB   glTF 2.0; points or triangles, float32 positions, colours as normalised bytes or the image as a PNG texture.
      Unlit, since a
      photo has its light in it. Vertex colours are stored as sRGB bytes as they are, as ComfyUI's own exporter does.
Files are written completely or not at all, and never over another one (FileExistsError). The bytes are for core's
File3D sockets.
"""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..depth.new_file import new_file
from .camera import swap_gltf_axes
from .mesh import Mesh
from .pointcloud import PointCloud

_FLOAT, _UINT, _BYTE = 5126, 5125, 5121
_TYPES = {2: "VEC2", 3: "VEC3", 4: "VEC4"}
_POINTS, _TRIANGLES = 0, 4
_LINEAR, _CLAMP, _ARRAY, _INDEX = 9729, 33071, 34962, 34963


def ply_bytes(cloud: PointCloud) -> bytes:
    """The cloud as binary PLY. ValueError for an empty cloud, which viewers reject."""
    _check_cloud(cloud)
    fields = [("position", "<f4", 3)]
    names = ["float x", "float y", "float z"]
    if cloud.normals is not None:
        fields.append(("normal", "<f4", 3))
        names += ["float nx", "float ny", "float nz"]
    fields.append(("color", "u1", 3))
    names += ["uchar red", "uchar green", "uchar blue"]
    rows = np.empty(len(cloud), dtype=fields)
    rows["position"] = swap_gltf_axes(cloud.points)
    rows["color"] = cloud.colors
    if cloud.normals is not None:
        rows["normal"] = swap_gltf_axes(cloud.normals)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment axes: x right, y up, z towards the viewer (glTF)",
        f"element vertex {len(cloud)}",
        *(f"property {name}" for name in names),
        "end_header\n",
    ]
    return "\n".join(header).encode("ascii") + rows.tobytes()


def glb_bytes(shape: PointCloud | Mesh) -> bytes:
    """A cloud as GLB points, or a mesh as GLB triangles. ValueError where there is nothing to show."""
    writer = _Glb()
    if isinstance(shape, PointCloud):
        _check_cloud(shape)
        attributes = writer.attributes(shape.points, shape.normals, shape.colors)
        primitive = {"attributes": attributes, "mode": _POINTS}
    else:
        if len(shape.faces) == 0:
            raise ValueError("the mesh has no triangles; raise the edge threshold or the far limit, or check the mask")
        attributes = writer.attributes(shape.vertices, shape.normals, shape.colors)
        if shape.uvs is not None:
            attributes["TEXCOORD_0"] = writer.accessor(shape.uvs.astype("<f4"), _FLOAT)
        indices = writer.accessor(shape.faces.astype("<u4").reshape(-1), _UINT, _INDEX)
        primitive = {"attributes": attributes, "indices": indices, "mode": _TRIANGLES}
    primitive["material"] = 0
    texture = shape.texture if isinstance(shape, Mesh) and shape.uvs is not None else None
    return writer.container(primitive, texture)


def save_ply(path: str | Path, cloud: PointCloud) -> Path:
    """Write a new .ply file; returns its path."""
    return _save(path, ".ply", ply_bytes(cloud))


def save_glb(path: str | Path, shape: PointCloud | Mesh) -> Path:
    """Write a new .glb file; returns its path."""
    return _save(path, ".glb", glb_bytes(shape))


def _save(path: str | Path, suffix: str, content: bytes) -> Path:
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"got the file name {path.name!r}, expected one that ends in {suffix}")
    with new_file(path) as part:
        part.write_bytes(content)
    return path


def _check_cloud(cloud: PointCloud) -> None:
    if len(cloud) == 0:
        raise ValueError("the point cloud is empty; raise the edge threshold or the far limit, or check the mask")


class _Glb:
    """Collects binary data with its glTF descriptions, and packs both into one container."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def attributes(self, points: np.ndarray, normals: np.ndarray | None, colors: np.ndarray | None) -> dict[str, int]:
        """Accessors of what points and vertices have in common, turned to glTF axes."""
        points = swap_gltf_axes(points).astype("<f4")
        bounds = {"min": points.min(axis=0).tolist(), "max": points.max(axis=0).tolist()}
        entries = {"POSITION": self.accessor(points, _FLOAT, **bounds)}
        if normals is not None:
            # glTF wants unit length, so undefined normals (0) face the camera, which is +z here.
            turned = swap_gltf_axes(normals).astype("<f4")
            turned[~turned.any(axis=1)] = (0.0, 0.0, 1.0)
            entries["NORMAL"] = self.accessor(turned, _FLOAT)
        if colors is not None:
            opaque = np.full((len(colors), 4), 255, np.uint8)  # four bytes, since rows must be aligned to four
            opaque[:, :3] = colors
            entries["COLOR_0"] = self.accessor(opaque, _BYTE, normalized=True)
        return entries

    def accessor(self, values: np.ndarray, component: int, target: int = _ARRAY, **extra: Any) -> int:
        """Number of a new accessor over a new buffer view."""
        view = self.view(values.tobytes(), target=target)
        kind = "SCALAR" if values.ndim == 1 else _TYPES[values.shape[1]]
        self.accessors.append(
            {"bufferView": view, "componentType": component, "count": len(values), "type": kind, **extra}
        )
        return len(self.accessors) - 1

    def view(self, content: bytes, **extra: Any) -> int:
        """Number of a new buffer view, starting at a multiple of four bytes."""
        self.views.append({"buffer": 0, "byteOffset": self.size, "byteLength": len(content), **extra})
        padding = -len(content) % 4
        self.chunks += [content, bytes(padding)]
        self.size += len(content) + padding
        return len(self.views) - 1

    def container(self, primitive: dict[str, Any], texture: np.ndarray | None) -> bytes:
        """The GLB file of one mesh with one material."""
        surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        document: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "Modality Forcing for ComfyUI"},
            "extensionsUsed": ["KHR_materials_unlit"],
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [primitive]}],
            "materials": [
                {"pbrMetallicRoughness": surface, "doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}
            ],
        }
        if texture is not None:
            png = io.BytesIO()
            Image.fromarray(texture).save(png, format="PNG", compress_level=1)
            document["images"] = [{"bufferView": self.view(png.getvalue()), "mimeType": "image/png"}]
            document["samplers"] = [{"magFilter": _LINEAR, "minFilter": _LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}]
            document["textures"] = [{"source": 0, "sampler": 0}]
            surface["baseColorTexture"] = {"index": 0}
        document |= {"accessors": self.accessors, "bufferViews": self.views, "buffers": [{"byteLength": self.size}]}
        header = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
        header += b" " * (-len(header) % 4)
        total = 12 + 8 + len(header) + 8 + self.size
        return b"".join(
            (
                struct.pack("<4sII", b"glTF", 2, total),
                struct.pack("<I4s", len(header), b"JSON"),
                header,
                struct.pack("<I4s", self.size, b"BIN\0"),
                *self.chunks,
            )
        )
