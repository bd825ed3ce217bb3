"""A real frontend in a real browser, once with each of its two renderers.

``COMFYUI_FRONTEND`` names the folder of another frontend than the one the host pins (ComfyUI's ``--front-end-root``).
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from modality_forcing.tasks.host.browser import FLAGS, find_browser
from modality_forcing.tasks.host.server import Server

sys.path.append(str(Path(__file__).parent))  # for frontend.py and widgets.py

from frontend import Frontend, open_frontend  # noqa: E402
from widgets import Scene  # noqa: E402

PATIENCE_MS = 100_000  # what comes late on a busy machine is no failure; a test's own limit is above it

# The floor's Vue renderer measures where new nodes are while the view still changes from what was open before: zoomed
# otherwise than a fresh page it puts them over one another, and hands meet another node than the one they look for.
# Newer frontends keep the view of each graph: a test that ended inside a subgraph must not leave its view there.
FRESH = """() => {
    app.canvas.setGraph(app.rootGraph ?? app.graph);
    app.graph.clear();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    app.canvas.setDirty(true, true);
}"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all browser tests."""
    other = os.environ.get("COMFYUI_FRONTEND")
    arguments = ("--front-end-root", other) if other else ()
    with Server(tmp_path_factory.mktemp("comfyui_browser"), arguments=arguments) as running:
        running.check_pack()
        yield running


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict:
    """Every node class of the server."""
    return server.object_info()


@pytest.fixture(scope="session")
def scene(server: Server) -> Scene:
    """The scene of known depth that the widgets show."""
    return Scene(server.base / "input")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """A Chromium's pages, which share the files they have loaded."""
    executable = find_browser()
    if executable is None:
        pytest.skip("there is no Chromium, Chrome or Edge on this machine (run.py test installs one on Debian as root)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(executable), args=FLAGS)
        pages = running.new_context(viewport={"width": 1600, "height": 1000})
        pages.set_default_timeout(PATIENCE_MS)
        yield pages
        running.close()


@pytest.fixture(scope="session", params=["canvas", "vue"])
def renderer(request: pytest.FixtureRequest) -> str:
    """LiteGraph's canvas, or the Vue nodes ("Nodes 2.0")."""
    return request.param


@pytest.fixture(scope="module")
def opened(browser, server: Server, renderer: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    """The frontend, opened once for a file's tests of a renderer because that takes seconds.

    Not once for all: the Vue renderer keeps the empty elements of removed nodes, which in time lie over others.
    """
    with open_frontend(browser, server, renderer, tmp_path_factory.mktemp("pictures"), server.address) as frontend:
        frontend.await_graph()
        yield frontend


@pytest.fixture
def frontend(opened: Frontend) -> Iterator[Frontend]:
    """The frontend with an empty graph and no errors yet; what the test leaves open is cleared away."""
    opened.page.evaluate(FRESH)
    opened.await_frames()
    opened.errors.clear()
    yield opened
