"""The shipped workflows in a real frontend: they open, lie apart and are queued as the other tests run them.

``WORKFLOW_PICTURES`` names a folder to keep screenshots in.
"""

import json
import os
import shutil
from urllib.parse import quote

import pytest
from modality_forcing.tasks import INPUTS, WORKFLOWS
from modality_forcing.tasks.host.server import PACK_FOLDER
from modality_forcing.tasks.workflows.convert import to_api

FILES = sorted(WORKFLOWS.glob("*.json"))
STEMS = [path.stem for path in FILES]
TITLE = 30  # a node's title stands above its `y`
BOXES = """() => app.graph.nodes.map(node => ({
    type: node.type, x: node.pos[0], y: node.pos[1], width: node.size[0], height: node.size[1],
}))"""
# How many viewers have first controls in two rows, and how many depth previews show ends of a range that is not there.
CONTROLS = """() => {
    const rows = [...document.querySelectorAll('.mf-widget:has(.mf-guides) > .mf-row:first-child')]
        .filter(row => row.offsetParent)
        .map(row => [...row.children].map(item => item.offsetTop + item.offsetHeight / 2))
        .filter(middles => Math.max(...middles) - Math.min(...middles) > 10);
    const ends = [...document.querySelectorAll('.mf-ends')].filter(ends => ends.offsetParent);
    return [rows.length, ends.length];
}"""
WIDE = {"width": 2600, "height": 1150}  # a whole workflow with legible texts


OPEN_TEMPLATE = "async graph => { await app.loadGraphData(graph, true, true, null, { openSource: 'template' }) }"


def overlapping(boxes: list[dict]) -> list[tuple[str, str]]:
    """The nodes that lie on one another, titles included."""
    return [
        (a["type"], b["type"])
        for number, a in enumerate(boxes)
        for b in boxes[:number]
        if a["x"] < b["x"] + b["width"]
        and b["x"] < a["x"] + a["width"]
        and a["y"] - TITLE < b["y"] + b["height"]
        and b["y"] - TITLE < a["y"] + a["height"]
    ]


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_it_opens_in_sight_without_errors_and_is_queued_as_converted(frontend, path, renderer, object_info):
    """In a window of 1600 x 1000, fitted as the template browser does it: all of it, and legible."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    frontend.page.evaluate(OPEN_TEMPLATE, graph)
    frontend.page.wait_for_timeout(800)
    scale, nodes = frontend.page.evaluate("() => [app.canvas.ds.scale, app.graph.nodes.length]")
    assert nodes == len(graph["nodes"])
    assert frontend.prompt() == to_api(graph, object_info)
    assert frontend.page.evaluate(CONTROLS) == [0, 0]
    # The experimental Vue renderer of old frontends moves nodes, without their frames, when it opens.
    if renderer == "canvas" or frontend.version >= (1, 40):
        assert overlapping(frontend.page.evaluate(BOXES)) == []
    if "WORKFLOW_PICTURES" in os.environ:
        frontend.page.set_viewport_size(WIDE)
        shutil.copy(frontend.screenshot(path.stem), os.environ["WORKFLOW_PICTURES"])
    assert frontend.errors == []
    if renderer == "vue":  # it draws nodes larger, and the graph smaller by the same share
        return
    assert scale >= 0.7 and nodes <= 10


def _unmuted(graph: dict) -> dict:
    graphs = [graph, *graph["definitions"]["subgraphs"]]
    for node in (node for each in graphs for node in each["nodes"]):
        node["mode"] = 0
    return graph


def test_only_a_model_that_is_switched_on_is_missed(frontend):
    """The released model lies muted beside the bundled one: its file is not asked for, until it is un-muted."""
    graph = json.loads(FILES[0].read_text(encoding="utf-8"))
    warn = "on => app.extensionManager.setting.set('Comfy.Workflow.ShowMissingModelsWarning', on)"
    named = frontend.page.get_by_text("modality_forcing.safetensors")
    frontend.load_workflow(graph)
    frontend.page.wait_for_timeout(1000)
    in_the_note = named.count()
    frontend.page.evaluate(warn, True)
    frontend.load_workflow(graph)
    frontend.page.wait_for_timeout(1000)
    assert named.count() == in_the_note
    saved = frontend.saved()
    metadata = [node["properties"] for each in saved["definitions"]["subgraphs"] for node in each["nodes"]]
    assert sum("models" in properties for properties in metadata) == 3
    assert not any("modality_forcing_models" in properties for properties in metadata)
    if frontend.version < (1, 40):  # newer ones leave muted loaders alone by themselves, and list what is missing aside
        frontend.load_workflow(_unmuted(saved))
        named.nth(in_the_note).wait_for()
        frontend.page.keyboard.press("Escape")
    frontend.page.evaluate(warn, False)


def test_example_pictures_are_brought_and_said(frontend, server):
    """A template opened on a bare installation finds its picture; one that was there is left as it is."""
    names = ("modality_forcing_depth.png", "modality_forcing_scene.png")
    missing, kept = (server.base / "input" / name for name in names)
    missing.unlink(missing_ok=True)
    kept.write_bytes(b"mine")
    (example,) = [path for path in FILES if path.stem.startswith("03")]
    (other,) = [path for path in FILES if path.stem.startswith("02")]
    frontend.load_workflow(json.loads(example.read_text(encoding="utf-8")))
    frontend.page.get_by_text("Example pictures of this workflow were put into ComfyUI's input folder").last.wait_for()
    frontend.load_workflow(json.loads(other.read_text(encoding="utf-8")))
    assert missing.read_bytes() == (INPUTS / names[0]).read_bytes() and kept.read_bytes() == b"mine"
    shutil.copy(INPUTS / names[1], kept)


def test_the_template_browser_lists_all_in_order(frontend):
    """The server lists files as the file system does."""
    frontend.page.evaluate("void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    frontend.page.get_by_text(PACK_FOLDER, exact=True).first.click()
    frontend.page.get_by_text(FILES[0].stem, exact=True).first.wait_for()
    shown = frontend.page.locator("h3").all_inner_texts()
    assert [name for name in shown if name in STEMS] == STEMS[: len([name for name in shown if name in STEMS])]
    frontend.page.keyboard.press("Escape")


def test_the_templates_have_thumbnails(server):
    names = server.get_json("/api/workflow_templates")[PACK_FOLDER]
    assert sorted(names) == STEMS
    for path in FILES:
        address = f"/api/workflow_templates/{PACK_FOLDER}/{quote(path.stem)}"
        assert server.get(f"{address}.json") == path.read_bytes()
        assert server.get(f"{address}.jpg").startswith(b"\xff\xd8")
