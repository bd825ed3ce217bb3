"""``run.py pictures screenshot``: the first workflow in the real frontend after a run, as docs/small_workflow.jpg."""

import json
import tempfile
import time
from pathlib import Path

from .. import ROOT, WORKFLOWS, TaskError
from ..host.browser import FLAGS, ensure_browser
from ..host.server import Server

WORKFLOW = "01 Text to Image, Depth and 3D"
PICTURE = ROOT / "docs" / "small_workflow.jpg"
SIZE = {"width": 2200, "height": 1150}  # a whole workflow with legible texts
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Release.Status": "skipped", "Comfy.VueNodes.Enabled": False}
SETTINGS |= {"Comfy.Workflow.ShowMissingModelsWarning": False}  # older frontends ask for muted models too
# Where the canvas shows the graph, with a margin, in pixels of the page.
FRAME = """() => {
    const margin = 20, { scale, offset } = app.canvas.ds, edge = app.canvas.canvas.getBoundingClientRect();
    const items = [...app.graph.nodes, ...app.graph.groups];
    const at = [0, 1].map(axis => Math.min(...items.map(item => item.pos[axis])) - margin);
    const to = [0, 1].map(axis => Math.max(...items.map(item => item.pos[axis] + item.size[axis])) + margin);
    const [left, top] = [0, 1].map(axis => (at[axis] + offset[axis]) * scale);
    const [width, height] = [0, 1].map(axis => (to[axis] - at[axis]) * scale);
    return { x: edge.left + left, y: edge.top + top - 20, width, height: height + 20 };
}"""
DRAWN = "document.querySelectorAll('.mf-state[data-state=ready]').length > 0"


def main(arguments: list[str]) -> int:
    """Take the picture; returns the exit status."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise TaskError(f"{error}: start it in the environment of the tests, after run.py test") from error
    graph = json.loads((WORKFLOWS / f"{WORKFLOW}.json").read_text(encoding="utf-8"))
    executable = str(ensure_browser())
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server, sync_playwright() as playwright:
        server.settings(SETTINGS)
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport=SIZE)
        page.goto(server.address)
        page.wait_for_function("window.app?.graph && window.app.extensionManager?.workflow?.activeWorkflow")
        page.evaluate("async graph => { await window.app.loadGraphData(graph) }", graph)
        page.evaluate("window.app.queuePrompt(0, 1)")
        _await_run(server)
        page.wait_for_function(DRAWN, timeout=20000)
        page.keyboard.press(".")  # the whole graph in the window
        page.evaluate(
            "app.canvas.ds.offset[1] += 110 / app.canvas.ds.scale; app.canvas.setDirty(true, true)"
        )  # below messages
        page.wait_for_timeout(2000)
        page.screenshot(path=PICTURE, type="jpeg", quality=80, clip=page.evaluate(FRAME))
        browser.close()
    print(f"{PICTURE}  {PICTURE.stat().st_size / 1024:.0f} kB")
    return 0


def _await_run(server: Server, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        done = server.get_json("/history")
        if done:
            server.wait(next(iter(done)))
            return
        time.sleep(0.2)
    raise TaskError("the workflow did not run; see the server's log")
