"""The parts of which the shipped workflows consist, as boxes with a few controls; they are shipped as blueprints too.

Each takes model, clip and vae; the values that its widgets show at first are the bundled small model's.
"""

from .builder import In, Link, Node, Subgraph
from .settings import (
    DEPTH_GUIDANCE,
    EDGE,
    FAR,
    GUIDANCE,
    IMAGE_GUIDANCE,
    LEAD,
    PAINTED_FINEST,
    PROMPT,
    SAMPLING,
    SIDE,
)

CUT = {"edge_threshold": In("edge_threshold", EDGE), "far": In("far", 0.0)}
CLIP, VAE = {"clip": In("clip")}, {"vae": In("vae")}
GIVEN = (Link("given", "positive"), Link("given", "negative"), Link("given", "latent"))
TEXTS = (Link("positive"), Link("negative"))
SCHEDULED = Link("schedule", "model")
SIGMAS = Link("schedule", "sigmas")
NO_TEXT = Node("text", "CLIPTextEncode", {**CLIP, "text": ""}, 0, "Nothing")
HUB = "https://huggingface.co"


def texts() -> list[Node]:
    return [
        Node("positive", "CLIPTextEncode", {**CLIP, "text": In("prompt", PROMPT)}, 0, "Prompt"),
        Node("negative", "CLIPTextEncode", {**CLIP, "text": ""}, 0, "Nothing"),
    ]


def _schedule(depth_only: bool, lead: bool) -> list[Node]:
    method = {"sampling": In("sampling", SAMPLING), "depth_only": depth_only}
    values = {"model": In("model"), "steps": Link("method", "steps")}
    before = []
    if lead:
        before = [Node("lead", "ModalityForcingLead", {"order": In("first", LEAD)}, 2)]
        values["log2_alpha"] = Link("lead")
    return [
        *before,
        Node("schedule", "ModalityForcingSchedule", values, 2, height=420),
        Node("method", "ModalityForcingSampling", method, 2),
    ]


def sampler(cfg: object, positive: Link, negative: Link, latent: Link) -> list[Node]:
    """Where one modality is given: one guidance for what is made. cfg 1.0: where that is depth."""
    sampled = _sampled(cfg, positive, negative, latent)
    return [*_schedule(cfg == 1.0, lead=cfg != 1.0), Node("sampler", "SamplerCustom", sampled, 3)]


def _sampled(cfg: object, positive: Link, negative: Link, latent: Link) -> dict:
    return {
        "model": SCHEDULED,
        "noise_seed": In("seed", 0),
        "cfg": cfg,
        "positive": positive,
        "negative": negative,
        "sampler": Link("method", "sampler"),
        "sigmas": SIGMAS,
        "latent_image": latent,
        "control_after_generate": "fixed",
    }


def joint_sampler(
    positive: Link, negative: Link, latent: Link, sigmas: Link = SIGMAS, model: Link = SCHEDULED
) -> list[Node]:
    """Where a picture and its depth are made together: each has its guidance."""
    guided = {
        "model": model,
        "positive": positive,
        "negative": negative,
        "rgb_cfg": In("image guidance", IMAGE_GUIDANCE),
        "depth_cfg": In("depth guidance", DEPTH_GUIDANCE),
    }
    sampled = {
        "noise": Link("noise"),
        "guider": Link("guider"),
        "sampler": Link("method", "sampler"),
        "sigmas": sigmas,
        "latent_image": latent,
    }
    return [
        *_schedule(depth_only=False, lead=True),
        Node("noise", "RandomNoise", {"noise_seed": In("seed", 0), "control_after_generate": "fixed"}, 3),
        Node("guider", "ModalityForcingGuider", guided, 3, height=420),
        Node("sampler", "SamplerCustomAdvanced", sampled, 3),
    ]


def decoded(latent: str = "sampler") -> list[Node]:
    return [
        Node("split", "ModalityForcingSplitLatents", {"latent": Link(latent)}, 4),
        Node("image", "VAEDecode", {"samples": Link("split", "rgb"), **VAE}, 4),
        Node("depth", "ModalityForcingDecodeDepth", {"latent": Link(latent), "image": Link("image")}, 4),
    ]


def _drawn_to(known: Link | In) -> Node:
    """The model, whose depth is drawn to what is known at the scale that the model itself finds: that of a part is not
    that of the whole."""
    drawn = {"model": SCHEDULED, "sparse": known, "width": 0, "height": 0, "finest": PAINTED_FINEST}
    return Node("drawn", "ModalityForcingPointGuidance", drawn, 2)


def painted_view(view: Link | In) -> list[Node]:
    """Picture and depth of a moved view (its geometry). The picture stays where it is known, depth is drawn to what is
    known."""
    kept = {"positive": TEXTS[0], "negative": TEXTS[1], "rgb": Link("encoded"), "mask": Link("kept")}
    return [
        Node("encoded", "ModalityForcingEncodeView", {"view": view, **VAE}, 1),
        Node("kept", "InvertMask", {"mask": Link("encoded", "painted")}, 1, "Not Painted = Known"),
        Node("given", "ModalityForcingImageCondition", kept, 1),
        _drawn_to(view),
        *joint_sampler(*GIVEN, model=Link("drawn")),
        *decoded(),
    ]


DEPTH = {"geometry": Link("depth", "geometry"), "depth picture": Link("depth", "depth picture")}
BOTH = {"image": Link("image"), **DEPTH}


def fitted_image(image: str, masked: bool = False) -> list[Node]:
    """An image, and the mask of what is known in it, at a size that the model takes."""
    if not masked:
        return [Node("fit", "ModalityForcingFitImage", {"image": In(image), "max_side": In("max_side", SIDE)}, 0)]
    inputs = {"image": In(image), "mask": Link("known"), "max_side": In("max_side", SIDE)}
    return [
        Node("known", "InvertMask", {"mask": In("mask")}, 0, "Painted = Missing"),
        Node("fit", "ModalityForcingFitImage", inputs, 0),
    ]


def _given_image(text: str) -> list[Node]:
    pixels = {"pixels": Link("fit", "image"), **VAE}
    return [Node("encoded", "VAEEncode", pixels, 1), _image_condition(text, Link("encoded"))]


def _image_condition(text: str, latent: Link | In) -> Node:
    condition = {"positive": Link(text), "negative": Link(text), "rgb": latent}
    return Node("given", "ModalityForcingImageCondition", condition, 1)


FITTED_DEPTH = {"picture": Link("fit", "image"), "black_is_hole": In("black_is_hole", False)}
STRENGTH = In("strength", 1.0)
GIVEN_DEPTH = {"positive": TEXTS[0], "negative": TEXTS[1], "depth": Link("encoded", "depth"), "strength": STRENGTH}

TEXT_TO_RGBD = Subgraph(
    "Text to RGB-D",
    [
        *texts(),
        Node("empty", "ModalityForcingEmptyLatent", {"width": In("width", SIDE), "height": In("height", SIDE)}, 0),
        *joint_sampler(*TEXTS, Link("empty")),
        *decoded(),
    ],
    {**BOTH, "latent": Link("sampler")},
    "A text becomes a picture and its depth.",
)

IMAGE_TO_DEPTH = Subgraph(
    "Image to Depth",
    [
        *fitted_image("image"),
        NO_TEXT,
        *_given_image("text"),
        *sampler(1.0, *GIVEN),
        Node("depth", "ModalityForcingDecodeDepth", {"latent": Link("sampler"), "image": In("image")}, 4),
    ],
    DEPTH,
    "The depth of a picture, at the picture's own size.",
)


DEPTH_TO_IMAGE = Subgraph(
    "Depth to Image",
    [
        *texts(),
        *fitted_image("depth picture"),
        Node("encoded", "ModalityForcingEncodeDepthPicture", FITTED_DEPTH, 1),
        Node("given", "ModalityForcingDepthCondition", GIVEN_DEPTH, 1),
        *sampler(In("guidance", GUIDANCE), *GIVEN),
        *decoded(),
    ],
    BOTH,
    "A depth picture and a text become a picture.",
)

COMPLETE_DEPTH = Subgraph(
    "Complete Depth",
    [
        *texts(),
        *fitted_image("depth picture", masked=True),
        Node("measured", "ModalityForcingGeometryFromPicture", {**FITTED_DEPTH, "mask": Link("fit", "mask")}, 1),
        Node("size", "GetImageSize", {"image": Link("fit", "image")}, 1),
        Node("empty", "ModalityForcingEmptyLatent", {side: Link("size", side) for side in ("width", "height")}, 1),
        _drawn_to(Link("measured")),
        *joint_sampler(*TEXTS, Link("empty"), model=Link("drawn")),
        *decoded(),
        Node(
            "completed",
            "ModalityForcingFitToPoints",
            {"geometry": Link("depth", "geometry"), "sparse": Link("measured"), "keep_points": True},
            5,
        ),
        Node("drawing", "ModalityForcingDepthPicture", {"geometry": Link("completed", "geometry")}, 5),
    ],
    {
        "image": Link("image"),
        "geometry": Link("completed", "geometry"),
        "depth picture": Link("drawing", "picture"),
    },
    "The depth that a mask says is missing, and a picture of it.",
)

INPAINT = Subgraph(
    "Inpaint RGB-D",
    [
        *fitted_image("image"),
        *texts(),
        *_given_image("negative"),
        Node("whole", "SamplerCustom", _sampled(1.0, *GIVEN), 2, "Depth of the Picture"),
        Node("masked", "SetLatentNoiseMask", {"samples": Link("whole"), "mask": In("mask")}, 2),
        *joint_sampler(*TEXTS, Link("masked")),
        *decoded(),
    ],
    BOTH,
    "Picture and depth anew under a mask, fitting what is around it.",
)

LOOK_AROUND = Subgraph(
    "Look Around",
    [
        *texts(),
        *painted_view(In("view")),
        Node("cloud", "ModalityForcingPointCloud", {"geometry": In("geometry"), "edge_threshold": EDGE, "far": FAR}, 5),
        Node(
            "added",
            "ModalityForcingAddView",
            {
                "scene": Link("cloud", "point cloud"),
                "painted": Link("depth", "geometry"),
                "view": In("view"),
                "edge_threshold": EDGE,
                "far": FAR,
            },
            5,
        ),
    ],
    {
        "image": Link("added", "image"),
        "geometry": Link("added", "geometry"),
        "scene": Link("added", "scene"),
    },
    "What a moved camera had not seen is painted, picture and depth together, and added to the scene. view: "
    "the geometry of the viewer or of Render Moved View.",
)

REFINE_DEPTH = Subgraph(
    "Refine Depth",
    [
        NO_TEXT,
        _image_condition("text", In("latent")),
        *sampler(1.0, *GIVEN),
        Node("depth", "ModalityForcingDecodeDepth", {"latent": Link("sampler"), "image": In("image")}, 4),
    ],
    DEPTH,
    "The depth of a made picture once more, from its finished latent.",
)


def _file(node: str, kind: str, widget: str, name: str, directory: str, source: str, **values: str) -> Node:
    """A loader with what the frontend's dialog of missing models needs to offer the file."""
    models = [{"name": name, "url": f"{HUB}/{source}", "directory": directory}]
    return Node(node, kind, {widget: name, **values}, properties={"models": models})


RELEASED = Subgraph(
    "Released Model",
    [
        _file(
            "model",
            "ModalityForcingLoadModel",
            "model_name",
            "modality_forcing.safetensors",
            "diffusion_models",
            "bartduis/modality_forcing/resolve/main/model.safetensors",
        ),
        _file(
            "clip",
            "CLIPLoader",
            "clip_name",
            "qwen_3_8b_fp8mixed.safetensors",
            "text_encoders",
            "Comfy-Org/flux2-klein-9B/resolve/main/split_files/text_encoders/qwen_3_8b_fp8mixed.safetensors",
            type="flux2",
        ),
        _file(
            "vae",
            "VAELoader",
            "vae_name",
            "flux2-vae.safetensors",
            "vae",
            "Comfy-Org/flux2-dev/resolve/main/split_files/vae/flux2-vae.safetensors",
        ),
    ],
    {"model": Link("model"), "clip": Link("clip"), "vae": Link("vae")},
    "The released checkpoint with its text encoder and its image autoencoder.",
)

CLOUD_AND_MESH = Subgraph(
    "Point Cloud and Mesh",
    [
        Node("cloud", "ModalityForcingPointCloud", {"geometry": In("geometry"), **CUT}, 0),
        Node("mesh", "ModalityForcingMesh", {"geometry": In("geometry"), **CUT}, 1),
    ],
    {"point cloud": Link("cloud", "point cloud"), "mesh": Link("mesh")},
    "Depth as points and as a surface, without what flies between surfaces.",
)

PAINT = Subgraph(
    "Paint with a ControlNet",
    [
        _file(
            "painter",
            "CheckpointLoaderSimple",
            "ckpt_name",
            "v1-5-pruned-emaonly-fp16.safetensors",
            "checkpoints",
            "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
        ),
        _file(
            "controlnet",
            "ControlNetLoader",
            "control_net_name",
            "control_v11f1p_sd15_depth_fp16.safetensors",
            "controlnet",
            "comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/control_v11f1p_sd15_depth_fp16.safetensors",
        ),
        Node(
            "positive",
            "CLIPTextEncode",
            {"clip": Link("painter", "CLIP"), "text": In("prompt", "a watercolour painting of a landscape")},
            1,
            "Prompt",
        ),
        Node("negative", "CLIPTextEncode", {"clip": Link("painter", "CLIP"), "text": "blurry, low quality"}, 1),
        Node(
            "applied",
            "ControlNetApplyAdvanced",
            {
                "positive": Link("positive"),
                "negative": Link("negative"),
                "control_net": Link("controlnet"),
                "image": In("depth picture"),
                "strength": In("strength", 0.8),
            },
            2,
        ),
        Node("size", "GetImageSize", {"image": In("depth picture")}, 2),
        Node("empty", "EmptyLatentImage", {"width": Link("size", "width"), "height": Link("size", "height")}, 2),
        Node(
            "paint",
            "KSampler",
            {
                "model": Link("painter", "MODEL"),
                "positive": Link("applied", "positive"),
                "negative": Link("applied", "negative"),
                "latent_image": Link("empty"),
                "seed": In("seed", 0),
                "steps": 20,
                "cfg": 7.0,
                "sampler_name": "dpmpp_2m",
                "scheduler": "karras",
                "control_after_generate": "fixed",
            },
            3,
        ),
        Node("image", "VAEDecode", {"samples": Link("paint"), "vae": Link("painter", "VAE")}, 4),
    ],
    {"image": Link("image")},
    "Another model paints the same space, by its depth picture.",
)

BLUEPRINTS = [TEXT_TO_RGBD, IMAGE_TO_DEPTH, DEPTH_TO_IMAGE, INPAINT, LOOK_AROUND]
