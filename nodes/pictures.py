"""Geometry to depth and normal pictures, and depth pictures to geometry."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..model.depth.colour_maps import COLOUR_MAPS
from ..model.depth.pictures import (
    DEFAULT_CLIP_PERCENT,
    INVALID_COLOURS,
    MAPPINGS,
    POLARITIES,
    RANGES,
    depth_picture,
    far_mask,
)
from ..model.depth.usable import usable_maps
from ..model.geometry.camera import intrinsics_from_fov_x
from ..model.geometry.edges import DEFAULT_EDGE
from ..model.geometry.normals import PICTURES, normal_picture
from ..model.geometry.packets import make_geometry, read_geometry
from ..model.geometry.pointcloud import surface_normals
from ..model.resize import pictures_of_view, resize_images
from .depth import depth_of_picture
from .sockets import FOV_TOOLTIP, GEOMETRY, GEOMETRY_CATEGORY, depth_picture_inputs, near_far_inputs


class DepthPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingDepthPicture",
            display_name="Depth Picture",
            category=GEOMETRY_CATEGORY,
            description="Draws the depth of a geometry: for ControlNets (the defaults), compositing, or in colours.",
            inputs=[
                GEOMETRY.Input("geometry"),
                io.Combo.Input(
                    "mapping",
                    options=list(MAPPINGS),
                    default="disparity",
                    tooltip="disparity: 1 / depth, as ControlNets and MiDaS. linear: depth, as renderers' z passes. "
                    "log: even steps of ratio. raw: the depth itself, in its unit, not scaled to 0..1.",
                ),
                io.Combo.Input(
                    "polarity",
                    options=list(POLARITIES),
                    default="near-white",
                    tooltip="Which end is white. ControlNets expect near-white. Not for raw.",
                ),
                io.Combo.Input(
                    "range_from",
                    options=list(RANGES),
                    default="per image",
                    tooltip="Where black and white lie. per batch: one range for all images, no flicker in a video. "
                    "fixed: near and far. Not for raw.",
                ),
                *near_far_inputs(
                    "Near end of a fixed range, in the unit of the depth.",
                    "Far end of a fixed range, in the unit of the depth.",
                ),
                io.Float.Input(
                    "clip_percent",
                    default=DEFAULT_CLIP_PERCENT,
                    min=0.0,
                    max=49.0,
                    step=0.1,
                    tooltip="Share of the pixels, in percent, that may saturate at each end of a measured range.",
                ),
                io.Combo.Input(
                    "colour_map",
                    options=list(COLOUR_MAPS),
                    default="grey",
                    tooltip="Colours for people; everything that reads depth from pictures needs grey.",
                ),
                io.Combo.Input(
                    "invalid_colour",
                    options=list(INVALID_COLOURS),
                    default="far",
                    tooltip="What pixels without depth get. far: the colour of the far end, as for sky. Raw: always 0.",
                ),
                io.Float.Input(
                    "far_ratio",
                    default=5.0,
                    min=0.01,
                    max=10000.0,
                    step=0.1,
                    tooltip="The far mask begins at so many times the median depth of its image.",
                ),
                io.Boolean.Input(
                    "holes_are_far",
                    default=True,
                    tooltip="Pixels without depth belong to the far mask: right for generated depth and MoGe (sky), "
                    "wrong for depth sensors.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="Float, not cut to 8 bits."),
                io.Mask.Output(id="far_mask", display_name="far mask", tooltip="White at sky and far background."),
                io.Mask.Output(id="valid", display_name="valid", tooltip="White where there is depth."),
            ],
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], far_ratio: float, holes_are_far: bool, **picture: Any) -> io.NodeOutput:
        depth, valid = depth_of(geometry)
        far = far_mask(depth, valid, ratio=far_ratio, holes_are_far=holes_are_far)
        return io.NodeOutput(depth_picture(depth, valid, **picture), far.float(), valid.float())


class NormalPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingNormalPicture",
            display_name="Normal Picture",
            category=GEOMETRY_CATEGORY,
            description="Draws the surface normals of a geometry as the camera sees them: the geometry's own, or "
            "derived from its points without mixing surfaces at depth edges.",
            inputs=[
                GEOMETRY.Input("geometry"),
                io.Combo.Input(
                    "convention",
                    options=list(PICTURES),
                    default="opengl",
                    tooltip="opengl: green is up (Blender, Unity, glTF, ControlNets). directx: green is down (Unreal).",
                ),
                io.Float.Input(
                    "edge_threshold",
                    default=DEFAULT_EDGE,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Neighbours whose depth differs by more than this share of the pixel's own are another "
                    "surface. 0 uses all neighbours.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="Flat blue where there is no normal."),
                io.Mask.Output(id="valid", display_name="valid", tooltip="White where the normal is known."),
            ],
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], convention: str, edge_threshold: float) -> io.NodeOutput:
        normal = surface_normals(read_geometry(geometry), edge_threshold).float().cpu()
        return io.NodeOutput(normal_picture(normal, convention), (normal != 0).any(-1).float())


class GeometryFromPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingGeometryFromPicture",
            display_name="Geometry from Depth Picture",
            category=GEOMETRY_CATEGORY,
            description="Turns a grey depth picture, from any estimator or renderer, and a camera into geometry. What "
            "the picture's values mean is yours to say.",
            inputs=[
                *depth_picture_inputs(),
                io.Float.Input("fov_x_deg", default=55.0, min=1.0, max=170.0, step=0.1, tooltip=FOV_TOOLTIP),
                io.Mask.Input("mask", optional=True, tooltip="White where the depth may be used."),
                io.Image.Input("image", optional=True, tooltip="The picture that the depth belongs to, for colours."),
            ],
            outputs=[GEOMETRY.Output(id="geometry", display_name="geometry")],
        )

    @classmethod
    def execute(
        cls, picture, meaning, near, far, scale, black_is_hole, fov_x_deg, mask=None, image=None
    ) -> io.NodeOutput:
        depth, valid = depth_of_picture(picture, meaning, near, far, scale, black_is_hole, mask)
        intrinsics = intrinsics_from_fov_x(fov_x_deg, depth.shape[2], depth.shape[1])
        return io.NodeOutput(make_geometry(depth, valid, intrinsics, colours_for(image, depth)))


def colours_for(image: Tensor | None, depth: Tensor) -> Tensor | None:
    """The image (1 or B,H',W',C) as colours (B,H,W,3) of depth (B,H,W): resized to it, but never to other proportions.

    Not the other way round: depth that is made larger has points that nobody measured.
    """
    if image is None:
        return None
    height, width = depth.shape[1:]
    pictures = resize_images(pictures_of_view(image, len(depth), width, height), width, height)
    return pictures.expand(len(depth), -1, -1, -1)


def depth_of(geometry: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Depth and valid (B,H,W) on the CPU, also of panoramas, which have no camera."""
    if not isinstance(geometry, dict) or "depth" not in geometry:
        raise ValueError("this geometry has no depth; connect the output of a geometry node")
    valid = usable_maps(geometry["depth"], geometry.get("mask"))
    return geometry["depth"].float().cpu(), valid.cpu()


NODES = [DepthPicture, NormalPicture, GeometryFromPicture]
