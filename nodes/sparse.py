"""Measured depth that is mostly holes: LiDAR, structure from motion, a depth camera's gaps."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.depth.completion import FINEST, Completed, complete, map_of_points
from ..model.depth.sparse_points import points_of_map
from ..model.geometry.packets import Geometry, make_geometry, read_geometry
from .conditions import checked_span
from .native.point_guidance import guide_to_points
from .notes import show_on_node
from .sockets import CATEGORY, GEOMETRY, GEOMETRY_CATEGORY

FINEST_INPUT = io.Int.Input(
    "finest",
    default=FINEST,
    min=0,
    max=1024,
    tooltip="Finest structure that the points bend the depth by, in pixels. Larger is smoother, for noisy points. "
    "0: one scale and shift for all of the map.",
)


class FitToPoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingFitToPoints",
            display_name="Fit Depth to Points",
            category=GEOMETRY_CATEGORY,
            description="Completes measured points to a dense map: estimated depth gives the shape, the points its "
            "scale, and bend it where it was off. The result is in the unit of the points.",
            inputs=[
                GEOMETRY.Input("geometry", tooltip="Estimated depth of the picture, relative or not."),
                GEOMETRY.Input("sparse", tooltip="Measured depth of the same view, holes and all; of any size."),
                FINEST_INPUT,
                io.Boolean.Input(
                    "keep_points",
                    default=False,
                    optional=True,
                    tooltip="Pixels that were measured have the measured depth itself: for a map that is exact and "
                    "whole but for its holes.",
                ),
            ],
            outputs=[
                GEOMETRY.Output(id="fitted", display_name="geometry", tooltip="Dense, in the unit of the points."),
                io.String.Output(id="report", display_name="report", tooltip="What was fitted, and the errors."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, geometry: dict[str, Any], sparse: dict[str, Any], finest: int, keep_points: bool = False
    ) -> io.NodeOutput:
        packet = read_geometry(geometry)
        depth = torch.where(packet.valid, packet.depth, torch.nan).cpu()
        points = _point_maps(read_geometry(sparse), *depth.shape)
        done = [complete(one, its, finest) for one, its in zip(depth, points, strict=True)]
        fitted = torch.stack([one.depth for one in done])
        if keep_points:
            fitted = torch.where(points.isfinite(), points, fitted)
        report = "\n".join(_line(index, one) for index, one in enumerate(done))
        show_on_node(cls, report)
        fitted = make_geometry(fitted, fitted.isfinite(), packet.intrinsics.cpu(), packet.image)
        return io.NodeOutput(fitted, report)


class PointGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingPointGuidance",
            display_name="Guide Depth to Points",
            category=CATEGORY,
            description="Moves the depth that the model predicts towards measured points at each step: a picture that "
            "fits the points, or depth of a given picture. Scale and shift of the points are found on the way.",
            inputs=[
                io.Model.Input("model"),
                GEOMETRY.Input("sparse", tooltip="Measured depth of the view that is made, holes and all."),
                *(
                    io.Int.Input(
                        side,
                        default=512,
                        min=0,
                        max=16384,
                        step=16,
                        tooltip="Of the latent that is sampled, pixels. 0: as the measured map.",
                    )
                    for side in ("width", "height")
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the prediction is moved at each step. 0: not at all.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="Share of the run it starts at."
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="Share of the run it ends at."
                ),
                FINEST_INPUT,
            ],
            outputs=[io.Model.Output(id="guided", display_name="model")],
        )

    @classmethod
    def execute(
        cls, model, sparse: dict[str, Any], width, height, strength, start_percent, end_percent, finest
    ) -> io.NodeOutput:
        start, end = checked_span(start_percent, end_percent)
        if not 0 <= strength <= 1:
            raise ValueError(f"got strength {strength}, expected 0 to 1")
        if strength == 0:
            return io.NodeOutput(model)
        measured = read_geometry(sparse)
        count, *size = measured.depth.shape
        points = _point_maps(measured, count, height or size[0], width or size[1])
        guided = guide_to_points(model, points, strength=strength, start=start, end=end, finest=finest)
        return io.NodeOutput(guided)


def _point_maps(packet: Geometry, count: int, height: int, width: int) -> Tensor:
    """(count,H,W) measured depth at the pixels that points fall on, NaN elsewhere."""
    if len(packet.depth) not in (1, count):
        raise ValueError(f"got {len(packet.depth)} measured maps for {count} depth maps; expected 1 or one for each")
    if not packet.valid.any():
        raise ValueError("the measured depth has no point at all; check its file, its scale and its mask")
    each = zip(packet.depth, packet.valid, strict=True)
    maps = torch.stack([map_of_points(points_of_map(*one, width, height), height, width) for one in each])
    return maps.expand(count, -1, -1)


def _line(index: int, done: Completed) -> str:
    return (
        f"image {index}: depth x {done.scale:.6g} {'+' if done.shift >= 0 else '-'} {abs(done.shift):.4g}; "
        f"{done.points} points, mean error {100 * done.before:.2g} % with one scale and shift, "
        f"{100 * done.after:.2g} % as returned"
    )


NODES = [FitToPoints, PointGuidance]
