"""The help pages of the nodes around the model: each names what its node has and a workflow that there is."""

import pytest
from modality_forcing.tasks import ROOT, WORKFLOWS
from modality_forcing.tasks.host.server import PACK_FOLDER

DOCS = ROOT / "web" / "docs"
PREFIX = "ModalityForcing"
NAMES = [
    "LoadModel",
    "LoadSmall",
    "Schedule",
    "Lead",
    "Sampling",
    "EmptyLatent",
    "JoinLatents",
    "SplitLatents",
    "FitImage",
]
NAMES += ["ImageCondition", "DepthCondition", "DecodeDepth", "EncodeDepthPicture", "EncodeGeometry"]


@pytest.mark.parametrize("node_id", [PREFIX + name for name in NAMES])
def test_a_page_names_the_inputs_and_outputs_of_its_node(server, object_info, node_id):
    info = object_info[node_id]
    page = server.get(f"/extensions/{PACK_FOLDER}/docs/{node_id}.md").decode()
    inputs = [name for section in ("required", "optional") for name in info["input"].get(section, {})]
    missing = [name for name in [*inputs, *info["output_name"]] if f"**{name}**" not in page]
    assert missing == []
    assert page.startswith(f"# {info['display_name']}\n")


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem.removeprefix(PREFIX))
def test_a_page_names_workflows_that_there_are(page):
    parts = page.read_text(encoding="utf-8").split("`")[1::2]
    titles = [part for part in parts if part[:2].isdecimal() and part[2:3] == " "]
    assert [title for title in titles if not (WORKFLOWS / f"{title}.json").is_file()] == []
