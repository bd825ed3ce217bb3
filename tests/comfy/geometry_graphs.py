"""Graphs around geometry: depth and pictures in, every kind of output read back."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import Graph, Node
from modality_forcing.tasks.host.server import GraphError, Server
from safetensors.torch import load_file, save_file

P = "ModalityForcing"
PICTURE = {
    "mapping": "disparity",
    "polarity": "near-white",
    "range_from": "per image",
    "near": 1.0,
    "far": 10.0,
    "clip_percent": 0.0,
    "colour_map": "grey",
    "invalid_colour": "far",
    "far_ratio": 5.0,
    "holes_are_far": True,
}
METRIC = {"meaning": "metric", "near": 1.0, "far": 10.0, "scale": 1.0, "black_is_hole": False}
CLOUD = {
    "edge_threshold": 0.04,
    "far": 0.0,
    "stride": 1,
    "outlier_neighbours": 0,
    "outlier_deviations": 2.0,
    "voxel": 0.0,
    "normals": False,
}
MESH = {"edge_threshold": 0.04, "far": 0.0, "stride": 1, "normals": False}
CAMERA = {
    "fov_deg": 55.0,
    "focal_px": 500.0,
    "centre_x_px": -1.0,
    "centre_y_px": -1.0,
    "calibrated_width_px": 0,
    "integer_centres": False,
    "focal_mm": 35.0,
    "sensor_width_mm": 36.0,
}
VIEW = {
    "right": 0.0,
    "up": 0.0,
    "forward": 0.0,
    "yaw_deg": 0.0,
    "pitch_deg": 0.0,
    "roll_deg": 0.0,
    "pivot": 0.0,
    "frames": 1,
    "width": 0,
    "height": 0,
    "fov_x_deg": 0.0,
    "edge_threshold": 0.04,
    "cracks": 2,
}
LOAD = {"meaning": "metric", "scale": 0.0, "near": 1.0, "far": 10.0, "fov_x_deg": 55.0}


GLTF = np.array([1.0, -1.0, -1.0])
HEIGHT, WIDTH = 6, 8  # of `plane`


class GeometryCase:
    """A server, and a folder for the tensors that go in and come out."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self._numbers = itertools.count()
        self.output = server.base / "output"

    def image(self, graph: Graph, values: torch.Tensor) -> Node:
        """An IMAGE (B,H,W,3) of any values."""
        file = self._file()
        save_file({"values": values.contiguous()}, file)
        return graph.add("TestImage", file=str(file), key="values")

    def mask(self, graph: Graph, values: torch.Tensor) -> Node:
        """A MASK (B,H,W)."""
        file = self._file()
        save_file({"values": values.contiguous()}, file)
        return graph.add("TestMask", file=str(file), key="values")

    def geometry(self, graph: Graph, depth: torch.Tensor, fov_x_deg: float = 90.0, **optional: Any) -> Node:
        """Geometry of depth (B,H,W) as it is."""
        picture = self.image(graph, depth[..., None].expand(-1, -1, -1, 3))
        return graph.add(f"{P}GeometryFromPicture", picture=picture, **METRIC, fov_x_deg=fov_x_deg, **optional)

    def run(self, graph: Graph, *, geometry=None, image=None, mask=None, text=()) -> list:
        """Run; the geometry as dict, the image and the mask as tensors, then a list of strings for each of text."""
        results, readers = [], []
        if geometry is not None:
            file = self._save(graph, "TestSaveGeometry", geometry=geometry)
            readers.append(lambda _outputs, file=file: load_file(file))
        if mask is not None:
            converted = graph.add("MaskToImage", mask=mask)
            file_of_mask = self._save(graph, "TestSaveImage", image=converted)
        if image is not None:
            file = self._save(graph, "TestSaveImage", image=image)
            readers.append(lambda _outputs, file=file: load_file(file)["image"])
        if mask is not None:
            readers.append(lambda _outputs: load_file(file_of_mask)["image"][..., 0])
        for link in text:
            node = graph.add("PreviewAny", source=link)
            readers.append(lambda outputs, node=node: outputs[str(node)]["text"])
        outputs = self.server.run(graph.prompt)
        results += [read(outputs) for read in readers]
        return results

    def files(self, outputs: dict, node: Node, kind: str) -> list[Path]:
        """The files that a save node lists, which must be there."""
        found = [self.output / entry["subfolder"] / entry["filename"] for entry in outputs[str(node)][kind]]
        assert found and all(path.is_file() for path in found)
        return found

    def _save(self, graph: Graph, node: str, **link: Any) -> Path:
        file = self._file()
        graph.add(node, file=str(file), **link)
        return file

    def _file(self) -> Path:
        return self.folder / f"{next(self._numbers)}.safetensors"


def plane(count=1):
    """Tilted planes, a hole in the corner, and an image of its own colour at every pixel."""
    depth = 2 + torch.arange(WIDTH) * 0.02 + torch.arange(HEIGHT)[:, None] * 0.01
    depth = depth[None] * (1 + torch.arange(count))[:, None, None]
    depth[:, 0, 0] = torch.nan
    image = torch.arange(HEIGHT * WIDTH * 3).reshape(1, HEIGHT, WIDTH, 3) / 255
    return depth, image.expand(count, -1, -1, -1)


def expected_points(depth):
    """90 degrees: focal length 4 pixels. (N,3) in glTF axes."""
    x = (torch.arange(WIDTH) + 0.5 - WIDTH / 2) / (WIDTH / 2)
    y = (torch.arange(HEIGHT)[:, None] + 0.5 - HEIGHT / 2) / (WIDTH / 2)
    points = torch.stack((x * depth, y * depth, depth), -1)
    return points[depth.isfinite()].numpy() * GLTF


def refused(case, graph, *texts):
    with pytest.raises(GraphError) as error:
        case.server.run(graph.prompt)
    for text in texts:
        assert text in error.value.message
    assert case.server.running
