"""A scene that grows view by view: render a moved view, paint its holes, add it."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.geometry.edges import DEFAULT_EDGE
from ..model.geometry.packets import read_geometry
from ..model.geometry.pointcloud import PointCloud
from ..model.geometry.pose import checked_pose
from ..model.geometry.scene import add_view, view_to_paint
from ..model.network.config import DEPTH_PATCH
from .native.progress import steps
from .notes import show_on_node
from .sockets import GEOMETRY, GEOMETRY_CATEGORY, POINT_CLOUD


class EncodeView(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingEncodeView",
            display_name="Encode View for Painting",
            category=GEOMETRY_CATEGORY,
            description="Makes a joint latent of a moved view, with a mask that lets a sampler paint picture and depth "
            "where nothing is known. Holes grow to whole 16-pixel cells, so that none of their black stays.",
            inputs=[
                GEOMETRY.Input("view", tooltip="The geometry of 'Render Moved View': depth, holes and colours."),
                io.Vae.Input("vae"),
                io.Int.Input(
                    "margin",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels around the cells with holes that are painted too, up to whole cells.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    id="latent", display_name="latent", tooltip="To 'Image as Condition' with the inverse of painted."
                ),
                io.Mask.Output(
                    id="known",
                    display_name="known",
                    tooltip="White where depth is known, pixel by pixel. As mask of 'Depth as Condition' it stays as "
                    "it is; 'Guide Depth to Points' on the view fits better.",
                ),
                io.Mask.Output(id="painted", display_name="painted", tooltip="White in the cells that are painted."),
            ],
        )

    @classmethod
    def execute(cls, view: dict[str, Any], vae, margin: int) -> io.NodeOutput:
        packet = read_geometry(view)
        ready = view_to_paint(packet.image, packet.depth.cpu(), packet.valid.cpu(), margin)
        rgb = vae.encode(ready.image)
        latent = torch.cat([rgb, ready.codes.to(rgb)], dim=1)
        mask = ready.paint.float()
        painted = mask.repeat_interleave(DEPTH_PATCH, 1).repeat_interleave(DEPTH_PATCH, 2)
        return io.NodeOutput({"samples": latent, "noise_mask": painted[:, None]}, ready.known.float(), painted)


class AddView(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingAddView",
            display_name="Add View to Scene",
            category=GEOMETRY_CATEGORY,
            description="Adds what a painted view shows and the scene did not have. The view's depth is brought to the "
            "scene by scale, shift and a bend over what both know, so that it begins where the scene ends; what was "
            "there stays as it is.",
            inputs=[
                POINT_CLOUD.Input("scene", tooltip="The cloud that the view was rendered from."),
                GEOMETRY.Input("painted", tooltip="From 'Decode Depth' of the painted latent, with its picture."),
                GEOMETRY.Input("view", tooltip="From 'Render Moved View': what was known, and where its camera stood."),
                io.Float.Input(
                    "edge_threshold",
                    default=DEFAULT_EDGE,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Leaves out added pixels at depth edges, which would fly between surfaces. 0 keeps all.",
                ),
                io.Boolean.Input(
                    "icp",
                    default=False,
                    optional=True,
                    tooltip="Moves what is added by iterative closest points over what both know (Open3D). Off: the "
                    "camera's exact pose, which is as good for views rendered from the scene.",
                ),
                io.Float.Input(
                    "far",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.01,
                    optional=True,
                    tooltip="Leaves out added points deeper than this, such as the sky, in the unit of the scene. 0 "
                    "keeps all.",
                ),
            ],
            outputs=[
                POINT_CLOUD.Output(id="point_cloud", display_name="scene"),
                GEOMETRY.Output(id="geometry", display_name="geometry", tooltip="The whole view, in the scene's unit."),
                io.Int.Output(id="points", display_name="points", tooltip="How many points were added."),
                io.Image.Output(
                    id="image",
                    display_name="image",
                    tooltip="The whole view: as it was where known, painted elsewhere.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        scene: list[PointCloud],
        painted: dict[str, Any],
        view: dict[str, Any],
        edge_threshold: float,
        icp: bool = False,
        far: float = 0.0,
    ) -> io.NodeOutput:
        merged, geometry = add_view(_only(scene), painted, view, _pose(view), edge_threshold, icp, far, steps())
        added = len(merged) - len(scene[0])
        show_on_node(cls, f"{added} points added to {len(scene[0])}")
        return io.NodeOutput([merged], geometry, added, geometry["image"])


def _only(scene: list[PointCloud]) -> PointCloud:
    if len(scene) != 1:
        raise ValueError(f"got {len(scene)} point clouds; a scene is one. Use a batch of one image")
    return scene[0]


def _pose(view: dict[str, Any]) -> Tensor:
    """(4,4)."""
    if not isinstance(view, dict) or "pose" not in view or len(view["pose"]) != 1:
        raise ValueError("got a view without one pose; connect the geometry of 'Render Moved View', frames 1")
    return checked_pose(view["pose"][0])


NODES = [EncodeView, AddView]
