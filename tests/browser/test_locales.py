"""A frontend in another language shows the pack's nodes and their widgets in it."""

import json
import re

import pytest
from frontend import open_frontend
from modality_forcing.tasks import ROOT
from modality_forcing.tasks.workflows.builder import Link, Node
from widgets import await_ready, close_up, open_graph, run

LANGUAGE = "ja"
ADD = """type => {
    const node = LiteGraph.createNode(type);
    node.pos = [100, 100];
    app.graph.add(node);
    return {
        title: node.title,
        inputs: node.inputs.map(slot => slot.label ?? slot.localized_name),
        widgets: node.widgets.filter(widget => widget.label).map(widget => widget.label),
        outputs: node.outputs.map(slot => slot.label ?? slot.localized_name),
    };
}"""

# What the widgets show, say under the pointer and say to those who hear them.
TEXTS = """() => [...document.querySelectorAll('.mf-widget, .mf-widget *')].flatMap(element => [
    ...[...element.childNodes].filter(node => node.nodeType === Node.TEXT_NODE).map(node => node.data),
    ...['title', 'aria-label', 'aria-valuetext'].map(name => element.getAttribute(name) ?? ''),
])"""
SAME = r"log2_alpha|RGB|PNG|PLY|GLB|Magma|Turbo|Shift|Esc|ControlNet|px"


@pytest.fixture
def japanese(request, browser, server, renderer, tmp_path):
    """A page of its own: the language is read when it opens."""
    server.settings({"Comfy.Locale": LANGUAGE})
    request.addfinalizer(lambda: server.settings({"Comfy.Locale": "en"}))
    with open_frontend(browser, server, renderer, tmp_path, server.address) as frontend:
        frontend.await_graph()
        yield frontend


def test_nodes_are_shown_in_the_language_of_the_frontend(japanese):
    if japanese.version < (1, 40):
        pytest.skip("this frontend loads its own texts over those of custom nodes")
    texts = json.loads((ROOT / "locales" / LANGUAGE / "nodeDefs.json").read_text(encoding="utf-8"))
    for node_id in ("ModalityForcingSchedule", "ModalityForcingPreviewDepth"):
        want = texts[node_id]
        japanese.page.evaluate("app.graph.clear()")
        shown = japanese.page.evaluate(ADD, node_id)
        assert shown["title"] == want["display_name"]
        assert shown["outputs"] == [output["name"] for output in want["outputs"].values()]
        assert set(shown["inputs"]) | set(shown["widgets"]) >= {entry["name"] for entry in want["inputs"].values()}
        japanese.screenshot(node_id)
    assert [error for error in japanese.errors if "modality-forcing" in error] == []


def test_widgets_are_shown_in_the_language_of_the_frontend(japanese, object_info, scene):
    geometry = {"geometry": Link("geometry", "geometry")}
    nodes = [
        *scene.nodes(),
        Node("cloud", "ModalityForcingPreviewPointCloud", geometry, column=1, width=640, height=640),
        Node("depth", "ModalityForcingPreviewDepth", geometry, column=2, width=560, height=560),
        Node("model", "UNETLoader", {"unet_name": "none.safetensors"}),
        Node("schedule", "ModalityForcingSchedule", {"model": Link("model")}, column=3, height=460),
    ]
    open_graph(japanese, object_info, nodes)
    japanese.page.evaluate("app.graph.nodes.filter(n => /UNET|Schedule/.test(n.type)).forEach(n => { n.mode = 2 })")
    run(japanese)
    await_ready(japanese, 2)
    widget = close_up(japanese, "ModalityForcingPreviewPointCloud")
    for name in ("その他", "計測"):
        widget.get_by_role("button", name=name).click()
    shown = [text for text in japanese.page.evaluate(TEXTS) if text.strip()]
    assert len(shown) > 100
    assert [text for text in shown if re.search(r"[A-Za-z]{2,}", re.sub(SAME, "", text))] == []
    japanese.screenshot("widgets")
    assert [error for error in japanese.errors if "modality-forcing" in error] == []
