"""The shipped workflows as short descriptions; ``run.py workflows make`` writes them to workflows/.

Each opens on the bundled small model. The released one lies beside it, muted: un-muted it takes its place.
Four columns at most, so that all is in sight and legible when a workflow opens.
"""

import json
from dataclasses import replace

from .builder import MUTED, Link, Node
from .controls import depth_ensemble, large_pictures, second_pass, sparse_depth, video_depth, walk
from .parts import (
    DEPTH,
    DEPTH_WITH_HOLE,
    DEPTHS,
    FOV_X_DEG,
    GIVEN,
    GIVEN_PART,
    METRIC_DEPTH,
    MODEL,
    PICTURE,
    PICTURE_WITH_HOLE,
    PICTURES,
    SMALL_CUT,
    VIEWS,
    Workflow,
    cloud_nodes,
    model_nodes,
    note,
    picture_node,
    saved_images,
    shown_depth,
    viewer,
)
from .settings import FIRST_VIEW, SIDE
from .subgraphs import (
    CLOUD_AND_MESH,
    COMPLETE_DEPTH,
    DEPTH_TO_IMAGE,
    IMAGE_TO_DEPTH,
    INPAINT,
    LOOK_AROUND,
    PAINT,
    REFINE_DEPTH,
    TEXT_TO_RGBD,
)


def text_to_rgbd() -> Workflow:
    geometry = Link("made", "geometry")
    items = [
        note("text_to_rgbd", PICTURES),
        *model_nodes(),
        Node("made", TEXT_TO_RGBD, MODEL, 1),
        saved_images("text_image", Link("made", "image"), "Save Image", 1, 280),
        viewer(geometry),
        shown_depth(geometry),
        *cloud_nodes(geometry, "text_cloud", **SMALL_CUT),
    ]
    return Workflow("01 Text to Image, Depth and 3D", items)


def image_to_depth() -> Workflow:
    geometry = Link("made", "geometry")
    items = [
        note("image_to_depth", DEPTHS),
        *model_nodes(),
        picture_node(PICTURE, "Your Picture"),
        Node("made", IMAGE_TO_DEPTH, {**MODEL, "image": Link("picture", "IMAGE")}, 1),
        viewer(geometry),
        shown_depth(geometry),
        saved_images("image_depth", Link("made", "depth picture"), "Save Depth Picture"),
    ]
    return Workflow("02 Image to Depth and 3D", items)


def depth_to_image() -> Workflow:
    geometry = Link("made", "geometry")
    items = [
        note("depth_to_image", GIVEN),
        *model_nodes(),
        picture_node(DEPTH, "Your Depth Picture"),
        Node("made", DEPTH_TO_IMAGE, {**MODEL, "depth picture": Link("picture", "IMAGE")}, 1),
        viewer(geometry),
        saved_images("depth_image", Link("made", "image"), "Save Image"),
        shown_depth(geometry),
    ]
    return Workflow("03 Depth to Image", items)


def complete_depth() -> Workflow:
    geometry = Link("made", "geometry")
    given = {"depth picture": Link("picture", "IMAGE"), "mask": Link("picture", "MASK")}
    items = [
        note("complete_depth", GIVEN_PART),
        *model_nodes(),
        picture_node(DEPTH_WITH_HOLE, "Your Depth Picture and Mask"),
        Node("made", COMPLETE_DEPTH, {**MODEL, **given}, 1),
        viewer(geometry),
        saved_images("completed_image", Link("made", "image"), "Save Image"),
        shown_depth(geometry),
    ]
    return Workflow("04 Complete Depth", items)


def inpaint() -> Workflow:
    geometry = Link("made", "geometry")
    given = {"image": Link("picture", "IMAGE"), "mask": Link("picture", "MASK")}
    items = [
        note("inpaint", GIVEN_PART),
        *model_nodes(),
        picture_node(PICTURE_WITH_HOLE, "Your Picture and Mask"),
        Node("made", INPAINT, {**MODEL, **given}, 1),
        viewer(geometry),
        saved_images("inpainted_image", Link("made", "image"), "Save Image"),
        shown_depth(geometry),
    ]
    return Workflow("05 Inpaint Image and Depth", items)


def look_around() -> Workflow:
    fit = {"image": Link("picture", "IMAGE"), "max_side": SIDE}
    seen, view = Link("depth", "geometry"), {"view": json.dumps(FIRST_VIEW)}
    items = [
        note("look_around", VIEWS),
        *model_nodes(),
        picture_node(PICTURE, "Your Picture"),
        Node("fit", "ModalityForcingFitImage", fit, 1),
        Node("depth", IMAGE_TO_DEPTH, {**MODEL, "image": Link("fit", "image")}, 1),
        viewer(seen, "Look Around, then Use This View", **view),
        saved_images("look_around_image", Link("made", "image"), "Save Image", 2, 280),
        Node("made", LOOK_AROUND, {**MODEL, "geometry": seen, "view": Link("viewer", "geometry")}, 3),
        shown_depth(Link("made", "geometry"), title="Depth of What the Camera Sees"),
    ]
    return Workflow("06 Look Around", items)


def depth_to_3d() -> Workflow:
    depth = {"file": METRIC_DEPTH, "image": Link("picture", "IMAGE"), "fov_x_deg": FOV_X_DEG}
    saved = {"filename_prefix": "modality_forcing/depth_to_3d"}
    items = [
        note("depth_to_3d"),
        picture_node(PICTURE, "Your Picture"),
        Node("depth", "ModalityForcingLoadDepth", depth, 1, "Its Depth in Metres", height=470),
        viewer(Link("depth", "geometry")),
        Node("box", CLOUD_AND_MESH, {"geometry": Link("depth", "geometry"), "edge_threshold": 0.15}, 3),
        Node("saved_cloud", "ModalityForcingSavePointCloud", {"point_cloud": Link("box", "point cloud"), **saved}, 2),
        Node("saved_mesh", "ModalityForcingSaveMesh", {"mesh": Link("box", "mesh"), **saved}, 2),
        shown_depth(Link("depth", "geometry")),
    ]
    return Workflow("07 Depth File to Point Cloud and Mesh", items)


def refine_depth() -> Workflow:
    geometry = Link("refined", "geometry")
    again = {"model": MODEL["model"], "clip": MODEL["clip"], "latent": Link("made", "latent")}
    items = [
        note("refine_depth", PICTURES),
        *model_nodes(),
        Node("made", TEXT_TO_RGBD, MODEL, 1),
        Node("refined", REFINE_DEPTH, {**again, "image": Link("made", "image")}, 1),
        viewer(geometry),
        shown_depth(Link("made", "geometry"), node_id="first_depth", title="First Depth"),
        shown_depth(geometry, title="Refined Depth"),
    ]
    return Workflow("08 Refine Depth", items)


def controlnet() -> Workflow:
    painter = {"depth picture": Link("made", "depth picture")}
    items = [
        note("controlnet", DEPTHS),
        *model_nodes(),
        picture_node(PICTURE, "Your Picture"),
        Node("made", IMAGE_TO_DEPTH, {**MODEL, "image": Link("picture", "IMAGE")}, 1),
        viewer(Link("made", "geometry")),
        shown_depth(Link("made", "geometry")),
        Node("painted", PAINT, painter, 3, "Paint with a ControlNet (muted: Ctrl+M to use it)", mode=MUTED),
        replace(saved_images("painted", Link("painted", "image"), "Save Painting", 2, 280), mode=MUTED),
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
    depth_ensemble(),
    large_pictures(),
    video_depth(),
    sparse_depth(),
    second_pass(),
    walk(),
]
