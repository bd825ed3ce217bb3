"""Pictures of what a workflow makes, added to its prompt: for the demo's sheet and for thumbnails."""

from .definitions import inputs_of
from .settings import CRACKS, EDGE, FAR, SIDE_VIEW

VIEWER = "ModalityForcingPreviewPointCloud"


def add_node(prompt: dict, object_info: dict, class_type: str, **inputs) -> str:
    """Add a node; widgets that are left out have their default. Returns its key."""
    key = str(1 + max(int(key.split(":")[0]) for key in prompt))
    defaults = {item.name: item.default for item in inputs_of(object_info[class_type]) if item.widget}
    prompt[key] = {"class_type": class_type, "inputs": {**defaults, **inputs}}
    return key


def seen_geometry(prompt: dict) -> list:
    """The link to what the prompt's (last) viewer shows."""
    return [node["inputs"]["geometry"] for node in prompt.values() if node["class_type"] == VIEWER][-1]


def add_pictures(prompt: dict, object_info: dict, far: float = FAR, colour_map: str = "grey") -> dict[str, list]:
    """Add nodes that make pictures of what is seen: "depth", and its points "from the side". Links to them, by name.

    far: how far the points reach, in the unit of the depth; 0 takes all. colour_map: of the depth.
    """
    geometry = seen_geometry(prompt)
    depth = add_node(prompt, object_info, "ModalityForcingDepthPicture", geometry=geometry, colour_map=colour_map)
    points = {"geometry": geometry, "edge_threshold": EDGE, "far": far}
    cloud = add_node(prompt, object_info, "ModalityForcingPointCloud", **points)
    view = {"geometry": geometry, "point_cloud": [cloud, 0], "cracks": CRACKS, **SIDE_VIEW}
    side = add_node(prompt, object_info, "ModalityForcingRenderView", **view)
    return {"depth": [depth, 0], "from the side": [side, 0]}


def save_picture(prompt: dict, object_info: dict, link: list, name: str) -> str:
    """Add a Save Image for a link; returns its key."""
    return add_node(prompt, object_info, "SaveImage", images=link, filename_prefix=f"modality_forcing/{name}")
