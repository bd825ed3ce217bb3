"""``run.py bench first_minute``: what a newcomer waits for, in a real browser with the bundled model.

A fresh server and page; two templates, each opened and run by its button: seconds from the click to the first picture
and to the first point cloud on the screen. In the second the camera is then moved, the view used, and run again.
WebGL is drawn by the CPU here, as on a machine without a graphics card.
"""

import json
import os
import tempfile
import time
from pathlib import Path

from .. import INPUTS, WORKFLOWS, TaskError
from ..host.browser import FLAGS, ensure_browser
from ..host.server import Server

SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Release.Status": "skipped", "Comfy.VueNodes.Enabled": False}
EDITOR = "window.app?.graph && window.app.extensionManager?.workflow?.activeWorkflow"
OPEN = "async graph => { await app.loadGraphData(graph, true, true, null, { openSource: 'template' }) }"
# Seconds from now to the first finished picture, and to the first frame that shows the cloud of this run.
WATCH = """() => {
    const began = performance.now(), seconds = () => (performance.now() - began) / 1000;
    const points = () => [...document.querySelectorAll('.mf-readout')].some(text => / points/.test(text.textContent));
    const found = window.firstMinute = { picture: null, cloud: null };
    const cloud = new Set(app.graph.nodes.filter(node => node.type === 'ModalityForcingPreviewPointCloud')
        .map(node => String(node.id)));
    app.api.addEventListener('executed', ({ detail }) => {
        if (detail.output?.images?.length) found.picture ??= seconds();
        if (!cloud.has(String(detail.node))) return;
        const look = () => {
            const states = [...document.querySelectorAll('.mf-view .mf-state')];
            const ready = states.some(state => state.dataset.state === 'ready') && points();
            if (ready) requestAnimationFrame(() => { found.cloud ??= seconds(); });
            else requestAnimationFrame(look);
        };
        look();
    });
}"""


def main(_arguments: list[str]) -> int:
    """Print the table; returns the exit status."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise TaskError(f"{error}: start it in the environment of the tests, after run.py test") from error
    executable = str(ensure_browser())
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server, sync_playwright() as playwright:
        server.settings(SETTINGS)
        for picture in INPUTS.glob("*.png"):
            server.upload_image(picture)
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        began = time.monotonic()
        page.goto(server.address)
        page.wait_for_function(EDITOR, timeout=120000)
        if hasattr(os, "getloadavg"):
            print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(f"page to editor {time.monotonic() - began:.1f} s\n\n{'seconds from the click':52}  picture  cloud")
        _open(page, "01 Text to Image, Depth and 3D")
        _run(page, "01, first run (the model is loaded)")
        page.evaluate(
            "app.graph.nodes.flatMap(n => n.widgets ?? []).filter(w => w.name === 'seed').forEach(w => { w.value = 1 })"
        )
        _run(page, "01, another seed")
        _open(page, "06 Look Around")
        _run(page, "06, first run")
        _look_around(page)
        _run(page, "06, the camera moved, this view used")
        browser.close()
    return 0


def _open(page, name: str) -> None:
    page.evaluate(OPEN, json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")))
    page.wait_for_timeout(1500)


def _run(page, what: str) -> None:
    page.evaluate(WATCH)
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function("firstMinute.picture !== null && firstMinute.cloud !== null", timeout=300000)
    found = page.evaluate("firstMinute")
    print(f"{what:52}  {found['picture']:7.1f}  {found['cloud']:5.1f}", flush=True)
    page.wait_for_timeout(1500)


def _look_around(page) -> None:
    """Drag in the viewer, and press its button."""
    view = page.locator(".mf-widget:has(button:text-is('Use this view')) .mf-view").bounding_box()
    x, y = view["x"] + view["width"] / 2, view["y"] + view["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Use this view").click()
