"""The workflow of the geometry nodes alone, which needs no model; see catalogue.py for the others."""

from pathlib import Path

from .builder import Group, Link, Node, Note, Workflow

SCENE, METRIC_DEPTH = "modality_forcing_scene_hole.png", "modality_forcing_depth_16bit.png"
FOV_X_DEG = 72.76  # of the example scene
# The ground runs to the horizon, where it is steeper than the default of 0.04.
CUT = {"edge_threshold": 0.15}
MOVE = {"right": 1.5, "yaw_deg": -8.0, **CUT}
NOTE = Path(__file__).parent / "notes" / "depth_to_3d.md"


def metric_scene(column: int) -> list[Node]:
    """A picture and its depth file as metric geometry, "posed"."""
    depth = {"file": METRIC_DEPTH, "image": Link("picture", "IMAGE")}
    camera = {"geometry": Link("depth_file", "geometry"), "camera": "horizontal FOV", "fov_deg": FOV_X_DEG}
    return [
        Node("picture", "LoadImage", {"image": SCENE}, column, "Your Picture"),
        Node("depth_file", "ModalityForcingLoadDepth", depth, column, "Its Depth in Metres"),
        Node("posed", "ModalityForcingSetCamera", camera, column),
    ]


def depth_to_3d() -> Workflow:
    """Depth file to pictures, point cloud and mesh."""
    geometry = {"geometry": Link("posed", "geometry")}
    heading, _, text = NOTE.read_text(encoding="utf-8").partition("\n")
    saved = {"filename_prefix": "modality_forcing/to_3d"}
    items = [
        Note(text.strip(), title=heading.removeprefix("# "), width=420, height=420),
        *metric_scene(1),
        Node("cloud", "ModalityForcingPointCloud", {**geometry, **CUT}, 2),
        Node("mesh", "ModalityForcingMesh", {**geometry, **CUT}, 2),
        Node("depth", "ModalityForcingDepthPicture", {**geometry, "colour_map": "turbo"}, 3),
        Node("normals", "ModalityForcingNormalPicture", geometry, 3),
        Node("saved_cloud", "ModalityForcingSavePointCloud", {"point_cloud": Link("cloud", "point cloud"), **saved}, 4),
        Node("saved_mesh", "ModalityForcingSaveMesh", {"mesh": Link("mesh"), **saved}, 4),
        _picture("depth", Link("depth", "picture")),
        _picture("normals", Link("normals", "picture")),
    ]
    groups = [
        Group("1  Picture, depth, camera", ["picture", "depth_file", "posed"]),
        Group("2  Points and surface", ["cloud", "mesh"]),
        Group("3  Pictures", ["depth", "normals"]),
    ]
    return Workflow("depth_to_3d", items, groups)


def _picture(what: str, images: Link) -> Node:
    inputs = {"images": images, "filename_prefix": f"modality_forcing/to_3d_{what}"}
    return Node(f"saved_{what}", "SaveImage", inputs, 4, height=320)
