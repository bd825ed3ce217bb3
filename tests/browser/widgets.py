"""What the tests of the widgets share: a scene of known depth in the server's input folder, and the mouse."""

import io
import math
import time
from pathlib import Path

import numpy as np
import torch
from modality_forcing.model import scenes
from modality_forcing.model.depth import codec
from modality_forcing.model.geometry.camera import intrinsics_from_fov_x
from modality_forcing.model.geometry.packets import make_geometry
from modality_forcing.tasks.workflows.builder import Link, Node, build
from PIL import Image

HEIGHT, WIDTH = 192, 256
SEEDS = (5, 11)


class Scene:
    """Two procedural pictures with exact depth (sky is missing), as files and as the geometry that nodes make of it.

    geometry: of the first. pair: of both, by way of 8-bit depth pictures, since core batches only pictures.
    """

    def __init__(self, folder: Path) -> None:
        batch = scenes.generate(SEEDS, (HEIGHT, WIDTH))
        self.pixels = (batch.rgb.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()  # (2,H,W,3)
        self.depth = batch.depth  # (2,H,W), inf in the sky
        self.fov_x_deg = round(2 * math.degrees(math.atan(0.5 / float(batch.intrinsics[0, 0, 0]))), 1)
        for index, pixels in enumerate(self.pixels):
            Image.fromarray(pixels).save(folder / f"scene{index}.png")
        np.save(folder / "scene.npy", self.depth[0].numpy())
        images = torch.from_numpy(self.pixels).float() / 255
        k = intrinsics_from_fov_x(self.fov_x_deg, WIDTH, HEIGHT)
        self.geometry = make_geometry(self.depth[:1], None, k, images[:1])

        grey = (self.depth.clamp(0, 25) / 25 * 255).round().to(torch.uint8)  # (2,H,W)
        for index, pixels in enumerate(grey.numpy()):
            Image.fromarray(pixels).save(folder / f"depth{index}.png")
        depth, valid = codec.decode(codec.encode(grey.float() / 255 * 25))
        self.pair = make_geometry(depth, valid, k, images)

    def nodes(self) -> list[Node]:
        """Nodes that load the first one; "geometry" has the output."""
        depth = {"file": "scene.npy", "fov_x_deg": self.fov_x_deg, "image": Link("image", "IMAGE")}
        return [
            Node("image", "LoadImage", {"image": "scene0.png"}),
            Node("geometry", "ModalityForcingLoadDepth", depth),
        ]

    def pair_nodes(self) -> list[Node]:
        """Nodes that load both as a batch."""
        nodes = []
        for name in ("scene", "depth"):
            nodes += [Node(f"{name}{i}", "LoadImage", {"image": f"{name}{i}.png"}) for i in (0, 1)]
            both = {f"image{i + 1}": Link(f"{name}{i}", "IMAGE") for i in (0, 1)}
            nodes.append(Node(f"{name}s", "ImageBatch", both))
        encode = {"picture": Link("depths"), "meaning": "metric", "scale": 25.0}
        decode = {"latent": Link("encoded", "depth"), "fov_x_deg": self.fov_x_deg, "image": Link("scenes")}
        return [
            *nodes,
            Node("encoded", "ModalityForcingEncodeDepthPicture", encode),
            Node("geometry", "ModalityForcingDecodeDepth", decode),
        ]


def open_graph(frontend, object_info: dict, nodes: list[Node], name: str = "widgets") -> None:
    """Load the nodes as a workflow; those of one name have one id."""
    frontend.load_workflow(build(object_info, name, nodes))


def run(frontend, timeout_s: float = 60.0) -> dict:
    """Press Run and wait; returns the outputs by node id."""
    before = set(frontend.server.get_json("/history"))
    frontend.page.evaluate("window.app.queuePrompt(0, 1)")
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        new = {k: v for k, v in frontend.server.get_json("/history").items() if k not in before}
        if new and all(entry.get("status") for entry in new.values()):
            (prompt_id,) = new
            return frontend.server.wait(prompt_id)
        frontend.page.wait_for_timeout(50)
    raise TimeoutError("the graph did not run; errors on the page: " + "; ".join(frontend.errors))


def runs(frontend) -> int:
    """How many prompts the server has run."""
    return len(frontend.server.get_json("/history"))


def show(frontend, object_info: dict, nodes: list[Node], node_type: str):
    """Open the nodes, run them, and return the ready widget of one; `frontend.first_run` keeps the outputs."""
    open_graph(frontend, object_info, nodes)
    frontend.first_run = run(frontend)
    await_ready(frontend)
    return close_up(frontend, node_type)


def close_up(frontend, node_type: str):
    """Bring a node into the window at zoom 1; returns the locator of its widget."""
    frontend.page.evaluate(
        """type => {
            const node = app.canvas.graph.nodes.find(node => node.type === type);
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [300 - node.pos[0], 120 - node.pos[1]];
            app.canvas.setDirty(true, true);
        }""",
        node_type,
    )
    frontend.await_frames()
    widget = frontend.page.locator(".mf-widget").filter(visible=True).first
    await_still(widget)
    return widget


def await_still(widget, still_s: float = 0.3, timeout_s: float = 10.0) -> None:
    """Wait until the widget has kept its place: a busy machine takes its time to lay nodes out."""
    end, place, since = time.monotonic() + timeout_s, None, time.monotonic()
    while time.monotonic() < end:
        box = widget.bounding_box()
        if box is None or box != place:
            place, since = box, time.monotonic()
        elif time.monotonic() - since > still_s:
            return
        widget.page.wait_for_timeout(50)
    raise TimeoutError(f"the widget is still moving after {timeout_s:.0f} s, or not shown: {place}")


def await_ready(frontend, count: int = 1) -> None:
    """Wait until so many widgets show their data."""
    frontend.page.wait_for_function(
        "count => document.querySelectorAll('.mf-state[data-state=ready]').length === count", arg=count
    )
    frontend.await_frames()


def drag(page, start: tuple, end: tuple, button: str = "left") -> None:
    """Press at start, move to end in steps, let go."""
    page.mouse.move(*start)
    page.mouse.down(button=button)
    for part in (0.25, 0.5, 0.75, 1.0):
        page.mouse.move(*(a + part * (b - a) for a, b in zip(start, end, strict=True)))
    page.mouse.up(button=button)
    page.wait_for_timeout(150)


def set_slider(locator, value: float) -> None:
    """Move a range input as a hand does: input events."""
    locator.evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })) }", value
    )


def output_picture(frontend, outputs: dict) -> np.ndarray:
    """The picture (H,W,3) that the one PreviewImage node shows."""
    (entry,) = (item for item in outputs.values() if item.get("images"))
    return picture_of(frontend, entry)


def picture_of(frontend, entry: dict) -> np.ndarray:
    """The first picture (H,W,3) of a node's outputs."""
    place = entry["images"][0]
    data = frontend.server.view(place["filename"], place["subfolder"], place["type"])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def node_value(frontend, node_type: str, expression: str):
    """A value of the node of that type, by a JavaScript expression of `node`."""
    return frontend.page.evaluate(
        f"type => {{ const node = app.graph.nodes.find(node => node.type === type); return {expression}; }}", node_type
    )


def await_true(page, holds, timeout_ms: int = 20000) -> None:
    for _ in range(timeout_ms // 50):
        if holds():
            return
        page.wait_for_timeout(50)
    raise TimeoutError(f"it did not come true in {timeout_ms / 1000:.0f} s")
