"""A frontend in another language shows the pack's nodes in it."""

import json

import pytest
from frontend import open_frontend
from modality_forcing.tasks import ROOT

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


@pytest.fixture
def japanese(request, browser, server, renderer, tmp_path):
    """A page of its own: the language is read when it opens."""
    server.settings({"Comfy.Locale": LANGUAGE})
    request.addfinalizer(lambda: server.settings({"Comfy.Locale": "en"}))
    with open_frontend(browser, server, renderer, tmp_path, server.address) as frontend:
        frontend.await_graph()
        if frontend.version < (1, 40):
            pytest.skip("this frontend loads its own texts over those of custom nodes")
        yield frontend


def test_nodes_are_shown_in_the_language_of_the_frontend(japanese):
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
