"""The workflows of the controls: ensembles, large pictures, video, measured points, a second pass, a scene to walk in.

Their boxes are like those of `subgraphs`, but are no blueprints.
"""

from dataclasses import replace

from .builder import MUTED, In, Link, Node, Subgraph
from .parts import (
    FOV_X_DEG,
    MADE,
    METRIC_DEPTH,
    MODEL,
    PICTURE,
    PICTURES_512,
    SMALL_CUT,
    SPARSE_DEPTH,
    Workflow,
    made_from,
    model_nodes,
    note,
    picture_node,
    saved_images,
    shown_depth,
    viewer,
    with_model,
)
from .settings import CRACKS, DEPTH_STEPS, EDGE, SIDE
from .subgraphs import (
    BOTH,
    IMAGE_TO_DEPTH,
    NO_TEXT,
    SCHEDULED,
    TEXT_TO_RGBD,
    TEXTS,
    VAE,
    decoded,
    fitted_image,
    joint_sampler,
    painted_view,
    texts,
)

GIVEN_SIZE = "max_side 512, steps 20"
SCENE = {"point_cloud": In("scene")}
MOVES = ((0.15, -5.0), (0.3, -10.0), (0.45, -15.0))  # right, in mean depths; yaw, degrees; from the first camera


def _estimates(
    name: str, kind: str, outputs: dict[str, str], description: str, fitted: bool = True, **values
) -> Subgraph:
    """A box around a node that estimates depth many times."""
    image = Link("fit", "image") if fitted else In("image")
    inputs = {
        "image": image,
        **VAE,
        "noise": Link("noise"),
        "guider": Link("guider"),
        "sampler": Link("method"),
        "sigmas": Link("schedule", "sigmas"),
        **values,
    }
    items = [
        *(fitted_image("image") if fitted else []),
        NO_TEXT,
        Node(
            "schedule",
            "ModalityForcingSchedule",
            {"model": In("model"), "steps": In("steps", DEPTH_STEPS)},
            1,
            height=420,
        ),
        Node("method", "KSamplerSelect", {"sampler_name": "euler"}, 1),
        Node("noise", "RandomNoise", {"noise_seed": In("seed", 0), "control_after_generate": "fixed"}, 2),
        Node("guider", "BasicGuider", {"model": Link("schedule", "model"), "conditioning": Link("text")}, 2),
        Node("depth", kind, inputs, 3),
    ]
    return Subgraph(name, items, {name: Link("depth", output) for name, output in outputs.items()}, description)


ENSEMBLE = _estimates(
    "Depth Ensemble",
    "ModalityForcingEnsembleDepth",
    {"geometry": "geometry", "uncertainty picture": "uncertainty picture"},
    "The median of several estimates, and what they disagree about.",
    **{name: In(name, value) for name, value in (("members", 8), ("shift", True), ("mirror", True))},
)
TILES = _estimates(
    "Depth in Tiles",
    "ModalityForcingTiledDepth",
    {"geometry": "geometry"},
    "The depth of a picture larger than the model was trained at.",
    tile=In("tile", SIDE),
    overlap=In("overlap", SIDE // 2),
    denoise=In("denoise", 0.25),
)
VIDEO = _estimates(
    "Depth of a Video",
    "ModalityForcingVideoDepth",
    {"geometry": "geometry"},
    "The depth of the frames of one shot, without flicker.",
    fitted=False,
    same_scale=In("same_scale", True),
)
SECOND_PASS = Subgraph(
    "Second Pass",
    [
        *texts(),
        Node(
            "larger",
            "ModalityForcingUpscaleLatent",
            {"latent": In("latent"), "image": In("image"), "scale_by": In("scale_by", 1.5)},
            1,
        ),
        Node("part", "SplitSigmasDenoise", {"sigmas": Link("schedule", "sigmas"), "denoise": In("denoise", 0.5)}, 2),
        Node(
            "tiles",
            "ModalityForcingTileModel",
            {
                "model": SCHEDULED,
                "tile": In("tile", SIDE),
                "overlap": In("overlap", SIDE // 2),
                "reference": In("latent"),
            },
            2,
        ),
        *joint_sampler(*TEXTS, Link("larger"), sigmas=Link("part", "low_sigmas"), model=Link("tiles")),
        *decoded(),
    ],
    BOTH,
    "A made picture and its depth, larger.",
)


def _move(number: int, right: float, yaw_deg: float) -> Subgraph:
    view = {
        "geometry": In("geometry"),
        "point_cloud": In("scene"),
        "right": In("right", right),
        "yaw_deg": In("yaw_deg", yaw_deg),
        "edge_threshold": EDGE,
        "cracks": CRACKS,
    }
    added = {"scene": In("scene"), "painted": Link("depth", "geometry"), "view": Link("view", "geometry")}
    items = [
        *texts(),
        Node("view", "ModalityForcingRenderView", view, 0),
        *painted_view(Link("view", "geometry")),
        Node("added", "ModalityForcingAddView", {**added, **SMALL_CUT}, 5),
    ]
    outputs = {"scene": Link("added", "scene"), "image": Link("image")}
    return Subgraph(f"Move {number}", items, outputs, "One step of a walk: look from elsewhere, paint, add.")


SAVED_SCENE = Subgraph(
    "Save Scene",
    [
        Node("cloud", "ModalityForcingSavePointCloud", {**SCENE, "filename_prefix": "modality_forcing/walk"}, 0),
        Node("splats", "ModalityForcingSaveSplats", {**SCENE, "filename_prefix": "modality_forcing/walk_splats"}, 0),
        Node("mesh", "ModalityForcingPoissonMesh", SCENE, 0, "Mesh (muted: needs Open3D)", mode=MUTED),
        Node(
            "saved_mesh",
            "ModalityForcingSaveMesh",
            {"mesh": Link("mesh"), "filename_prefix": "modality_forcing/walk_mesh"},
            1,
            "Save Mesh (muted)",
            mode=MUTED,
        ),
    ],
    {},
    "Saves a point cloud as points and splats, and as a mesh where the two muted nodes are un-muted.",
)


def depth_ensemble() -> Workflow:
    return with_model(
        "10 Depth Ensemble",
        "depth_ensemble",
        GIVEN_SIZE,
        *made_from(PICTURE, "Your Picture", ENSEMBLE, "image"),
        viewer(MADE),
        shown_depth(MADE),
        saved_images("uncertainty", Link("made", "uncertainty picture"), "Save Uncertainty"),
    )


def large_pictures() -> Workflow:
    made = {**MODEL, "image": Link("picture", "IMAGE"), "max_side": 2 * SIDE}
    return with_model(
        "11 Depth of Large Pictures",
        "large_pictures",
        "max_side as your picture, tile 512, overlap 256, steps 20",
        picture_node(PICTURE, "Your Picture"),
        Node("made", TILES, made, 1),
        viewer(MADE),
        shown_depth(MADE),
        Node("drawn", "ModalityForcingDepthPicture", {"geometry": MADE}, 3),
        saved_images("large_depth", Link("drawn", "picture"), "Save Depth Picture", column=2),
    )


def video_depth() -> Workflow:
    depth = {"file": METRIC_DEPTH, "image": Link("picture", "IMAGE"), "fov_x_deg": FOV_X_DEG}
    frames = {"geometry": Link("depth", "geometry"), "right": 0.6, "frames": 8, "width": SIDE, "height": SIDE * 3 // 4}
    drawn = {"geometry": MADE, "range_from": "per batch"}
    items = [
        replace(note("video_depth", "width 512 and height 384, steps 20"), height=412),
        *model_nodes(),
        picture_node(PICTURE, "A Picture"),
        Node("depth", "ModalityForcingLoadDepth", depth, 3, "Its Depth in Metres", height=530),
        Node("frames", "ModalityForcingRenderView", {**frames, "edge_threshold": EDGE, "cracks": CRACKS}, 1, "Frames"),
        Node("made", VIDEO, {**MODEL, "image": Link("frames", "image")}, 2),
        viewer(MADE),
        Node("drawn", "ModalityForcingDepthPicture", drawn, 3, height=420),
        saved_images("video_depth", Link("drawn", "picture"), "Save Frames", column=0, height=180),
    ]
    return Workflow("12 Video Depth", items)


def sparse_depth() -> Workflow:
    fitted = {"geometry": MADE, "sparse": Link("depth_file", "geometry")}
    return with_model(
        "13 Sparse Depth",
        "sparse_depth",
        GIVEN_SIZE,
        picture_node(PICTURE, "Your Picture"),
        Node("depth_file", "ModalityForcingLoadDepth", {"file": SPARSE_DEPTH}, 1, "Measured Points", height=470),
        Node("made", IMAGE_TO_DEPTH, {**MODEL, "image": Link("picture", "IMAGE")}, 2),
        Node("fitted", "ModalityForcingFitToPoints", fitted, 3),
        viewer(Link("fitted", "geometry")),
        shown_depth(Link("fitted", "geometry")),
    )


def second_pass() -> Workflow:
    geometry = Link("larger", "geometry")
    larger = {**MODEL, "latent": Link("made", "latent"), "image": Link("made", "image")}
    return with_model(
        "14 Second Pass",
        "second_pass",
        PICTURES_512,
        Node("made", TEXT_TO_RGBD, MODEL, 1, height=480),
        Node("larger", SECOND_PASS, larger, 1, height=450),
        viewer(geometry),
        saved_images("second_image", Link("larger", "image"), "Save Image"),
        shown_depth(geometry),
    )


def walk() -> Workflow:
    scene = Link("start", "point cloud")
    moves = []
    for number, (right, yaw_deg) in enumerate(MOVES, 1):
        inputs = {**MODEL, "geometry": MADE, "scene": scene}
        moves.append(Node(f"move_{number}", _move(number, right, yaw_deg), inputs, 2 if number == 1 else 3, height=381))
        scene = Link(f"move_{number}", "scene")
    return with_model(
        "15 Walk in a Scene",
        "walk",
        PICTURES_512,
        Node("made", TEXT_TO_RGBD, MODEL, 1, height=430),
        Node("start", "ModalityForcingPointCloud", {"geometry": MADE, **SMALL_CUT, "normals": True}, 1),
        *moves,
        replace(viewer(MADE, point_cloud=scene), height=570),
        Node("saved", SAVED_SCENE, {"scene": scene}, 1),
    )
