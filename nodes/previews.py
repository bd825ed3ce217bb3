"""Viewers in the browser: depth, and the point cloud seen from any side.

A geometry reaches the browser as one file for each image, in ComfyUI's temp folder:
    uint32, little-endian: n, the length of the header
    n bytes: the header, JSON in UTF-8, filled up with blanks so that what follows starts at a multiple of 4 bytes
        {"format": "modality_forcing_geometry", "version": 1, "width": W, "height": H, "intrinsics": [9 numbers]}
        intrinsics: normalised K by rows (see model/geometry/camera.py)
    H·W float32, little-endian, by rows: the depth, NaN where it is not valid
    H·W·3 uint8, by rows: the colours, sRGB
The name is made from the content, so showing the same thing again writes nothing.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..model.geometry.packets import Geometry, read_geometry
from ..model.geometry.pointcloud import to_bytes
from ..model.new_file import new_file
from .sockets import GEOMETRY, GEOMETRY_CATEGORY

UI_KEY = "modality_forcing"


class PreviewDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingPreviewDepth",
            display_name="Preview Depth",
            category=GEOMETRY_CATEGORY,
            description="Shows depth: value and 3D position under the pointer, range and colours changed in place.",
            inputs=[GEOMETRY.Input("geometry")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any]) -> io.NodeOutput:
        return io.NodeOutput(ui={UI_KEY: write_geometry(read_geometry(geometry))})


class PreviewPointCloud(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingPreviewPointCloud",
            display_name="Preview Point Cloud",
            category=GEOMETRY_CATEGORY,
            description="Shows the points of a geometry, first as its picture showed them, then from any side. "
            "A screenshot becomes the image output on the next run.",
            inputs=[
                GEOMETRY.Input("geometry"),
                io.String.Input(
                    "screenshot",
                    default="",
                    socketless=True,
                    tooltip="Written by the viewer: the screenshot's name in the input folder. Empty: none yet.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    tooltip="The last screenshot; before the first one the picture of the geometry itself.",
                ),
                io.Mask.Output(
                    id="holes",
                    display_name="holes",
                    tooltip="White where the screenshot shows no point; before the first one where depth is not valid.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], screenshot: str = "") -> io.NodeOutput:
        packet = read_geometry(geometry)
        if screenshot:
            image, holes = read_screenshot(screenshot)
        else:
            image, holes = packet.image, (~packet.valid).float().cpu()
        return io.NodeOutput(image, holes, ui={UI_KEY: write_geometry(packet)})


def write_geometry(packet: Geometry) -> list[dict[str, str]]:
    """Write a file for each image, as the module says; returns what the browser asks the server for."""
    depth = torch.where(packet.valid, packet.depth, torch.nan).float().cpu().numpy()
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return [
        {"filename": _write(folder, depth[i], to_bytes(packet.image[i].numpy()), packet.intrinsics[i]), **_PLACE}
        for i in range(len(depth))
    ]


_PLACE = {"subfolder": "", "type": "temp"}


def _write(folder: Path, depth: np.ndarray, colors: np.ndarray, intrinsics: Tensor) -> str:
    header = {
        "format": "modality_forcing_geometry",
        "version": 1,
        "width": depth.shape[1],
        "height": depth.shape[0],
        "intrinsics": intrinsics.flatten().tolist(),
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    parts = [
        len(text).to_bytes(4, "little"),
        text,
        np.ascontiguousarray(depth, "<f4").data,
        np.ascontiguousarray(colors, np.uint8).data,
    ]
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part)
    path = folder / f"modality_forcing_{digest.hexdigest()}.bin"
    if not path.exists():
        with new_file(path) as unfinished, unfinished.open("wb") as file:
            file.writelines(parts)
    return path.name


def read_screenshot(name: str) -> tuple[Tensor, Tensor]:
    """A picture of the input folder as IMAGE (1,H,W,3) and the mask (1,H,W) of what is transparent in it."""
    folder = Path(folder_paths.get_input_directory()).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"got the screenshot {name!r}, which is outside ComfyUI's input folder; take it again")
    if not path.is_file():
        raise ValueError(
            f"the screenshot {name!r} is not in ComfyUI's input folder {folder} (a workflow from another machine?). "
            "Take it again in the viewer, or discard it there to get the picture of the geometry."
        )
    try:
        pixels = np.asarray(Image.open(path).convert("RGBA"), np.float32) / 255
    except UnidentifiedImageError as error:
        raise ValueError(f"the screenshot {name!r} is not a picture; take it again in the viewer") from error
    pixels = torch.from_numpy(pixels)[None]
    return pixels[..., :3].contiguous(), 1 - pixels[..., 3]


NODES = [PreviewDepth, PreviewPointCloud]
