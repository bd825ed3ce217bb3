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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from ..new_file import new_file
from .camera import GLTF_AXES
from .mesh import Mesh, check_faces
from .pointcloud import PointCloud

_FLOAT, _UINT, _BYTE = 5126, 5125, 5121
_TYPES = {2: "VEC2", 3: "VEC3", 4: "VEC4"}
_POINTS, _TRIANGLES = 0, 4
_CHUNK = 1 << 15  # rows
_COMMENT = 200  # letters of a note in a line of a PLY header
_NONE: Mapping[str, str] = MappingProxyType({})
_LINEAR, _CLAMP, _ARRAY, _INDEX = 9729, 33071, 34962, 34963


def ply_bytes(cloud: PointCloud) -> bytes:
    """The cloud as binary PLY. ValueError for an empty cloud, which viewers reject."""
    return b"".join(_ply_parts(cloud, {}))


def glb_bytes(shape: PointCloud | Mesh) -> bytes:
    """A cloud as GLB points, or a mesh as GLB triangles. ValueError where there is nothing to show."""
    return b"".join(_glb_parts(shape, {}))


def save_ply(path: str | Path, cloud: PointCloud, notes: Mapping[str, str] = _NONE) -> Path:
    """Write a new .ply file; returns its path. `notes`: texts by name, kept as comments of the header."""
    return save_parts(path, ".ply", _ply_parts(cloud, notes))


def save_glb(path: str | Path, shape: PointCloud | Mesh, notes: Mapping[str, str] = _NONE) -> Path:
    """Write a new .glb file; returns its path. `notes`: texts by name, kept in asset.extras as core's files do."""
    return save_parts(path, ".glb", _glb_parts(shape, notes))


def save_parts(path: str | Path, suffix: str, parts: Iterator[bytes | np.ndarray]) -> Path:
    """Write a new file of these parts; returns its path. ValueError for another suffix."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"got the file name {path.name!r}, expected one that ends in {suffix}")
    with new_file(path) as part, part.open("wb") as file:
        file.writelines(parts)
    return path


def _ply_parts(cloud: PointCloud, notes: Mapping[str, str]) -> Iterator[bytes | np.ndarray]:
    check_cloud(cloud)
    columns = {name: (cloud.points[:, i], GLTF_AXES[i]) for i, name in enumerate(("x", "y", "z"))}
    if cloud.normals is not None:
        normals = _defined(cloud.normals)
        columns |= {name: (normals[:, i], GLTF_AXES[i]) for i, name in enumerate(("nx", "ny", "nz"))}
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment axes: x right, y up, z towards the viewer (glTF)",
        *(line for name, text in notes.items() for line in ply_comments(name, text)),
        f"element vertex {len(cloud)}",
        *(f"property float {name}" for name in columns),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        "end_header\n",
    ]
    yield "\n".join(header).encode("ascii")
    # A row of the file; the colour is one field of three bytes, which copies three times faster than one by one.
    row = np.dtype([*((name, "<f4") for name in columns), ("colour", "V3")])
    colours = np.ascontiguousarray(cloud.colors).view("V3")[:, 0]
    for start in range(0, len(cloud), _CHUNK):
        chosen = slice(start, start + _CHUNK)
        rows = np.empty(len(colours[chosen]), row)
        for name, (values, sign) in columns.items():
            np.multiply(values[chosen], np.float32(sign), out=rows[name])
        rows["colour"] = colours[chosen]
        yield rows


def ply_comments(name: str, text: str) -> Iterator[str]:
    """A text as lines of a PLY header: short ones, since readers end at about 1000 letters, and in ASCII."""
    plain = text.encode("ascii", "backslashreplace").decode().replace("end_header", "end\\u005fheader")
    plain = plain.replace("\r", " ").replace("\n", " ")
    return (f"comment {name} {plain[start : start + _COMMENT]}" for start in range(0, len(plain), _COMMENT))


def _glb_parts(shape: PointCloud | Mesh, notes: Mapping[str, str]) -> Iterator[bytes | np.ndarray]:
    writer = _Glb(notes)
    if isinstance(shape, PointCloud):
        check_cloud(shape)
        attributes = writer.attributes(shape.points, shape.normals, shape.colors)
        primitive = {"attributes": attributes, "mode": _POINTS}
    else:
        _check_mesh(shape)
        attributes = writer.attributes(shape.vertices, shape.normals, shape.colors)
        if shape.uvs is not None:
            attributes["TEXCOORD_0"] = writer.accessor(_Column(shape.uvs, "<f4"), _FLOAT)
        indices = writer.accessor(_Column(shape.faces.reshape(-1), "<u4"), _UINT, _INDEX)
        primitive = {"attributes": attributes, "indices": indices, "mode": _TRIANGLES}
    primitive["material"] = 0
    texture = shape.texture if isinstance(shape, Mesh) and shape.uvs is not None else None
    yield from writer.container(primitive, texture)


def check_cloud(cloud: PointCloud) -> None:
    """ValueError for a cloud that is empty, or whose parts do not fit together or are not finite."""
    if len(cloud) == 0:
        raise ValueError("the point cloud is empty; raise the edge threshold or the far limit, or check the mask")
    _check_rows("point cloud", {"points": (cloud.points, 3), "normals": (cloud.normals, 3)}, len(cloud))
    _check_shape("point cloud", "colors", cloud.colors, (len(cloud), 3))


def _check_mesh(mesh: Mesh) -> None:
    if len(mesh.faces) == 0:
        raise ValueError("the mesh has no triangles; raise the edge threshold or the far limit, or check the mask")
    count = len(mesh.vertices)
    _check_rows("mesh", {"vertices": (mesh.vertices, 3), "normals": (mesh.normals, 3), "uvs": (mesh.uvs, 2)}, count)
    _check_shape("mesh", "colors", mesh.colors, (count, 3))
    _check_shape("mesh", "faces", mesh.faces, (len(mesh.faces), 3))
    check_faces(mesh)


def _check_rows(what: str, columns: dict[str, tuple[np.ndarray | None, int]], count: int) -> None:
    """ValueError unless each that is there has `count` rows of that many finite numbers."""
    for name, (values, width) in columns.items():
        _check_shape(what, name, values, (count, width))
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"the {what} has {name} that are not finite (NaN or infinite); check where it comes from")


def _check_shape(what: str, name: str, values: np.ndarray | None, expected: tuple[int, int]) -> None:
    if values is not None and values.shape != expected:
        raise ValueError(f"the {what} has {name} of shape {values.shape}, expected {expected}")


def _defined(normals: np.ndarray) -> np.ndarray:
    """Undefined normals (0) face the camera: readers want unit length."""
    return np.where(normals.any(axis=1, keepdims=True), normals, np.float32([0.0, 0.0, -1.0]))


@dataclass(frozen=True)
class _Column:
    """Values (N,C) or (N,) to be written as `dtype`, each row times `signs`. Converted in chunks that fit the cache."""

    values: np.ndarray
    dtype: str
    signs: tuple[float, ...] | None = None

    def rows(self, start: int) -> np.ndarray:
        """The chunk that starts at a row, contiguous."""
        chunk = np.ascontiguousarray(self.values[start : start + _CHUNK], dtype=self.dtype)
        return chunk if self.signs is None else chunk * np.array(self.signs, self.dtype)

    def chunks(self) -> Iterator[np.ndarray]:
        return (self.rows(start) for start in range(0, len(self.values), _CHUNK))


class _Glb:
    """Collects columns and their glTF descriptions, and packs both into one container."""

    def __init__(self, notes: Mapping[str, str]) -> None:
        self.notes = notes
        self.content: list[_Column | bytes] = []
        self.size = 0
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def attributes(self, points: np.ndarray, normals: np.ndarray | None, colors: np.ndarray | None) -> dict[str, int]:
        """Accessors of what points and vertices have in common, turned to glTF axes."""
        column = _Column(points, "<f4", GLTF_AXES)
        extremes = np.array([[(axis.min(), axis.max()) for axis in chunk.T] for chunk in column.chunks()])
        low, high = extremes[..., 0].min(axis=0), extremes[..., 1].max(axis=0)
        entries = {"POSITION": self.accessor(column, _FLOAT, min=low.tolist(), max=high.tolist())}
        if normals is not None:
            entries["NORMAL"] = self.accessor(_Column(_defined(normals), "<f4", GLTF_AXES), _FLOAT)
        if colors is not None:
            opaque = np.full((len(colors), 4), 255, np.uint8)  # four bytes, since rows must be aligned to four
            opaque[:, :3] = colors
            entries["COLOR_0"] = self.accessor(_Column(opaque, "u1"), _BYTE, normalized=True)
        return entries

    def accessor(self, column: _Column, component: int, target: int = _ARRAY, **extra: Any) -> int:
        """Number of a new accessor over a new buffer view."""
        view = self.view(column, column.values.size * np.dtype(column.dtype).itemsize, target=target)
        kind = "SCALAR" if column.values.ndim == 1 else _TYPES[column.values.shape[1]]
        self.accessors.append(
            {"bufferView": view, "componentType": component, "count": len(column.values), "type": kind, **extra}
        )
        return len(self.accessors) - 1

    def view(self, content: _Column | bytes, length: int, **extra: Any) -> int:
        """Number of a new buffer view of `length` bytes, starting at a multiple of four."""
        self.views.append({"buffer": 0, "byteOffset": self.size, "byteLength": length, **extra})
        padding = bytes(-length % 4)
        self.content += [content, padding]
        self.size += length + len(padding)
        return len(self.views) - 1

    def container(self, primitive: dict[str, Any], texture: np.ndarray | None) -> Iterator[bytes | np.ndarray]:
        """The GLB file of one mesh with one material, part by part."""
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
        if self.notes:
            document["asset"]["extras"] = dict(self.notes)
        if texture is not None:
            png = io.BytesIO()
            Image.fromarray(texture).save(png, format="PNG", compress_level=1)
            view = self.view(png.getvalue(), len(png.getvalue()))
            document["images"] = [{"bufferView": view, "mimeType": "image/png"}]
            document["samplers"] = [{"magFilter": _LINEAR, "minFilter": _LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}]
            document["textures"] = [{"source": 0, "sampler": 0}]
            surface["baseColorTexture"] = {"index": 0}
        document |= {"accessors": self.accessors, "bufferViews": self.views, "buffers": [{"byteLength": self.size}]}
        header = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
        header += b" " * (-len(header) % 4)
        total = 12 + 8 + len(header) + 8 + self.size
        yield struct.pack("<4sII", b"glTF", 2, total)
        yield struct.pack("<I4s", len(header), b"JSON") + header
        yield struct.pack("<I4s", self.size, b"BIN\0")
        for content in self.content:
            if isinstance(content, bytes):
                yield content
            else:
                yield from content.chunks()
