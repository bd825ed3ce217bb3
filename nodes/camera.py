"""Cameras of geometry, and geometry from and to other nodes' packets."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.geometry.camera import (
    focal_px,
    fov_deg,
    intrinsics_from_focal_mm,
    intrinsics_from_focal_px,
    intrinsics_from_fov_x,
    intrinsics_from_fov_y,
)
from ..model.geometry.packets import geometry_from_da3, geometry_to_da3, read_geometry, with_camera
from .pictures import depth_of
from .sockets import GEOMETRY, GEOMETRY_CATEGORY

DA3_GEOMETRY = io.Custom("DA3_GEOMETRY")
CAMERAS = ("horizontal FOV", "vertical FOV", "focal length in pixels", "focal length in mm", "from reference", "keep")


class SetCamera(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingSetCamera",
            display_name="Set Camera",
            category=GEOMETRY_CATEGORY,
            description="Gives the geometry another camera: its depth stays, its points are computed anew. Cures point "
            "clouds that look squeezed or stretched in depth.",
            inputs=[
                GEOMETRY.Input("geometry"),
                io.Combo.Input(
                    "camera",
                    options=list(CAMERAS),
                    default=CAMERAS[0],
                    tooltip="Which of the inputs below says it; the others have no effect. from reference: the camera "
                    "of another geometry (MoGe's, say). keep: change nothing, only read the camera.",
                ),
                io.Float.Input(
                    "fov_deg",
                    default=55.0,
                    min=1.0,
                    max=170.0,
                    step=0.1,
                    tooltip="Field of view in degrees: left to right, or top to bottom.",
                ),
                io.Float.Input(
                    "focal_px",
                    default=500.0,
                    min=1.0,
                    max=1e6,
                    step=0.1,
                    tooltip="Focal length in pixels of a picture calibrated_width_px wide.",
                ),
                io.Float.Input(
                    "centre_x_px",
                    default=-1.0,
                    min=-1.0,
                    max=1e6,
                    step=0.1,
                    tooltip="Principal point of the calibration, column in pixels. -1: the middle. Focal length in "
                    "pixels only.",
                ),
                io.Float.Input(
                    "centre_y_px",
                    default=-1.0,
                    min=-1.0,
                    max=1e6,
                    step=0.1,
                    tooltip="Principal point of the calibration, row in pixels. -1: the middle. Focal length in pixels "
                    "only.",
                ),
                io.Int.Input(
                    "calibrated_width_px",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="Width of the picture that the numbers in pixels are for. 0: that of the depth.",
                ),
                io.Boolean.Input(
                    "integer_centres",
                    default=False,
                    tooltip="The calibration counts the first pixel's centre as 0 instead of 0.5, as OpenCV, ROS and "
                    "most data sets do. Matters for the principal point only.",
                ),
                io.Float.Input(
                    "focal_mm",
                    default=35.0,
                    min=0.1,
                    max=10000.0,
                    step=0.1,
                    tooltip="Focal length in millimetres; for the sensor width 36 it is the 35 mm equivalent.",
                ),
                io.Float.Input(
                    "sensor_width_mm",
                    default=36.0,
                    min=0.1,
                    max=1000.0,
                    step=0.1,
                    tooltip="Width of the sensor that the picture shows, in millimetres.",
                ),
                GEOMETRY.Input("reference", optional=True, tooltip="Geometry whose camera to take."),
            ],
            outputs=[
                GEOMETRY.Output(id="posed", display_name="geometry"),
                io.Float.Output(
                    id="fov_x_deg", display_name="fov x", is_output_list=True, tooltip="Left to right, degrees."
                ),
                io.Float.Output(
                    id="fov_y_deg", display_name="fov y", is_output_list=True, tooltip="Top to bottom, degrees."
                ),
                io.Float.Output(
                    id="focal_x_px", display_name="focal px", is_output_list=True, tooltip="In pixels of the depth."
                ),
            ],
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], camera: str, **settings: Any) -> io.NodeOutput:
        packet = geometry if camera == "keep" else with_camera(geometry, _intrinsics(camera, geometry, **settings))
        checked = read_geometry(packet)
        # One camera for the whole batch is reported once, so that it stays one number downstream.
        cameras = checked.intrinsics
        cameras = cameras[:1] if torch.equal(cameras, cameras[:1].expand_as(cameras)) else cameras
        height, width = checked.depth.shape[1:]
        values = (*fov_deg(cameras), focal_px(cameras, width, height)[0])
        return io.NodeOutput(packet, *(value.tolist() for value in values))


def _intrinsics(
    camera: str,
    geometry: dict[str, Any],
    *,
    fov_deg: float,
    focal_px: float,
    centre_x_px: float,
    centre_y_px: float,
    calibrated_width_px: int,
    integer_centres: bool,
    focal_mm: float,
    sensor_width_mm: float,
    reference: dict[str, Any] | None = None,
) -> Tensor:
    """(1,3,3) or (B,3,3) normalised K."""
    if camera == "from reference":
        if reference is None:
            raise ValueError("connect the geometry whose camera is to be taken to 'reference'")
        return read_geometry(reference).intrinsics
    height, width = depth_of(geometry)[0].shape[1:]
    if camera == "horizontal FOV":
        return intrinsics_from_fov_x(fov_deg, width, height)
    if camera == "vertical FOV":
        return intrinsics_from_fov_y(fov_deg, width, height)
    if camera == "focal length in mm":
        return intrinsics_from_focal_mm(focal_mm, sensor_width_mm, width, height)
    zoom = calibrated_width_px / width if calibrated_width_px else 1.0
    return intrinsics_from_focal_px(
        focal_px / zoom,
        width,
        height,
        centre_x_px=_resized(centre_x_px, zoom, integer_centres),
        centre_y_px=_resized(centre_y_px, zoom, integer_centres),
    )


def _resized(centre_px: float, zoom: float, integer_centres: bool) -> float | None:
    """A principal point, in half-pixel centres of a picture `zoom` times smaller; None for the middle."""
    return None if centre_px < 0 else (centre_px + 0.5 * integer_centres) / zoom


class GeometryFromDA3(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingGeometryFromDA3",
            display_name="Geometry from Depth Anything 3",
            category=GEOMETRY_CATEGORY,
            description="Turns core's Depth Anything 3 geometry into the MoGe geometry that this pack's nodes and "
            "core's MoGe nodes take.",
            inputs=[
                DA3_GEOMETRY.Input("da3_geometry"),
                io.Float.Input(
                    "sky_threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Pixels with at least this probability of sky are masked out. Mono models only.",
                ),
                io.Float.Input(
                    "confidence_threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Masks out pixels below this confidence, stretched to 0..1 in each image. 0 keeps all.",
                ),
                io.Float.Input(
                    "fov_x_deg",
                    default=0.0,
                    min=0.0,
                    max=170.0,
                    step=0.1,
                    tooltip="Horizontal field of view in degrees; mono models need it. 0: the camera of the packet.",
                ),
            ],
            outputs=[GEOMETRY.Output(id="geometry", display_name="geometry")],
        )

    @classmethod
    def execute(cls, da3_geometry: dict[str, Any], sky_threshold, confidence_threshold, fov_x_deg) -> io.NodeOutput:
        intrinsics = None
        if fov_x_deg > 0:
            height, width = depth_of(da3_geometry)[0].shape[1:]
            intrinsics = intrinsics_from_fov_x(fov_x_deg, width, height)
        geometry = geometry_from_da3(
            da3_geometry, intrinsics, sky_threshold=sky_threshold, confidence_threshold=confidence_threshold
        )
        return io.NodeOutput(geometry)


class GeometryToDA3(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingGeometryToDA3",
            display_name="Geometry to Depth Anything 3",
            category=GEOMETRY_CATEGORY,
            description="Turns geometry into the packet that core's Depth Anything 3 nodes take.",
            inputs=[GEOMETRY.Input("geometry")],
            outputs=[DA3_GEOMETRY.Output(id="da3_geometry", display_name="da3_geometry")],
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any]) -> io.NodeOutput:
        return io.NodeOutput(geometry_to_da3(geometry))


NODES = [SetCamera, GeometryFromDA3, GeometryToDA3]
