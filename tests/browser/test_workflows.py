"""The shipped workflows in a real frontend: they open, lie apart and are queued as the other tests run them.

``WORKFLOW_PICTURES`` names a folder to keep screenshots in.
"""

import json
import os
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from modality_forcing.tasks import INPUTS, WORKFLOWS
from modality_forcing.tasks.host.server import PACK_FOLDER
from modality_forcing.tasks.workflows.convert import to_api

FILES = sorted(WORKFLOWS.glob("*.json"))
TITLE = 30  # a node's title stands above its `y`
BOXES = """() => app.graph.nodes.map(node => ({
    type: node.type, x: node.pos[0], y: node.pos[1], width: node.size[0], height: node.size[1],
}))"""
WIDE = {"width": 2600, "height": 1150}  # a whole workflow with legible texts


OPEN_TEMPLATE = "async graph => { await app.loadGraphData(graph, true, true, null, { openSource: 'template' }) }"


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def workflow(request, frontend) -> Path:
    """A shipped workflow, open in the frontend."""
    frontend.load_workflow(json.loads(request.param.read_text(encoding="utf-8")))
    return request.param


def test_it_opens_without_errors_and_is_queued_as_converted(frontend, workflow, object_info):
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    assert frontend.page.evaluate("app.graph.nodes.length") == len(graph["nodes"])
    assert frontend.prompt() == to_api(graph, object_info)
    if "WORKFLOW_PICTURES" in os.environ:
        frontend.page.set_viewport_size(WIDE)
        shutil.copy(frontend.screenshot(workflow.stem), os.environ["WORKFLOW_PICTURES"])
    assert frontend.errors == []


def test_no_node_lies_on_another_or_leaves_its_frame(frontend, workflow, renderer):
    if renderer == "vue" and frontend.version < (1, 40):
        pytest.skip("the experimental Vue renderer of this frontend moves nodes, without their frames, when it opens")
    boxes = frontend.page.evaluate(BOXES)
    overlapping = [
        (a["type"], b["type"])
        for number, a in enumerate(boxes)
        for b in boxes[:number]
        if a["x"] < b["x"] + b["width"]
        and b["x"] < a["x"] + a["width"]
        and a["y"] - TITLE < b["y"] + b["height"]
        and b["y"] - TITLE < a["y"] + a["height"]
    ]
    assert overlapping == []


def test_it_opens_in_sight(frontend, workflow, renderer):
    """In a window of 1600 x 1000, fitted as the template browser does it: all of it, and legible."""
    if renderer == "vue":
        pytest.skip("the Vue renderer draws nodes larger and the graph smaller by the same share")
    frontend.page.evaluate(OPEN_TEMPLATE, json.loads(workflow.read_text(encoding="utf-8")))
    frontend.page.wait_for_timeout(800)
    scale, nodes = frontend.page.evaluate("() => [app.canvas.ds.scale, app.graph.nodes.length]")
    assert scale >= 0.7 and nodes <= 10


def test_example_pictures_are_brought_and_said(frontend, server):
    """A template opened on a bare installation finds its picture; one that was there is left as it is."""
    names = ("modality_forcing_depth.png", "modality_forcing_scene.png")
    missing, kept = (server.base / "input" / name for name in names)
    missing.unlink(missing_ok=True)
    kept.write_bytes(b"mine")
    (example,) = [path for path in FILES if path.stem.startswith("03")]
    (other,) = [path for path in FILES if path.stem.startswith("02")]
    for path in (example, other):
        frontend.load_workflow(json.loads(path.read_text(encoding="utf-8")))
    assert missing.read_bytes() == (INPUTS / names[0]).read_bytes() and kept.read_bytes() == b"mine"
    frontend.page.get_by_text("Example pictures of this workflow were put into ComfyUI's input folder").wait_for()
    shutil.copy(INPUTS / names[1], kept)


def test_the_template_browser_lists_all_with_thumbnails(server):
    names = server.get_json("/api/workflow_templates")[PACK_FOLDER]
    assert sorted(names) == [path.stem for path in FILES]
    for path in FILES:
        address = f"/api/workflow_templates/{PACK_FOLDER}/{quote(path.stem)}"
        assert server.get(f"{address}.json") == path.read_bytes()
        assert server.get(f"{address}.jpg").startswith(b"\xff\xd8")
