"""The shipped workflows as short descriptions; ``run.py workflows make`` writes them to workflows/.

Each opens on the bundled small model. The released one lies beside it, muted: un-muted it takes its place.
Four columns at most, so that all is in sight and legible when a workflow opens.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from .. import SMALL_MODEL
from .builder import MUTED, Link, Node, Note
from .settings import EDGE, FAR, FIRST_VIEW, SIDE, VIEWER_FAR
from .subgraphs import (
    CLOUD_AND_MESH,
    COMPLETE_DEPTH,
    DEPTH_TO_IMAGE,
    IMAGE_TO_DEPTH,
    INPAINT,
    LOOK_AROUND,
    PAINT,
    REFINE_DEPTH,
    RELEASED,
    TEXT_TO_RGBD,
)

# In workflows/input; the frontend offers them to ComfyUI when a workflow that loads one is opened (web/examples.js).
PICTURE, PICTURE_WITH_HOLE = "modality_forcing_scene.png", "modality_forcing_scene_hole.png"
DEPTH, DEPTH_WITH_HOLE = "modality_forcing_depth.png", "modality_forcing_depth_hole.png"
METRIC_DEPTH = "modality_forcing_depth_16bit.png"
FOV_X_DEG = 72.76  # of the example scene
NOTES = Path(__file__).parent / "notes"
MODEL = {name: Link("small", name) for name in ("model", "clip", "vae")}
WIDE = 520
DEPTH_WIDTH, DEPTH_HEIGHT, VIEWER_HEIGHT = 400, 450, 600  # at least what their widgets take
# What is set for the released model.
PICTURES = "width and height 512, steps 50, guidance 4"
GIVEN = "max_side 512, steps 50, guidance 4"
DEPTHS = "max_side 512, steps 20"
VIEWS = "max_side 512 (twice), steps 50, guidance 4"
SMALL_CUT = {"edge_threshold": EDGE, "far": FAR}


@dataclass(frozen=True)
class Workflow:
    """title: the file's name, which is what ComfyUI's template browser shows."""

    title: str
    items: list[Node | Note]


def _note(name: str, released: str = "") -> Note:
    """A workflow's note. released: what to set for the released model, where a workflow has one."""
    heading, _, text = (NOTES / f"{name}.md").read_text(encoding="utf-8").partition("\n")
    if released:
        text += "\n### " + Template((NOTES / "model.md").read_text(encoding="utf-8")).substitute(released=released)
    # Paragraphs as headings: at the zoom that a workflow opens with, ordinary text is too small to be read.
    blocks = [block if block[0] in "-#" else f"## {block}" for block in text.strip().split("\n\n")]
    return Note("\n\n".join(blocks), 0, heading.removeprefix("# "), height=540)


def _model() -> list[Node]:
    released = {name: Link("released", name) for name in MODEL}
    return [
        Node("small", "ModalityForcingLoadSmall", {"model_name": SMALL_MODEL.name, **released}, 0),
        Node("released", RELEASED, {}, 0, "Released Model (muted: Ctrl+M to use it)", mode=MUTED),
    ]


def _picture(name: str, title: str, column: int = 1) -> Node:
    return Node("picture", "LoadImage", {"image": name}, column, title, height=320)


def _viewer(geometry: Link, title: str | None = None, **inputs) -> Node:
    shown = {"modality_forcing": {"viewer": {"edge": EDGE, "far": VIEWER_FAR, "pointSize": 3}}}
    kind = "ModalityForcingPreviewPointCloud"
    given = {"geometry": geometry, **inputs}
    return Node("viewer", kind, given, 2, title, width=WIDE, height=VIEWER_HEIGHT, properties=shown)


def _depth(geometry: Link, node_id: str = "shown_depth", title: str | None = None) -> Node:
    kind, inputs = "ModalityForcingPreviewDepth", {"geometry": geometry}
    return Node(node_id, kind, inputs, 3, title, width=DEPTH_WIDTH, height=DEPTH_HEIGHT)


def _saved(what: str, images: Link, title: str, column: int = 3, height: int = 310) -> Node:
    inputs = {"images": images, "filename_prefix": f"modality_forcing/{what}"}
    return Node(f"saved_{what}", "SaveImage", inputs, column, title, height=height)


def _cloud(geometry: Link, name: str, **values: float) -> list[Node]:
    saved = {"point_cloud": Link("cloud", "point cloud"), "filename_prefix": f"modality_forcing/{name}"}
    return [
        Node("cloud", "ModalityForcingPointCloud", {"geometry": geometry, **values}, 3),
        Node("saved_cloud", "ModalityForcingSavePointCloud", saved, 2),
    ]


def text_to_rgbd() -> Workflow:
    geometry = Link("made", "geometry")
    items = [
        _note("text_to_rgbd", PICTURES),
        *_model(),
        Node("made", TEXT_TO_RGBD, MODEL, 1),
        _saved("text_image", Link("made", "image"), "Save Image", 1, 280),
        _viewer(geometry),
        _depth(geometry),
        *_cloud(geometry, "text_cloud", **SMALL_CUT),
    ]
    return Workflow("01 Text to Image, Depth and 3D", items)


def image_to_depth() -> Workflow:
    geometry = Link("made", "geometry")
    items = [
        _note("image_to_depth", DEPTHS),
        *_model(),
        _picture(PICTURE, "Your Picture"),
        Node("made", IMAGE_TO_DEPTH, {**MODEL, "image": Link("picture", "IMAGE")}, 1),
        _viewer(geometry),
        _depth(geometry),
        _saved("image_depth", Link("made", "depth picture"), "Save Depth Picture"),
    ]
    return Workflow("02 Image to Depth and 3D", items)


def depth_to_image() -> Workflow:
    geometry = Link("made", "geometry")
    items = [
        _note("depth_to_image", GIVEN),
        *_model(),
        _picture(DEPTH, "Your Depth Picture"),
        Node("made", DEPTH_TO_IMAGE, {**MODEL, "depth picture": Link("picture", "IMAGE")}, 1),
        _viewer(geometry),
        _saved("depth_image", Link("made", "image"), "Save Image"),
        _depth(geometry),
    ]
    return Workflow("03 Depth to Image", items)


def complete_depth() -> Workflow:
    geometry = Link("made", "geometry")
    given = {"depth picture": Link("picture", "IMAGE"), "mask": Link("picture", "MASK")}
    items = [
        _note("complete_depth", GIVEN),
        *_model(),
        _picture(DEPTH_WITH_HOLE, "Your Depth Picture and Mask"),
        Node("made", COMPLETE_DEPTH, {**MODEL, **given}, 1),
        _viewer(geometry),
        _saved("completed_image", Link("made", "image"), "Save Image"),
        _depth(geometry),
    ]
    return Workflow("04 Complete Depth", items)


def inpaint() -> Workflow:
    geometry = Link("made", "geometry")
    given = {"image": Link("picture", "IMAGE"), "mask": Link("picture", "MASK")}
    items = [
        _note("inpaint", GIVEN),
        *_model(),
        _picture(PICTURE_WITH_HOLE, "Your Picture and Mask"),
        Node("made", INPAINT, {**MODEL, **given}, 1),
        _viewer(geometry),
        _saved("inpainted_image", Link("made", "image"), "Save Image"),
        _depth(geometry),
    ]
    return Workflow("05 Inpaint Image and Depth", items)


def look_around() -> Workflow:
    fit = {"image": Link("picture", "IMAGE"), "max_side": SIDE}
    seen, view = Link("depth", "geometry"), {"view": json.dumps(FIRST_VIEW)}
    items = [
        _note("look_around", VIEWS),
        *_model(),
        _picture(PICTURE, "Your Picture"),
        Node("fit", "ModalityForcingFitImage", fit, 1),
        Node("depth", IMAGE_TO_DEPTH, {**MODEL, "image": Link("fit", "image")}, 1),
        _viewer(seen, "Look Around, then Use This View", **view),
        _saved("look_around_image", Link("made", "image"), "Save Image", 2, 280),
        Node("made", LOOK_AROUND, {**MODEL, "geometry": seen, "view": Link("viewer", "geometry")}, 3),
        _depth(Link("made", "geometry"), title="Depth of What the Camera Sees"),
    ]
    return Workflow("06 Look Around", items)


def depth_to_3d() -> Workflow:
    depth = {"file": METRIC_DEPTH, "image": Link("picture", "IMAGE"), "fov_x_deg": FOV_X_DEG}
    saved = {"filename_prefix": "modality_forcing/depth_to_3d"}
    items = [
        _note("depth_to_3d"),
        _picture(PICTURE, "Your Picture"),
        Node("depth", "ModalityForcingLoadDepth", depth, 1, "Its Depth in Metres", height=470),
        _viewer(Link("depth", "geometry")),
        Node("box", CLOUD_AND_MESH, {"geometry": Link("depth", "geometry"), "edge_threshold": 0.15}, 3),
        Node("saved_cloud", "ModalityForcingSavePointCloud", {"point_cloud": Link("box", "point cloud"), **saved}, 2),
        Node("saved_mesh", "ModalityForcingSaveMesh", {"mesh": Link("box", "mesh"), **saved}, 2),
        _depth(Link("depth", "geometry")),
    ]
    return Workflow("07 Depth File to Point Cloud and Mesh", items)


def refine_depth() -> Workflow:
    geometry = Link("refined", "geometry")
    again = {"model": MODEL["model"], "clip": MODEL["clip"], "latent": Link("made", "latent")}
    items = [
        _note("refine_depth", PICTURES),
        *_model(),
        Node("made", TEXT_TO_RGBD, MODEL, 1),
        Node("refined", REFINE_DEPTH, {**again, "image": Link("made", "image")}, 1),
        _viewer(geometry),
        _depth(Link("made", "geometry"), node_id="first_depth", title="First Depth"),
        _depth(geometry, title="Refined Depth"),
    ]
    return Workflow("08 Refine Depth", items)


def controlnet() -> Workflow:
    painter = {"depth picture": Link("made", "depth picture")}
    items = [
        _note("controlnet", DEPTHS),
        *_model(),
        _picture(PICTURE, "Your Picture"),
        Node("made", IMAGE_TO_DEPTH, {**MODEL, "image": Link("picture", "IMAGE")}, 1),
        _viewer(Link("made", "geometry")),
        _depth(Link("made", "geometry")),
        Node("painted", PAINT, painter, 3, "Paint with a ControlNet (muted: Ctrl+M to use it)", mode=MUTED),
        replace(_saved("painted", Link("painted", "image"), "Save Painting", 2, 280), mode=MUTED),
    ]
    return Workflow("09 Depth for a ControlNet", items)


CATALOGUE = [
    text_to_rgbd(),
    image_to_depth(),
    depth_to_image(),
    complete_depth(),
    inpaint(),
    look_around(),
    depth_to_3d(),
    refine_depth(),
    controlnet(),
]
