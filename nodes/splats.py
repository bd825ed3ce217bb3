"""Point clouds as 3D Gaussians, for core's splat nodes and for files."""

from functools import partial
from typing import Any

import numpy as np
import torch
from comfy_api.latest import Types, io

from ..model.geometry.pointcloud import PointCloud
from ..model.geometry.splats import OPACITY, Splats, save_splats, splats_from_cloud
from .native.metadata import workflow_of
from .output_files import files_output, output_names, prefix_input, save_files
from .sockets import GEOMETRY_CATEGORY, POINT_CLOUD

SPLAT = getattr(io, "Splat", None) or io.Custom("SPLAT")
CLOUD_TOOLTIP = "Made with 'normals' switched on: each Gaussian lies in its surface. Without, all face the camera."


class SplatsFromPointCloud(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingSplats",
            display_name="Splats from Point Cloud",
            category=GEOMETRY_CATEGORY,
            description="Makes one flat 3D Gaussian of each point, as large as its sample of the surface: for core's "
            "Preview, Save, Merge, Render and Splat to Mesh (ComfyUI 0.33 and newer).",
            inputs=[POINT_CLOUD.Input("point_cloud", tooltip=CLOUD_TOOLTIP)],
            outputs=[SPLAT.Output(id="splat", display_name="splat")],
        )

    @classmethod
    def execute(cls, point_cloud: list[PointCloud]) -> io.NodeOutput:
        if not hasattr(Types, "SPLAT"):
            raise ValueError("this ComfyUI has no splats; use 'Save Splats (PLY)', or update it to 0.33 or newer")
        return io.NodeOutput(_core_splat([splats_from_cloud(cloud) for cloud in point_cloud]))


class SaveSplats(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingSaveSplats",
            display_name="Save Splats (PLY)",
            category=GEOMETRY_CATEGORY,
            description="Saves each cloud as 3D Gaussians, in the PLY layout that splat viewers and editors read.",
            inputs=[POINT_CLOUD.Input("point_cloud", tooltip=CLOUD_TOOLTIP), prefix_input("3d/splats")],
            outputs=[files_output()],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, point_cloud: list[PointCloud], filename_prefix: str) -> io.NodeOutput:
        splats = [splats_from_cloud(cloud) for cloud in point_cloud]
        saved = save_files(filename_prefix, ".ply", splats, partial(save_splats, notes=workflow_of(cls)))
        return io.NodeOutput(output_names(saved), ui={"3d": saved})


def _core_splat(splats: list[Splats]) -> Any:
    """Core's SPLAT: (B,N,·), filled up with zeros, and the true counts."""
    counts = [len(item.points) for item in splats]

    def padded(rows: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.pad(r, ((0, max(counts) - len(r)), (0, 0))) for r in rows]))

    opacities = [np.full((count, 1), OPACITY, np.float32) for count in counts]
    harmonics = padded([item.harmonics for item in splats])[:, :, None]  # (B,N,1,3)
    named = (padded([getattr(item, name) for item in splats]) for name in ("points", "scales", "rotations"))
    return Types.SPLAT(*named, padded(opacities), harmonics, torch.tensor(counts))


NODES = [SplatsFromPointCloud, SaveSplats]
