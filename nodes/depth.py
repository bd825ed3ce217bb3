"""Depth latents to geometry and pictures, and back."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..model.depth import codec
from ..model.depth.pictures import depth_from_picture, depth_picture
from ..model.geometry.camera import intrinsics_from_fov_x
from ..model.geometry.packets import make_geometry, read_geometry
from ..model.resize import checked_masks, fitted_size, pictures_of_view, resize_depth
from .latents import check_known, modality_latent
from .native.latent_format import SIZE_KEY
from .notes import show_on_node
from .sockets import CATEGORY, GEOMETRY, depth_picture_inputs

FAR = 100.0  # times the mean: codes within 0.01 of infinity, where a model's error decides
DEPTH_OUTPUTS = [
    io.Latent.Output(id="depth", display_name="depth", tooltip="Depth latent, 256 channels; scale is lost."),
    io.Mask.Output(id="valid", display_name="valid", tooltip="White where depth is known."),
]


class DecodeDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingDecodeDepth",
            display_name="Decode Depth",
            category=CATEGORY,
            description="Turns the depth of a latent into geometry (for point clouds, meshes and core's MoGe nodes) "
            "and into a depth picture as ControlNets take it: disparity, near = white, range of each image.",
            inputs=[
                io.Latent.Input("latent", tooltip="Joint latent or depth latent."),
                io.Float.Input(
                    "fov_x_deg",
                    default=55.0,
                    min=1.0,
                    max=170.0,
                    step=0.1,
                    tooltip="Horizontal field of view of the camera, in degrees. The model does not predict it.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that the depth belongs to: colours the geometry, and the depth is returned at "
                    "its size, cut at edges where the picture's colours change.",
                ),
                io.Combo.Input(
                    "far_rule",
                    options=list(codec.FAR_RULES),
                    default=codec.FAR_RULES[0],
                    optional=True,
                    tooltip="What counts as far (sky, background) and is left out of geometry and picture. multiple of "
                    "the mean: deeper than far_limit times the mean depth. percent of pixels: the farthest so many.",
                ),
                io.Float.Input(
                    "far_limit",
                    default=20.0,
                    min=0.0,
                    max=1e6,
                    step=0.1,
                    optional=True,
                    tooltip="Times the mean depth (20 is far beyond a street's end), or percent of each image's pixels "
                    "(1 is a little sky). Not for off.",
                ),
            ],
            outputs=[
                GEOMETRY.Output(id="geometry", display_name="geometry", tooltip="Relative depth, mean about 1."),
                io.Image.Output(id="picture", display_name="depth picture", tooltip="Near = white, float."),
                io.Mask.Output(id="valid", display_name="valid", tooltip="White where depth is known."),
                io.Mask.Output(id="far", display_name="far", tooltip="White where far_rule left depth out."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, latent: dict[str, Any], fov_x_deg, image=None, far_rule=codec.FAR_RULES[0], far_limit=20.0
    ) -> io.NodeOutput:
        depth, valid = codec.decode(modality_latent(latent, "depth"))
        if image is not None:
            image = pictures_of_view(image, len(depth), depth.shape[2], depth.shape[1])
            depth, valid = resize_depth(depth, valid, image.shape[2], image.shape[1], image)
            image = image.expand(len(depth), -1, -1, -1)
        height, width = depth.shape[1:]
        far = codec.far_pixels(depth, valid, far_rule, far_limit)
        if far_rule == codec.FAR_RULES[0]:
            _warn_of_far(cls, depth, valid)
        valid &= ~far
        geometry = make_geometry(depth, valid, intrinsics_from_fov_x(fov_x_deg, width, height), image)
        return io.NodeOutput(geometry, depth_picture(depth, valid), valid.float(), far.float())


def _warn_of_far(node: type[io.ComfyNode], depth: Tensor, valid: Tensor) -> None:
    count = int((valid & (depth > FAR)).sum())
    if count:
        text = f"{count} pixels are farther than {FAR:g} times the mean (sky, mostly): far_rule can leave them out"
        show_on_node(node, text, warning=True)


def depth_of_picture(
    picture: Tensor, meaning: str, near: float, far: float, scale: float, black_is_hole: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Depth (B,H,W) and valid (B,H,W) of a depth picture, where the mask allows."""
    depth, valid = depth_from_picture(picture, meaning, near=near, far=far, scale=scale, black_is_invalid=black_is_hole)
    return depth, valid if mask is None else valid & mask_of_depth(mask, depth)


class EncodeDepthPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingEncodeDepthPicture",
            display_name="Encode Depth Picture",
            category=CATEGORY,
            description="Turns a grey depth picture into a depth latent. What its values mean is yours to say. Sides "
            "that are not multiples of 16 are resized to the nearest one.",
            inputs=[
                *depth_picture_inputs(),
                io.Mask.Input("mask", optional=True, tooltip="White where the depth may be used."),
            ],
            outputs=DEPTH_OUTPUTS,
        )

    @classmethod
    def execute(cls, picture, meaning, near, far, scale, black_is_hole, mask: Tensor | None = None) -> io.NodeOutput:
        return _encode(*depth_of_picture(picture, meaning, near, far, scale, black_is_hole, mask))


class EncodeGeometry(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingEncodeGeometry",
            display_name="Encode Geometry Depth",
            category=CATEGORY,
            description="Turns the depth of a geometry (MoGe, or any pack's MOGE_GEOMETRY) into a depth latent. Sides "
            "that are not multiples of 16 are resized to the nearest one.",
            inputs=[
                GEOMETRY.Input("geometry"),
                io.Mask.Input("mask", optional=True, tooltip="White where the depth may be used."),
            ],
            outputs=DEPTH_OUTPUTS,
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], mask: Tensor | None = None) -> io.NodeOutput:
        packet = read_geometry(geometry)
        valid = packet.valid if mask is None else packet.valid & mask_of_depth(mask, packet.depth)
        return _encode(packet.depth, valid)


def mask_of_depth(mask: Tensor, depth: Tensor) -> Tensor:
    """A MASK as (B or 1,H,W) bool of the depth's size."""
    mask = checked_masks(mask).to(depth.device)
    if mask.shape[-2:] != depth.shape[-2:] or mask.shape[0] not in (1, depth.shape[0]):
        raise ValueError(
            f"got a mask of shape {tuple(mask.shape)} for depth of shape {tuple(depth.shape)}; expected the same"
        )
    return mask >= 0.5


def _encode(depth: Tensor, valid: Tensor) -> io.NodeOutput:
    height, width = depth.shape[1:]
    depth, valid = resize_depth(depth, valid, *fitted_size(width, height, max(width, height)))
    samples = codec.encode(depth, valid)
    check_known(samples, "the depth to encode")
    return io.NodeOutput({"samples": samples, SIZE_KEY: tuple(samples.shape[-2:])}, valid.float())


NODES = [DecodeDepth, EncodeDepthPicture, EncodeGeometry]
