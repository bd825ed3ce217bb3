"""What the descriptions of workflows have in common: note, model, picture, viewer, results."""

from dataclasses import dataclass
from pathlib import Path
from string import Template

from .. import SMALL_MODEL
from .builder import MUTED, Link, Node, Note, Subgraph
from .settings import EDGE, FAR, VIEWER_FAR
from .subgraphs import RELEASED

# In workflows/input; the frontend offers them to ComfyUI when a workflow that loads one is opened (web/examples.js).
PICTURE, PICTURE_WITH_HOLE = "modality_forcing_scene.png", "modality_forcing_scene_hole.png"
DEPTH_PICTURE, DEPTH_PICTURE_WITH_HOLE = "modality_forcing_depth.png", "modality_forcing_depth_hole.png"
METRIC_DEPTH = "modality_forcing_depth_16bit.png"
SPARSE_DEPTH = "modality_forcing_depth_sparse.png"  # 2 % of its pixels
FOV_X_DEG = 72.76  # of the example scene
NOTES = Path(__file__).parent / "notes"
MODEL = {name: Link("small", name) for name in ("model", "clip", "vae")}
MADE = Link("made", "geometry")
WIDE = 520
DEPTH_WIDTH, DEPTH_HEIGHT, VIEWER_HEIGHT = 400, 450, 600  # at least what their widgets take
# What is set for the released model, which was trained at 512 pixels.
PICTURES_512 = "width and height 512, sampling as released, both guidances 4"
GIVEN_512, PART_512 = (
    "max_side 512, sampling as released, guidance 4",
    "max_side 512, sampling as released, both guidances 4",
)
DEPTHS_512 = "max_side 512, sampling as released"
VIEWS_512 = "max_side 512 (twice), sampling as released, both guidances 4"
SMALL_CUT = {"edge_threshold": EDGE, "far": FAR}


@dataclass(frozen=True)
class Workflow:
    """title: the file's name, which is what ComfyUI's template browser shows."""

    title: str
    items: list[Node | Note]


def note(name: str, released: str = "") -> Note:
    """A workflow's note. released: what to set for the released model, where a workflow has one."""
    heading, _, text = (NOTES / f"{name}.md").read_text(encoding="utf-8").partition("\n")
    height = 70 + round(0.62 * len(text))  # what the taller of the two renderers needs, at a note's width
    if released:
        height += 130
        text += "\n### " + Template((NOTES / "model.md").read_text(encoding="utf-8")).substitute(released=released)
    # Paragraphs as headings: at the zoom that a workflow opens with, ordinary text is too small to be read.
    blocks = [block if block[0] in "-#" else f"## {block}" for block in text.strip().split("\n\n")]
    return Note("\n\n".join(blocks), 0, heading.removeprefix("# "), height=height)


def with_model(title: str, note_name: str, released: str, *items: Node | Note) -> Workflow:
    """A workflow whose first column are its note and the model."""
    return Workflow(title, [note(note_name, released), *model_nodes(), *items])


def model_nodes() -> list[Node]:
    released = {name: Link("released", name) for name in MODEL}
    return [
        Node("small", "ModalityForcingLoadSmall", {"model_name": SMALL_MODEL.name, **released}, 0),
        Node("released", RELEASED, {}, 0, "Released Model (Ctrl+M)", mode=MUTED),
    ]


def picture_node(name: str, title: str, column: int = 1) -> Node:
    return Node("picture", "LoadImage", {"image": name}, column, title, height=320)


def made_from(picture: str, title: str, box: Subgraph, *names: str) -> list[Node]:
    """A picture and the box that takes it. names: of the box's inputs for the picture and for its mask."""
    given = {name: Link("picture", output) for name, output in zip(names, ("IMAGE", "MASK"), strict=False)}
    return [picture_node(picture, title), Node("made", box, {**MODEL, **given}, 1)]


def viewer(geometry: Link, title: str | None = None, **inputs) -> Node:
    shown = {"modality_forcing": {"viewer": {"edge": EDGE, "far": VIEWER_FAR, "pointSize": 3}}}
    kind = "ModalityForcingPreviewPointCloud"
    given = {"geometry": geometry, **inputs}
    return Node("viewer", kind, given, 2, title, width=WIDE, height=VIEWER_HEIGHT, properties=shown)


def shown_depth(geometry: Link, node_id: str = "shown_depth", title: str | None = None) -> Node:
    kind, inputs = "ModalityForcingPreviewDepth", {"geometry": geometry}
    return Node(node_id, kind, inputs, 3, title, width=DEPTH_WIDTH, height=DEPTH_HEIGHT)


def saved_images(what: str, images: Link, title: str, column: int = 3, height: int = 310) -> Node:
    inputs = {"images": images, "filename_prefix": f"modality_forcing/{what}"}
    return Node(f"saved_{what}", "SaveImage", inputs, column, title, height=height)


def cloud_nodes(geometry: Link, name: str, **values: float) -> list[Node]:
    saved = {"point_cloud": Link("cloud", "point cloud"), "filename_prefix": f"modality_forcing/{name}"}
    return [
        Node("cloud", "ModalityForcingPointCloud", {"geometry": geometry, **values}, 3),
        Node("saved_cloud", "ModalityForcingSavePointCloud", saved, 2),
    ]
