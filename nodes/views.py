"""Views of geometry from a moved camera."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.geometry.camera import intrinsics_from_fov_x, intrinsics_from_fov_y
from ..model.geometry.edges import DEFAULT_EDGE
from ..model.geometry.packets import make_geometry, read_geometry
from ..model.geometry.pointcloud import point_clouds
from ..model.geometry.pose import camera_pose, fov_y_from_load3d, pose_from_load3d
from ..model.geometry.render import DEFAULT_CRACKS, render_views
from .native.progress import steps
from .sockets import GEOMETRY, GEOMETRY_CATEGORY, POINT_CLOUD

MOVES = {
    "right": "Moves the camera to the right, in the unit of the depth (relative depth has a mean of about 1).",
    "up": "Moves the camera up, in the unit of the depth.",
    "forward": "Moves the camera forward, in the unit of the depth.",
}
TURNS = {
    "yaw_deg": "Turns to the right, in degrees.",
    "pitch_deg": "Turns upwards, in degrees.",
    "roll_deg": "Turns clockwise, in degrees.",
}


class RenderView(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingRenderView",
            display_name="Render Moved View",
            category=GEOMETRY_CATEGORY,
            description="Shows the geometry from a moved camera: picture, depth, and the mask of what the first camera "
            "did not see, for inpainting.",
            inputs=[
                GEOMETRY.Input("geometry"),
                *(
                    io.Float.Input(name, default=0.0, min=-1e6, max=1e6, step=0.01, tooltip=tooltip)
                    for name, tooltip in MOVES.items()
                ),
                *(
                    io.Float.Input(name, default=0.0, min=-360.0, max=360.0, step=0.1, tooltip=tooltip)
                    for name, tooltip in TURNS.items()
                ),
                io.Float.Input(
                    "pivot",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.01,
                    tooltip="Turns about the point at this depth straight ahead (an orbit), in the unit of the depth. "
                    "0: about the camera itself.",
                ),
                io.Int.Input(
                    "frames",
                    default=1,
                    min=1,
                    max=10000,
                    tooltip="1: the moved view alone. More: a path of so many views, from the source view to the moved "
                    "one. With a batch: 1, or one for each image.",
                ),
                io.Int.Input("width", default=0, min=0, max=16384, tooltip="Of the view, pixels. 0: as the source."),
                io.Int.Input("height", default=0, min=0, max=16384, tooltip="Of the view, pixels. 0: as the source."),
                io.Float.Input(
                    "fov_x_deg",
                    default=0.0,
                    min=0.0,
                    max=170.0,
                    step=0.1,
                    tooltip="Horizontal field of view of the view, in degrees. 0: as the source, or that of the "
                    "connected camera.",
                ),
                io.Float.Input(
                    "edge_threshold",
                    default=DEFAULT_EDGE,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Leaves out pixels at depth edges, which would fly between surfaces. 0 keeps all. Not used "
                    "with a connected point cloud.",
                ),
                io.Int.Input(
                    "cracks",
                    default=DEFAULT_CRACKS,
                    min=0,
                    max=8,
                    tooltip="Closes gaps of up to so many pixels within one surface. 0 shows the samples alone.",
                ),
                io.Load3DCamera.Input(
                    "camera",
                    optional=True,
                    tooltip="Replaces moves and turns. In the unit of the depth, which core's own viewers rescale.",
                ),
                POINT_CLOUD.Input(
                    "point_cloud", optional=True, tooltip="Filtered points to show instead of the geometry's own."
                ),
            ],
            outputs=[
                io.Image.Output(id="image", display_name="image", tooltip="Black in holes."),
                GEOMETRY.Output(id="view", display_name="geometry", tooltip="Depth, camera and colours of the view."),
                io.Mask.Output(id="holes", display_name="holes", tooltip="White where nothing is known: inpaint it."),
            ],
        )

    @classmethod
    def execute(
        cls, geometry: dict[str, Any], width, height, fov_x_deg, edge_threshold, cracks, point_cloud=None, **motion: Any
    ) -> io.NodeOutput:
        source = read_geometry(geometry)
        size = width or source.depth.shape[2], height or source.depth.shape[1]
        clouds = point_cloud or point_clouds(geometry, edge_threshold=edge_threshold)
        poses = _poses(len(clouds), **motion)
        lens = _lens(source.intrinsics, size, (source.depth.shape[2], source.depth.shape[1]))
        intrinsics = _view_camera(lens, size, fov_x_deg, motion.get("camera"))
        view = render_views(clouds, poses, intrinsics, *size, cracks=cracks, before_view=steps())
        packet = make_geometry(view.depth, ~view.hole, intrinsics, view.image)
        packet["pose"] = poses.expand(len(view.depth), -1, -1)  # for 'Add View to Scene'; see pose.py
        return io.NodeOutput(view.image, packet, view.hole.float())


def _poses(clouds: int, frames: int, camera: dict[str, Any] | None = None, **motion: float) -> Tensor:
    """(V,4,4)."""
    if frames < 1 or (clouds > 1 and frames not in (1, clouds)):
        raise ValueError(f"got {frames} frames for a batch of {clouds}; expected 1, or one for each image")
    if camera is not None:
        return pose_from_load3d(camera)[None].repeat(frames, 1, 1)
    pivot = motion.pop("pivot")
    shares = [1.0] if frames == 1 else [index / (frames - 1) for index in range(frames)]
    moves = ({name: value * share for name, value in motion.items()} for share in shares)
    return torch.stack([camera_pose(**move, pivot=pivot) for move in moves])


def _lens(intrinsics: Tensor, size: tuple[int, int], source: tuple[int, int]) -> Tensor:
    """The source's K for another picture size: the same horizontal field of view, square pixels kept."""
    if size == source:
        return intrinsics
    lens = intrinsics.clone()
    lens[:, 1] *= (size[0] * source[1]) / (size[1] * source[0])
    lens[:, 1, 2] += 0.5 * (1.0 - (size[0] * source[1]) / (size[1] * source[0]))
    return lens


def _view_camera(lens: Tensor, size: tuple[int, int], fov_x_deg: float, camera: dict[str, Any] | None) -> Tensor:
    """(1,3,3) or (B,3,3) normalised K of the view: a stated field of view, the connected camera's, or the source's."""
    if camera is not None and camera.get("cameraType", "perspective") != "perspective":
        raise ValueError(f"got a camera of type {camera['cameraType']!r}; only perspective views can be rendered")
    if fov_x_deg > 0.0:
        return intrinsics_from_fov_x(fov_x_deg, *size)
    fov_y_deg = None if camera is None else fov_y_from_load3d(camera)
    return lens if fov_y_deg is None else intrinsics_from_fov_y(fov_y_deg, *size)


NODES = [RenderView]
