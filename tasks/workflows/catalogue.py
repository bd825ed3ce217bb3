"""The shipped workflows as short descriptions; ``run.py workflows make`` writes them to workflows/.

Each opens on the bundled small model. The released one lies beside it, muted: un-muted it takes its place.
Four columns at most, so that all is in sight and legible when a workflow opens.
"""

import json
from dataclasses import replace

from .builder import MUTED, Link, Node
from .controls import depth_ensemble, large_pictures, second_pass, sparse_depth, video_depth, walk
from .parts import (
    DEPTH_PICTURE,
    DEPTH_PICTURE_WITH_HOLE,
    DEPTHS_512,
    FOV_X_DEG,
    GIVEN_512,
    MADE,
    METRIC_DEPTH,
    MODEL,
    PART_512,
    PICTURE,
    PICTURE_WITH_HOLE,
    PICTURES_512,
    SMALL_CUT,
    VIEWS_512,
    Workflow,
    cloud_nodes,
    made_from,
    note,
    picture_node,
    saved_images,
    shown_depth,
    viewer,
    with_model,
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
    return with_model(
        "01 Text to Image, Depth and 3D",
        "text_to_rgbd",
        PICTURES_512,
        Node("made", TEXT_TO_RGBD, MODEL, 1),
        saved_images("text_image", Link("made", "image"), "Save Image", 1, 280),
        viewer(MADE),
        shown_depth(MADE),
        *cloud_nodes(MADE, "text_cloud", **SMALL_CUT),
    )


def image_to_depth() -> Workflow:
    return with_model(
        "02 Image to Depth and 3D",
        "image_to_depth",
        DEPTHS_512,
        *made_from(PICTURE, "Your Picture", IMAGE_TO_DEPTH, "image"),
        viewer(MADE),
        shown_depth(MADE),
        saved_images("image_depth", Link("made", "depth picture"), "Save Depth Picture"),
    )


def _image_by(title: str, note_name: str, released: str, made: list[Node], saved: str) -> Workflow:
    """What makes an image and shows its depth."""
    results = [saved_images(saved, Link("made", "image"), "Save Image"), shown_depth(MADE)]
    return with_model(title, note_name, released, *made, viewer(MADE), *results)


def depth_to_image() -> Workflow:
    made = made_from(DEPTH_PICTURE, "Your Depth Picture", DEPTH_TO_IMAGE, "depth picture")
    return _image_by("03 Depth to Image", "depth_to_image", GIVEN_512, made, "depth_image")


def complete_depth() -> Workflow:
    made = made_from(DEPTH_PICTURE_WITH_HOLE, "Your Depth Picture and Mask", COMPLETE_DEPTH, "depth picture", "mask")
    return _image_by("04 Complete Depth", "complete_depth", PART_512, made, "completed_image")


def inpaint() -> Workflow:
    made = made_from(PICTURE_WITH_HOLE, "Your Picture and Mask", INPAINT, "image", "mask")
    return _image_by("05 Inpaint Image and Depth", "inpaint", PART_512, made, "inpainted_image")


def look_around() -> Workflow:
    fit = {"image": Link("picture", "IMAGE"), "max_side": SIDE}
    seen, view = Link("depth", "geometry"), {"view": json.dumps(FIRST_VIEW)}
    return with_model(
        "06 Look Around",
        "look_around",
        VIEWS_512,
        picture_node(PICTURE, "Your Picture"),
        Node("fit", "ModalityForcingFitImage", fit, 1),
        Node("depth", IMAGE_TO_DEPTH, {**MODEL, "image": Link("fit", "image")}, 1),
        viewer(seen, "Look Around, then Use This View", **view),
        saved_images("look_around_image", Link("made", "image"), "Save Image", 2, 280),
        Node("made", LOOK_AROUND, {**MODEL, "geometry": seen, "view": Link("viewer", "geometry")}, 3),
        shown_depth(MADE, title="Depth of What the Camera Sees"),
    )


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
    again = {"model": MODEL["model"], "clip": MODEL["clip"], "latent": Link("made", "latent")}
    refined = Link("refined", "geometry")
    return with_model(
        "08 Refine Depth",
        "refine_depth",
        PICTURES_512,
        Node("made", TEXT_TO_RGBD, MODEL, 1),
        Node("refined", REFINE_DEPTH, {**again, "image": Link("made", "image")}, 1),
        viewer(refined),
        shown_depth(MADE, node_id="first_depth", title="First Depth"),
        shown_depth(refined, title="Refined Depth"),
    )


def controlnet() -> Workflow:
    painter = {"depth picture": Link("made", "depth picture")}
    return with_model(
        "09 Depth for a ControlNet",
        "controlnet",
        DEPTHS_512,
        *made_from(PICTURE, "Your Picture", IMAGE_TO_DEPTH, "image"),
        viewer(MADE),
        shown_depth(MADE),
        Node("painted", PAINT, painter, 3, "Paint with a ControlNet (Ctrl+M)", mode=MUTED),
        replace(saved_images("painted", Link("painted", "image"), "Save Painting", 2, 280), mode=MUTED),
    )


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
