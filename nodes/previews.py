"""Viewers in the browser: depth, and the scene seen from any side. What the browser gets: preview_results.py."""

import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.geometry.browser_packets import camera_of, cloud_packet, geometry_packet, mesh_cloud, mesh_packet, scene_of
from ..model.geometry.camera import fov_deg, intrinsics_from_fov_y
from ..model.geometry.looking import View, known_distance, median_depth, read_pick, read_view
from ..model.geometry.orbit import Orbit, orbit_from_load3d
from ..model.geometry.packets import make_geometry, read_geometry
from ..model.geometry.pointcloud import PointCloud
from ..model.geometry.render import render_views
from ..model.image_files import open_image
from ..model.resize import checked_masks
from .mesh import meshes_from_core
from .notes import show_on_node
from .preview_results import RESULTS, UI_KEY
from .sockets import GEOMETRY, GEOMETRY_CATEGORY, POINT_CLOUD

# Named by the viewer: cloud_<scene>_<image of the batch>_<time>.png
_SCREENSHOT = re.compile(r"cloud_([0-9a-f]{16})_(\d+)_\d+\.png")


def _written_input(name: str, what: str, *, optional: bool = True) -> io.String.Input:
    """A text that the viewer writes; its row is hidden in the browser."""
    tooltip = f"Written by the viewer: {what} Empty: none."
    return io.String.Input(name, default="", socketless=True, tooltip=tooltip, optional=optional)


def _pick_outputs() -> list[io.Output]:
    without = "Without a picked point: the middle, with the depth it has."
    return [
        io.Float.Output(id="x_px", display_name="x_px", tooltip=f"Column of the picked point. {without}"),
        io.Float.Output(id="y_px", display_name="y_px", tooltip=f"Row of the picked point. {without}"),
        io.Float.Output(
            id="distance",
            display_name="distance",
            tooltip="What the point's depth has to be for the stated length to be true: into Metric Depth from "
            "Distance. " + without,
        ),
    ]


class PreviewDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingPreviewDepth",
            display_name="Preview Depth",
            category=GEOMETRY_CATEGORY,
            description="Shows depth: value and 3D position under the pointer, range and colours changed in place. "
            "Compares it with a second one, and takes a point whose distance you know.",
            inputs=[
                GEOMETRY.Input("geometry"),
                _written_input("picked", "the point whose distance is known."),
                GEOMETRY.Input("compare", optional=True, tooltip="A second depth, shown beside a line that moves."),
                io.Mask.Input(
                    "uncertainty", optional=True, tooltip="Shown over the depth on demand; of the depth's size."
                ),
            ],
            outputs=_pick_outputs(),
            is_output_node=True,
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], picked="", compare=None, uncertainty=None) -> io.NodeOutput:
        shown = [_announce_geometry(geometry, "depth", uncertainty)]
        if compare is not None:
            shown.append(_announce_geometry(compare, "compare"))
        return io.NodeOutput(*known_distance(geometry, read_pick(picked)), ui={UI_KEY: shown})


class PreviewPointCloud(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingPreviewPointCloud",
            display_name="Point Cloud Viewer",
            category=GEOMETRY_CATEGORY,
            description="Look around: shows the points of a geometry, a point cloud or a mesh, first as the picture "
            "showed them, then from any side. 'Use this view' gives what the new camera sees, and the camera, on the "
            "next run.",
            inputs=[
                GEOMETRY.Input("geometry", tooltip="The scene, and the camera that the viewer opens at."),
                _written_input("screenshot", "a picture of the scene as shown, in the input folder.", optional=False),
                _written_input("view", "the camera of the outputs, and what it leaves out."),
                _written_input("picked", "the points whose distance is known."),
                POINT_CLOUD.Input(
                    "point_cloud", optional=True, tooltip="Shown as it is, instead of the geometry's own points."
                ),
                io.Mesh.Input("mesh", optional=True, tooltip="Shown instead of points."),
                io.Load3DCamera.Input(
                    "camera",
                    optional=True,
                    tooltip="Opens here and gives this view until another is chosen by hand. In the unit of the depth.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    tooltip="What the chosen view sees, or the screenshot; before either the picture itself.",
                ),
                io.Mask.Output(
                    id="holes", display_name="holes", tooltip="White where that view knows nothing: inpaint it."
                ),
                io.Load3DCamera.Output(
                    id="view_camera", display_name="camera", tooltip="Of that view, in the unit of the depth."
                ),
                GEOMETRY.Output(
                    id="seen",
                    display_name="geometry",
                    tooltip="Depth, camera and colours of that view: to 'Encode View for Painting' and to 'Add View to "
                    "Scene'.",
                ),
                *_pick_outputs(),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, geometry, screenshot="", view="", picked="", point_cloud=None, mesh=None, camera=None
    ) -> io.NodeOutput:
        shown = _announce_scene(geometry, point_cloud, mesh)
        chosen = _chosen_view(geometry, view, camera, shown)
        clouds = point_cloud if mesh is None else [mesh_cloud(own) for own in meshes_from_core(mesh)]
        image, holes, seen = _see(geometry, clouds, chosen)
        if screenshot:
            image, holes = _screenshot_or(image, holes, cls, screenshot, shown["result"])
        out = _camera_out(geometry, chosen.orbit)
        return io.NodeOutput(
            image, holes, out, seen, *known_distance(geometry, read_pick(picked)), ui={UI_KEY: [shown]}
        )


def _announce_geometry(geometry: dict[str, Any], role: str, uncertainty: Tensor | None = None) -> dict[str, Any]:
    """What the browser is told of a result; `role` says which it is where a node has several."""
    count = len(read_geometry(geometry).depth)
    if uncertainty is not None and len(checked_masks(uncertainty)) not in (1, count):
        raise ValueError(f"got {len(uncertainty)} masks of uncertainty for {count} depth maps; expected 1 or as many")
    name = RESULTS.add(count, _geometry_image, geometry, uncertainty)
    return {"role": role, "result": name, "count": count}


def _announce_scene(geometry: dict[str, Any], clouds: list[PointCloud] | None, mesh: Any) -> dict[str, Any]:
    """As `_announce_geometry`, of what is connected."""
    if mesh is None and clouds is None:
        return _announce_geometry(geometry, "scene")
    cameras = [camera_of(geometry, index) for index in range(len(read_geometry(geometry).depth))]
    make, shapes = (_cloud_image, clouds) if mesh is None else (_mesh_image, mesh)
    count = len(clouds) if mesh is None else len(mesh.vertices)
    if count != 1 and len(cameras) not in (1, count):
        raise ValueError(
            f"got {count} point clouds or meshes for a geometry of {len(cameras)} images; expected 1 or as many"
        )
    return {"role": "scene", "result": RESULTS.add(count, partial(make, cameras), shapes), "count": count}


def _geometry_image(index: int, geometry: dict[str, Any], uncertainty: Tensor | None) -> bytes:
    return geometry_packet(geometry, index, uncertainty)


def _cloud_image(cameras: list[dict[str, Any]], index: int, clouds: list[PointCloud]) -> bytes:
    return cloud_packet(clouds[index], cameras[index % len(cameras)])


def _mesh_image(cameras: list[dict[str, Any]], index: int, mesh: Any) -> bytes:
    return mesh_packet(meshes_from_core(mesh)[index], cameras[index % len(cameras)])


def _chosen_view(geometry: dict[str, Any], text: str, camera: dict[str, Any] | None, shown: dict[str, Any]) -> View:
    """The view chosen by hand, else the connected camera's, which the browser is told of."""
    chosen = read_view(text)
    if camera is None:
        return chosen
    orbit = orbit_from_load3d(camera, median_depth(read_geometry(geometry), 0))
    shown["camera"] = asdict(orbit)
    return chosen if chosen.orbit else View(orbit)


def _see(geometry: dict[str, Any], clouds: list[PointCloud] | None, view: View) -> tuple[Tensor, Tensor, Any]:
    """Image, holes and geometry of the view; the source view is the picture itself."""
    source = read_geometry(geometry)
    if view.orbit is None:
        return source.image, (~source.valid).float().cpu(), geometry
    height, width = source.depth.shape[1:]
    fov = view.orbit.fov_y_deg
    intrinsics = source.intrinsics if fov is None else intrinsics_from_fov_y(fov, width, height)
    pose = view.orbit.pose()[None]
    seen = render_views(clouds or view.clouds(geometry), pose, intrinsics, width, height)
    packet = make_geometry(seen.depth, ~seen.hole, intrinsics, seen.image)
    packet["pose"] = pose.expand(len(seen.depth), -1, -1)  # for 'Add View to Scene', as Render Moved View has it
    return seen.image, seen.hole.float(), packet


def _camera_out(geometry: dict[str, Any], orbit: Orbit | None) -> dict[str, Any]:
    source = read_geometry(geometry)
    if orbit is None:
        distance = median_depth(source, 0)
        orbit = Orbit((0.0, 0.0, distance), distance)
    return orbit.load3d(float(fov_deg(source.intrinsics)[1][0]))


def _screenshot_or(
    image: Tensor, holes: Tensor, node: type[io.ComfyNode], screenshot: str, result: str
) -> tuple[Tensor, Tensor]:
    """The screenshot, if it shows the scene that the viewer is given now; else the view, and the node says so."""
    picture = read_screenshot(screenshot)
    taken = _SCREENSHOT.fullmatch(Path(screenshot).name)
    now = RESULTS.image(result, int(taken[2])) if taken else None
    if now is not None and scene_of(now) == taken[1]:
        return picture
    text = "the screenshot is of another scene and was left out: take it again, or discard it in the viewer"
    show_on_node(node, text, warning=True)
    return image, holes


def read_screenshot(name: str) -> tuple[Tensor, Tensor]:
    """A picture of the input folder as IMAGE (1,H,W,3) and the mask (1,H,W) of what is transparent in it."""
    folder = Path(folder_paths.get_input_directory()).resolve()
    path = (folder / name.replace("\0", "")).resolve()  # no system has a file with such a name
    if not path.is_relative_to(folder):
        raise ValueError(f"got the screenshot {name!r}, which is outside ComfyUI's input folder; take it again")
    if not path.is_file():
        raise ValueError(
            f"the screenshot {name!r} is not in ComfyUI's input folder {folder} (a workflow from another machine?). "
            "Take it again in the viewer, or discard it there."
        )
    with open_image(path) as picture:
        pixels = np.asarray(picture.convert("RGBA"), np.float32) / 255
    pixels = torch.from_numpy(pixels)[None]
    return pixels[..., :3].contiguous(), 1 - pixels[..., 3]


NODES = [PreviewDepth, PreviewPointCloud]
