"""The shipped workflows in a real frontend: they open, lie apart and are queued as the other tests run them.

``WORKFLOW_PICTURES`` names a folder to keep screenshots in.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from modality_forcing.tasks import WORKFLOWS
from modality_forcing.tasks.host.server import PACK_FOLDER
from modality_forcing.tasks.workflows.convert import to_api

FILES = sorted(WORKFLOWS.glob("*.json"))
TITLE = 30  # a node's title stands above its `y`
BOXES = """() => app.graph.nodes.map(node => ({
    type: node.type, x: node.pos[0], y: node.pos[1], width: node.size[0], height: node.size[1],
}))"""
OUTSIDE = """() => app.graph.groups.flatMap(group => app.graph.nodes
    .filter(node => node.pos[0] > group.pos[0] && node.pos[0] < group.pos[0] + group.size[0])
    .filter(node => node.pos[1] + node.size[1] > group.pos[1] + group.size[1])
    .map(node => [group.title, node.type]))"""
WIDE = {"width": 2600, "height": 1150}  # a whole workflow with legible texts


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
    assert frontend.page.evaluate(OUTSIDE) == []


def test_the_template_browser_lists_all_with_thumbnails(server):
    names = server.get_json("/api/workflow_templates")[PACK_FOLDER]
    assert sorted(names) == [path.stem for path in FILES]
    for path in FILES:
        content = server.get(f"/api/workflow_templates/{PACK_FOLDER}/{path.name}")
        assert content == path.read_bytes()
        assert server.get(f"/api/workflow_templates/{PACK_FOLDER}/{path.stem}.jpg").startswith(b"\xff\xd8")
