"""The frontend's page in a browser, as the tests use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modality_forcing.tasks.host.server import Server

# No tour, no update notes, no questions: a test opens the page as a user who has been here before.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Release.Status": "skipped",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Validation.Workflows": True,
}
# Of the elements that one frame makes another tells the place, and the next draws them there.
FRAMES = """async () => {
    for (let frame = 0; frame < 4; frame++) await new Promise(requestAnimationFrame);
}"""
# What a frontend without a network complains about.
OFFLINE = ("net::ERR_", "Failed to fetch", "Network Error", "AxiosError")


@dataclass
class Frontend:
    """The frontend's page; ``errors`` are the browser's and the page's errors since it was opened."""

    page: object
    server: Server
    renderer: str
    pictures: Path
    errors: list[str] = field(default_factory=list)

    @property
    def version(self) -> tuple[int, ...]:
        """The frontend's own version."""
        text = self.page.wait_for_function("window.__COMFYUI_FRONTEND_VERSION__").json_value()
        return tuple(map(int, text.split(".")))

    def await_graph(self) -> None:
        """Wait until the editor is there."""
        self.page.wait_for_function("window.app?.graph && window.app.extensionManager?.workflow?.activeWorkflow")

    def load_workflow(self, graph: dict) -> None:
        """Open a saved workflow and wait until it is drawn."""
        self.page.evaluate("async graph => { await window.app.loadGraphData(graph) }", graph)
        self.await_frames()

    def await_frames(self) -> None:
        """Wait until the page has drawn what was changed, however busy the machine is."""
        self.page.evaluate(FRAMES)

    def prompt(self) -> dict:
        """What the frontend would queue for the open workflow."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def saved(self) -> dict:
        """The open workflow as the frontend would save it."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).workflow")

    def screenshot(self, name: str) -> Path:
        """Fit the workflow to the window and take a picture; returns its path."""
        self.page.keyboard.press(".")
        self.page.wait_for_timeout(800)
        path = self.pictures / f"{name}_{self.renderer}.png"
        self.page.screenshot(path=path)
        return path


@contextmanager
def open_frontend(browser, server: Server, renderer: str, pictures: Path, address: str) -> Iterator[Frontend]:
    """A page of the browser with the server's frontend at an address, closed on exit."""
    server.settings({**SETTINGS, "Comfy.VueNodes.Enabled": renderer == "vue"})
    page = browser.new_page()
    frontend = Frontend(page, server, renderer, pictures)

    def note(text: str) -> None:
        if not any(mark in text for mark in OFFLINE):
            frontend.errors.append(text)

    page.on("console", lambda message: note(f"{message.text} {message.location}") if message.type == "error" else None)
    page.on("pageerror", lambda error: note(str(error)))
    kept = {"origin": server.address, "storageTypes": "local_storage,indexeddb"}
    browser.new_cdp_session(page).send("Storage.clearDataForOrigin", kept)  # of the page before
    page.goto(address)
    yield frontend
    page.close()
