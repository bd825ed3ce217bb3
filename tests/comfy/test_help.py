"""The help pages: each names what its node has and a workflow that there is."""

import pytest
from modality_forcing.tasks import ROOT, WORKFLOWS
from modality_forcing.tasks.host.server import PACK_FOLDER

DOCS = ROOT / "web" / "docs"
PREFIX = "ModalityForcing"
WRITTEN = "Written by the viewer"  # inputs whose rows are hidden
PAGES = pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem.removeprefix(PREFIX))


@PAGES
def test_a_page_names_the_inputs_and_outputs_of_its_node(server, object_info, page):
    info = object_info[page.stem]
    page = server.get(f"/extensions/{PACK_FOLDER}/docs/{page.name}").decode()
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    inputs = [name for name, spec in inputs.items() if not spec[1].get("tooltip", "").startswith(WRITTEN)]
    missing = [name for name in [*inputs, *info["output_name"]] if f"**{name}**" not in page]
    assert missing == []
    assert page.startswith(f"# {info['display_name']}\n")


@PAGES
def test_a_page_names_workflows_that_there_are(page):
    parts = page.read_text(encoding="utf-8").split("`")[1::2]
    titles = [part for part in parts if part[:2].isdecimal() and part[2:3] == " "]
    assert [title for title in titles if not (WORKFLOWS / f"{title}.json").is_file()] == []
