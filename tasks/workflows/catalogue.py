"""The shipped workflows as short descriptions; `make` writes them to workflows/.

All of them load the released checkpoint, its text encoder and its image autoencoder, which an artist has to bring;
`demo.use_small_model` puts a small model in their place. Prompts keep to words that a small model knows.
"""

from collections.abc import Callable
from pathlib import Path

from .builder import Group, Link, Node, Note, Workflow
from .geometry import CUT, MOVE, depth_to_3d, metric_scene
from .small import small_version

MODEL_FILE = "modality_forcing.safetensors"
TEXT_ENCODER_FILE = "qwen_3_8b_fp8mixed.safetensors"
VAE_FILE = "flux2-vae.safetensors"
# example.png lies in every ComfyUI's input folder; the others are in workflows/input.
PICTURE, PICTURE_WITH_HOLE = "example.png", "modality_forcing_scene_hole.png"
DEPTH, DEPTH_WITH_HOLE = "modality_forcing_depth.png", "modality_forcing_depth_hole.png"
PROMPT = (
    "a field of green grass with mountains at noon. a yellow box on the left. "
    "a green pine in the center nearby. an orange house on the right far away."
)  # true of the example pictures
GUIDANCE = 4.0
VIEWER_HEIGHT = 480
SCHEDULE_HEIGHT = 520  # with the picture that the frontend draws into it
NOTES = Path(__file__).parent / "notes"  # the Markdown notes, one for each workflow; files.md ends them all
CLIP = Link("clip")
GIVEN_PAIR = (Link("given", "positive"), Link("given", "negative"))


def _loaders() -> list[Node]:
    return [
        Node("model", "ModalityForcingLoadModel", {"model_name": MODEL_FILE}, column=1),
        Node("clip", "CLIPLoader", {"clip_name": TEXT_ENCODER_FILE, "type": "flux2"}, column=1),
        Node("vae", "VAELoader", {"vae_name": VAE_FILE}, column=1),
    ]


def _note(name: str, height: int) -> Note:
    heading, _, text = (NOTES / f"{name}.md").read_text(encoding="utf-8").partition("\n")
    files = (NOTES / "files.md").read_text(encoding="utf-8")
    return Note(f"{text.strip()}\n\n{files.strip()}", title=heading.removeprefix("# "), width=420, height=height)


def _text(node_id: str, column: int, text: str, title: str, clip: Link = CLIP) -> Node:
    return Node(node_id, "CLIPTextEncode", {"clip": clip, "text": text}, column, title)


def _schedule(column: int, **values) -> Node:
    return Node(
        "schedule", "ModalityForcingSchedule", {"model": Link("model"), **values}, column, height=SCHEDULE_HEIGHT
    )


def _condition(kind: str, column: int, given: Link, positive: str, negative: str, **values) -> Node:
    inputs = {"positive": Link(positive), "negative": Link(negative), **values}
    return Node("given", f"ModalityForcing{kind}Condition", {**inputs, _GIVEN[kind]: given}, column)


_GIVEN = {"Image": "rgb", "Depth": "depth"}


def _method(column: int) -> Node:
    return Node("method", "KSamplerSelect", {"sampler_name": "euler"}, column)


def _sampler(node_id: str, column: int, conditions: tuple[Link, Link], latent: Link, cfg: float, title=None) -> Node:
    inputs = {
        "model": Link("schedule", "model"),
        "cfg": cfg,
        "positive": conditions[0],
        "negative": conditions[1],
        "sampler": Link("method"),
        "sigmas": Link("schedule", "sigmas"),
        "latent_image": latent,
        "control_after_generate": "fixed" if cfg == 1 else "randomize",
    }
    return Node(node_id, "SamplerCustom", inputs, column, title)


def _decoded_image(column: int, sampled: str, name: str) -> list[Node]:
    """Split and decode in one column, the picture saved in the next."""
    return [
        Node("split", "ModalityForcingSplitLatents", {"latent": Link(sampled)}, column),
        Node("image", "VAEDecode", {"samples": Link("split", "rgb"), "vae": Link("vae")}, column),
        _saved("image", column + 1, Link("image"), name, "Save Image"),
    ]


def _decoded_depth(column: int, sampled: str, name: str, image: Link, node_id: str = "depth", title=None) -> list[Node]:
    return [
        Node(node_id, "ModalityForcingDecodeDepth", {"latent": Link(sampled), "image": image}, column, title),
        _saved(node_id, column + 1, Link(node_id, "depth picture"), name, title or "Save Depth"),
    ]


def _saved(what: str, column: int, images: Link, name: str, title: str) -> Node:
    inputs = {"images": images, "filename_prefix": f"modality_forcing/{name}_{what}"}
    return Node(f"saved_{what}", "SaveImage", inputs, column, title, height=320)


def _fitted(column: int, picture: str, title: str, mask: Link | None = None) -> list[Node]:
    inputs = {"image": Link("picture")} | ({"mask": mask} if mask else {})
    return [
        Node("picture", "LoadImage", {"image": picture}, column, title),
        Node("fit", "ModalityForcingFitImage", inputs, column),
    ]


def _encoded(column: int) -> Node:
    return Node("encoded", "VAEEncode", {"pixels": Link("fit", "image"), "vae": Link("vae")}, column)


LOAD = Group("1  Load", ["model", "clip", "vae"])


def joint() -> Workflow:
    items = [
        _note("joint", 520),
        *_loaders(),
        *_joint("Sample"),
        *_decoded_image(5, "sampler", "joint"),
        *_decoded_depth(5, "sampler", "joint", Link("image")),
        *_point_cloud(7, "joint"),
    ]
    groups = [
        *(LOAD, *_JOINT_GROUPS),
        Group("4  Decode", ["split", "image", "depth"]),
        Group("5  Look around, keep", ["viewer", "cloud", "saved_cloud"]),
    ]
    return Workflow("joint", items, groups)


def small_model() -> Workflow:
    return small_version(joint())


def _point_cloud(column: int, name: str) -> list[Node]:
    geometry, cloud = Link("depth", "geometry"), Link("cloud", "point cloud")
    saved = {"point_cloud": cloud, "filename_prefix": f"modality_forcing/{name}_cloud"}
    return [
        Node("viewer", "ModalityForcingPreviewPointCloud", {"geometry": geometry}, column, height=VIEWER_HEIGHT),
        Node("cloud", "ModalityForcingPointCloud", {"geometry": geometry, **CUT}, column),
        Node("saved_cloud", "ModalityForcingSavePointCloud", saved, column),
    ]


_JOINT_GROUPS = [
    Group("2  Describe", ["positive", "negative", "empty"]),
    Group("3  Sample", ["schedule", "method", "sampler"]),
]


def _joint(title: str) -> list[Node]:
    return [
        _text("positive", 2, PROMPT, "Prompt"),
        _text("negative", 2, "", "Negative (empty)"),
        Node("empty", "ModalityForcingEmptyLatent", {"width": 512, "height": 512}, 2),
        _schedule(3),
        _method(3),
        _sampler("sampler", 4, (Link("positive"), Link("negative")), Link("empty"), GUIDANCE, title),
    ]


def image_to_depth() -> Workflow:
    items = [_note("image_to_depth", 520), *_loaders(), *_image_to_depth(PICTURE, "image_to_depth")]
    return Workflow("image_to_depth", items, [LOAD, *_IMAGE_TO_DEPTH_GROUPS])


_IMAGE_TO_DEPTH_GROUPS = [
    Group("2  Picture", ["picture", "fit", "encoded"]),
    Group("3  Given", ["text", "given"]),
    Group("4  Sample", ["schedule", "method", "sampler"]),
]


def _image_to_depth(picture: str, name: str, full_size: bool = True) -> list[Node]:
    original = Link("picture", "IMAGE") if full_size else Link("fit", "image")
    return [
        *_fitted(2, picture, "Your Picture"),
        _encoded(2),
        _text("text", 3, "", "Text (empty)"),
        _condition("Image", 3, Link("encoded"), "text", "text"),
        _schedule(4),
        _method(4),
        _sampler("sampler", 5, GIVEN_PAIR, Link("given", "latent"), 1.0),
        *_decoded_depth(6, "sampler", name, original),
    ]


def depth_to_image() -> Workflow:
    items = [
        _note("depth_to_image", 600),
        *_loaders(),
        *_fitted(2, DEPTH, "Your Depth Picture"),
        _encoded_depth(2),
        _text("positive", 3, PROMPT, "Prompt"),
        _text("negative", 3, "", "Negative (empty)"),
        _condition("Depth", 3, Link("encoded", "depth"), "positive", "negative"),
        _schedule(4),
        _method(4),
        _sampler("sampler", 5, GIVEN_PAIR, Link("given", "latent"), GUIDANCE),
        *_decoded_image(6, "sampler", "depth_to_image"),
        *_decoded_depth(6, "sampler", "depth_to_image", Link("image")),
    ]
    return Workflow("depth_to_image", items, [LOAD, *_DEPTH_TO_IMAGE_GROUPS])


_DEPTH_TO_IMAGE_GROUPS = [
    Group("2  Depth", ["picture", "fit", "encoded"]),
    Group("3  Describe", ["positive", "negative", "given"]),
    Group("4  Sample", ["schedule", "method", "sampler"]),
    Group("5  Decode", ["split", "image", "depth"]),
]


def _encoded_depth(column: int) -> Node:
    return Node("encoded", "ModalityForcingEncodeDepthPicture", {"picture": Link("fit", "image")}, column)


def joint_refine() -> Workflow:
    items = [
        _note("joint_refine", 500),
        *_loaders(),
        *_joint("Sample Both"),
        _condition("Image", 5, Link("sampler"), "negative", "negative"),
        _sampler("refiner", 5, GIVEN_PAIR, Link("given", "latent"), 1.0, "Sample Depth Again"),
        *_decoded_image(6, "sampler", "joint_refine"),
        *_decoded_depth(6, "sampler", "joint_refine", Link("image"), title="First Depth"),
        *_decoded_depth(6, "refiner", "joint_refine", Link("image"), "refined_depth", "Refined Depth"),
    ]
    groups = [
        LOAD,
        *_JOINT_GROUPS,
        Group("4  Depth again", ["given", "refiner"]),
        Group("5  Decode", ["split", "image", "depth", "refined_depth"]),
    ]
    return Workflow("joint_refine", items, groups)


def depth_to_controlnet() -> Workflow:
    items = [
        _note("depth_to_controlnet", 540),
        *_loaders(),
        *_image_to_depth(PICTURE, "controlnet", full_size=False),
        *_painter(8),
    ]
    groups = [
        LOAD,
        *_IMAGE_TO_DEPTH_GROUPS,
        Group("5  Another model", ["painter", "controlnet", "size", "paint_positive", "paint_negative"]),
        Group("6  Paint", ["applied", "paint_empty", "paint"]),
    ]
    return Workflow("depth_to_controlnet", items, groups)


def _painter(column: int) -> list[Node]:
    size = {name: Link("size", name) for name in ("width", "height")}
    applied = {
        "positive": Link("paint_positive"),
        "negative": Link("paint_negative"),
        "control_net": Link("controlnet"),
        "image": Link("depth", "depth picture"),
        "strength": 0.8,
    }
    paint = {
        "model": Link("painter", "MODEL"),
        "positive": Link("applied", "positive"),
        "negative": Link("applied", "negative"),
        "latent_image": Link("paint_empty"),
        "steps": 20,
        "cfg": 7.0,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
    }
    text_encoder = Link("painter", "CLIP")
    return [
        Node("painter", "CheckpointLoaderSimple", {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"}, column),
        Node(
            "controlnet",
            "ControlNetLoader",
            {"control_net_name": "control_v11f1p_sd15_depth_fp16.safetensors"},
            column,
        ),
        _text("paint_positive", column, "a watercolour painting of a landscape", "Prompt", text_encoder),
        _text("paint_negative", column, "blurry, low quality", "Negative", text_encoder),
        Node("size", "GetImageSize", {"image": Link("depth", "depth picture")}, column),
        Node("applied", "ControlNetApplyAdvanced", applied, column + 1),
        Node("paint_empty", "EmptyLatentImage", size, column + 1),
        Node("paint", "KSampler", paint, column + 1),
        Node("painted", "VAEDecode", {"samples": Link("paint"), "vae": Link("painter", "VAE")}, column + 2),
        _saved("painted", column + 2, Link("painted"), "controlnet", "Save Painting"),
    ]


def depth_inpaint() -> Workflow:
    inverted = Node("kept", "InvertMask", {"mask": Link("picture", "MASK")}, 2, "Painted = Missing")
    picture, fit = _fitted(2, DEPTH_WITH_HOLE, "Your Depth Picture", Link("kept"))
    items = [
        _note("depth_inpaint", 560),
        *_loaders(),
        picture,
        inverted,
        fit,
        _encoded_depth(2),
        _text("positive", 3, PROMPT, "Prompt"),
        _text("negative", 3, "", "Negative (empty)"),
        _condition("Depth", 3, Link("encoded", "depth"), "positive", "negative", mask=Link("fit", "mask")),
        _schedule(4),
        _method(4),
        _sampler("sampler", 5, GIVEN_PAIR, Link("given", "latent"), GUIDANCE),
        *_decoded_image(6, "sampler", "depth_inpaint"),
        *_decoded_depth(6, "sampler", "depth_inpaint", Link("image")),
    ]
    groups = [
        LOAD,
        Group("2  Depth and mask", ["picture", "kept", "fit", "encoded"]),
        *_DEPTH_TO_IMAGE_GROUPS[1:],
    ]
    return Workflow("depth_inpaint", items, groups)


def rgbd_inpaint() -> Workflow:
    masked = {"samples": Link("sampler"), "mask": Link("picture", "MASK")}
    items = [
        _note("rgbd_inpaint", 540),
        *_loaders(),
        *_fitted(2, PICTURE_WITH_HOLE, "Your Picture"),
        _encoded(2),
        _text("text", 3, "", "Text (empty)"),
        _condition("Image", 3, Link("encoded"), "text", "text"),
        _schedule(4),
        _method(4),
        _sampler("sampler", 5, GIVEN_PAIR, Link("given", "latent"), 1.0, "Sample Depth"),
        _text("positive", 6, PROMPT, "Prompt"),
        Node("masked", "SetLatentNoiseMask", masked, 6),
        _sampler("repaint", 6, (Link("positive"), Link("text")), Link("masked"), GUIDANCE, "Sample Under the Mask"),
        *_decoded_image(7, "repaint", "rgbd_inpaint"),
        *_decoded_depth(7, "repaint", "rgbd_inpaint", Link("image")),
    ]
    groups = [
        LOAD,
        *_IMAGE_TO_DEPTH_GROUPS,
        Group("5  Repaint", ["positive", "masked", "repaint"]),
        Group("6  Decode", ["split", "image", "depth"]),
    ]
    return Workflow("rgbd_inpaint", items, groups)


def moved_view() -> Workflow:
    hidden = {"samples": Link("joined"), "mask": Link("view", "holes")}
    items = [
        _note("moved_view", 560),
        *_loaders(),
        *metric_scene(2),
        Node("view", "ModalityForcingRenderView", {"geometry": Link("posed"), **MOVE}, 3),
        _saved("view", 4, Link("view", "image"), "moved_view", "Save View with Holes"),
        Node("encoded", "VAEEncode", {"pixels": Link("view", "image"), "vae": Link("vae")}, 4),
        Node("encoded_depth", "ModalityForcingEncodeGeometry", {"geometry": Link("view", "geometry")}, 4),
        Node(
            "joined",
            "ModalityForcingJoinLatents",
            {"rgb": Link("encoded"), "depth": Link("encoded_depth", "depth")},
            4,
        ),
        Node("masked", "SetLatentNoiseMask", hidden, 4),
        _text("positive", 5, PROMPT, "Prompt"),
        _text("negative", 5, "", "Negative (empty)"),
        _schedule(5),
        _method(5),
        _sampler("sampler", 6, (Link("positive"), Link("negative")), Link("masked"), GUIDANCE, "Sample in the Holes"),
        *_decoded_image(7, "sampler", "moved_view"),
        *_decoded_depth(7, "sampler", "moved_view", Link("image")),
    ]
    groups = [
        LOAD,
        Group("2  Scene", ["picture", "depth_file", "posed"]),
        Group("3  Move the camera", ["view"]),
        Group("5  Paint what was hidden", ["positive", "negative", "schedule", "method"]),
        Group("6  Sample", ["sampler"]),
        Group("7  Decode", ["split", "image", "depth"]),
    ]
    return Workflow("moved_view", items, groups)


CATALOGUE: list[Callable[[], Workflow]] = [
    joint,
    image_to_depth,
    depth_to_image,
    joint_refine,
    depth_to_controlnet,
    depth_inpaint,
    rgbd_inpaint,
    depth_to_3d,
    moved_view,
    small_model,
]
