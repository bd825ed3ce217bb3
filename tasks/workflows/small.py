"""The workflow that runs as it is, on the small model that comes with the pack."""

from dataclasses import replace
from pathlib import Path

from .. import SMALL_MODEL
from .builder import Group, Link, Node, Note, Workflow

SIDE, STEPS, GUIDANCE = 128, 25, 2.0  # pixels that the model was trained at; what its depth comes out best with
FAR = 2.8  # mean depths: the model puts the sky at 4, and its edge on the way there
EDGE = 0.4  # of neighbouring pixels: at this size the ground itself falls away by more than the default
CRACKS = 4  # pixels: what the steps of the ground leave open in a moved view
SIDE_VIEW = {"yaw_deg": 12.0, "pitch_deg": -6.0, "pivot": 1.0}  # a camera that shows the cloud's depth
LOADERS = {"model": 0, "clip": 1, "vae": 2}  # a node of a shipped workflow: the output that stands in for it
NOTE = Path(__file__).parent / "notes" / "small_model.md"
SETTINGS = {
    "ModalityForcingEmptyLatent": {"width": SIDE, "height": SIDE},
    "ModalityForcingSchedule": {"steps": STEPS},
    "ModalityForcingPointCloud": {"far": FAR, "edge_threshold": EDGE},
    "SamplerCustom": {"cfg": GUIDANCE},
}
VIEWER = {"edge": 0, "far": FAR, "pointSize": 2}


def small_version(workflow: Workflow) -> Workflow:
    """A workflow of the released checkpoint with one Load Small Model in place of its three loaders."""
    heading, _, text = NOTE.read_text(encoding="utf-8").partition("\n")
    note = Note(text.strip(), title=heading.removeprefix("# "), width=420, height=520)
    loader = Node("small", "ModalityForcingLoadSmall", {"model_name": SMALL_MODEL.name}, column=1)
    kept = [item for item in workflow.items if isinstance(item, Node) and item.id not in LOADERS]
    groups = [Group(group.title, ["small"]) if set(group.nodes) == set(LOADERS) else group for group in workflow.groups]
    return Workflow("small_model", [note, loader, *map(_moved, kept)], groups)


def _moved(node: Node) -> Node:
    inputs = {name: _link(value) if isinstance(value, Link) else value for name, value in node.inputs.items()}
    prefix = inputs.get("filename_prefix")
    if prefix:
        inputs["filename_prefix"] = prefix.replace("/joint_", "/small_model_")
    properties = {"modality_forcing": {"cloud": VIEWER}} if node.type == "ModalityForcingPreviewPointCloud" else {}
    return replace(node, inputs={**inputs, **SETTINGS.get(node.type, {})}, properties=properties)


def _link(link: Link) -> Link:
    return Link("small", LOADERS[link.node]) if link.node in LOADERS else link
