"""Relative depth to metric depth: by one known distance, by a reference geometry, or by measured points."""

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..model.depth.alignment import Fit, fit_distance, fit_points, fit_reference
from ..model.depth.sparse_points import ALL_IMAGES, parse_points, points_of_map
from ..model.geometry.packets import Geometry, make_geometry, read_geometry
from .notes import show_on_node
from .sockets import GEOMETRY, GEOMETRY_CATEGORY

FITS = ("scale", "scale and shift")
FIT_TOOLTIP = (
    "scale: keeps proportions; right for Modality Forcing and MoGe. scale and shift: for depth of unknown offset; "
    "needs samples at different depths."
)
ONE_FIT_TOOLTIP = "One fit for all images of the batch (a video of one scene), instead of one for each."


def _outputs() -> list:
    return [
        GEOMETRY.Output(id="metric", display_name="geometry", tooltip="Depth in the unit of the given distances."),
        io.Float.Output(id="scale", display_name="scale", is_output_list=True, tooltip="One for each fit."),
        io.Float.Output(id="shift", display_name="shift", is_output_list=True, tooltip="Added after the scale."),
        io.Float.Output(
            id="residual",
            display_name="residual",
            is_output_list=True,
            tooltip="Mean error of the samples that were used, as a share of the distance: 0.05 is 5 %.",
        ),
        io.String.Output(id="report", display_name="report"),
    ]


def _fit_inputs() -> list:
    return [
        io.Combo.Input("fit", options=list(FITS), default=FITS[0], tooltip=FIT_TOOLTIP),
        io.Boolean.Input("one_fit_for_batch", default=False, tooltip=ONE_FIT_TOOLTIP),
    ]


class MetricFromDistance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingMetricFromDistance",
            display_name="Metric Depth from Distance",
            category=GEOMETRY_CATEGORY,
            description="Scales the depth so that one pixel has the distance that you know.",
            inputs=[
                GEOMETRY.Input("geometry"),
                io.Float.Input("x_px", default=256.0, min=0.0, max=1e5, step=1.0, tooltip="Column in pixels, from 0."),
                io.Float.Input("y_px", default=256.0, min=0.0, max=1e5, step=1.0, tooltip="Row in pixels, from 0."),
                io.Float.Input(
                    "distance",
                    default=2.0,
                    min=1e-6,
                    max=1e9,
                    step=0.01,
                    tooltip="Distance of that pixel along the view direction (z), in metres or any unit you want.",
                ),
                io.Int.Input(
                    "image_index",
                    default=-1,
                    min=-1,
                    max=100000,
                    tooltip="Image of the batch that the pixel is in; its scale is used for all. -1: the pixel has "
                    "this distance in every image.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], x_px, y_px, distance, image_index) -> io.NodeOutput:
        packet = read_geometry(geometry)
        count = len(packet.depth)
        if image_index >= count:
            raise ValueError(f"got image_index {image_index} for a batch of {count}; expected -1 to {count - 1}")
        chosen = range(count) if image_index < 0 else [image_index]
        fits = [fit_distance(packet.depth[i], packet.valid[i], x_px, y_px, distance) for i in chosen]
        return _apply(cls, packet, fits)


class MetricFromReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingMetricFromReference",
            display_name="Metric Depth from Reference",
            category=GEOMETRY_CATEGORY,
            description="Fits the depth to another geometry of the same view, such as MoGe's or Depth Anything 3's "
            "metric one. Robust: samples that contradict the fit are left out.",
            inputs=[
                GEOMETRY.Input("geometry"),
                GEOMETRY.Input("reference", tooltip="One for all images or one for each; any size of that proportion."),
                *_fit_inputs(),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, geometry, reference, fit: str, one_fit_for_batch: bool) -> io.NodeOutput:
        packet, other = read_geometry(geometry), read_geometry(reference)
        count = len(packet.depth)
        _check_count(len(other.depth), count, "references")
        depths = [_expand(values, count) for values in (packet.depth, packet.valid, other.depth, other.valid)]
        if one_fit_for_batch:
            depths = [values.flatten(0, 1)[None] for values in depths]  # the maps below one another are one map
        fits = [fit_reference(*maps, with_shift=fit == FITS[1]) for maps in zip(*depths, strict=True)]
        return _apply(cls, packet, fits)


class MetricFromPoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingMetricFromPoints",
            display_name="Metric Depth from Points",
            category=GEOMETRY_CATEGORY,
            description="Fits the depth to measured points: typed, or the pixels of a sparse depth map (LiDAR, a depth "
            "sensor, a structure-from-motion export). Robust: with ten points, three may be wrong.",
            inputs=[
                GEOMETRY.Input("geometry"),
                io.String.Input(
                    "points",
                    default="",
                    multiline=True,
                    tooltip="One point a line: x, y, distance. x and y in pixels from the top left, distance (z) in "
                    "metres. A fourth number is the image of the batch; without it the point is in every image.",
                ),
                *_fit_inputs(),
                GEOMETRY.Input(
                    "sparse", optional=True, tooltip="Measured depth of the same view, mostly empty: from 'Load Depth'."
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, geometry, points: str, fit: str, one_fit_for_batch: bool, sparse=None) -> io.NodeOutput:
        packet = read_geometry(geometry)
        samples = _samples(packet, parse_points(points), None if sparse is None else read_geometry(sparse))
        depth, valid = packet.depth, packet.valid
        if one_fit_for_batch:
            height = depth.shape[1]
            samples = [np.concatenate([s + [0, height * i, 0] for i, s in enumerate(samples)])]
            depth, valid = depth.flatten(0, 1)[None], valid.flatten(0, 1)[None]
        with_shift = fit == FITS[1]
        fits = [fit_points(*row, with_shift=with_shift) for row in zip(depth, valid, samples, strict=True)]
        return _apply(cls, packet, fits)


def _samples(packet: Geometry, typed: np.ndarray, sparse: Geometry | None) -> list[np.ndarray]:
    """(N,3) points for each image."""
    count, height, width = packet.depth.shape
    images = typed[:, 3]
    if len(typed) and (images.max() >= count or images.min() < ALL_IMAGES):
        raise ValueError(f"got a point in image {images.max():g} of a batch of {count}; images count from 0")
    if ((typed[:, :2] < 0) | (typed[:, :2] >= [width, height])).any():
        raise ValueError(f"got points outside the depth map of {width} x {height} pixels; x and y are its pixels")
    samples = [typed[(images == ALL_IMAGES) | (images == index), :3] for index in range(count)]
    if sparse is not None:
        _check_count(len(sparse.depth), count, "sparse maps")
        maps = zip(_expand(sparse.depth, count), _expand(sparse.valid, count), strict=True)
        samples = [np.concatenate((s, points_of_map(*m, width, height))) for s, m in zip(samples, maps, strict=True)]
    if not any(map(len, samples)):
        raise ValueError("got no points; type lines of 'x, y, distance', or connect measured depth to sparse")
    return samples


def _apply(node: type[io.ComfyNode], packet: Geometry, fits: list[Fit]) -> io.NodeOutput:
    """The node's outputs: each image under its fit, or all under the only one."""
    each = fits * len(packet.depth) if len(fits) == 1 else fits
    fitted = [fit.apply(packet.depth[i], packet.valid[i]) for i, fit in enumerate(each)]
    depth, valid = (torch.stack(maps) for maps in zip(*fitted, strict=True))
    if not valid.any():
        raise ValueError("the fit leaves no depth above 0; fit the scale alone, or check the distances")
    geometry = make_geometry(depth, valid, packet.intrinsics, packet.image)
    if packet.normal is not None and not any(fit.shift for fit in fits):
        geometry["normal"] = packet.normal  # a scale turns no surface
    report = "\n".join(_line(i, fit, len(fits)) for i, fit in enumerate(fits))
    lost = int((packet.valid & ~valid).sum())
    report += f"\n{lost} pixels ended at or behind the camera and are masked out." if lost else ""
    show_on_node(node, report)
    return io.NodeOutput(geometry, *([getattr(f, k) for f in fits] for k in ("scale", "shift", "residual")), report)


def _line(index: int, fit: Fit, count: int) -> str:
    start = f"image {index}: " if count > 1 else ""
    shift = f" {'+' if fit.shift >= 0 else '-'} {abs(fit.shift):.4g}" if fit.shift else ""
    return (
        f"{start}depth x {fit.scale:.6g}{shift}; mean error {100 * fit.residual:.2g} % of {fit.used} samples, worst of "
        f"all {100 * fit.worst:.2g} %; left out: {fit.outliers} outliers, {fit.dropped} without depth"
    )


def _expand(values: torch.Tensor, count: int) -> torch.Tensor:
    return values.expand(count, -1, -1)


def _check_count(got: int, count: int, what: str) -> None:
    if got not in (1, count):
        raise ValueError(f"got {got} {what} for {count} depth maps; expected 1 or one for each")


NODES = [MetricFromDistance, MetricFromReference, MetricFromPoints]
