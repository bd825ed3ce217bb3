"""What moves in the viewers by itself or under the hand: batches, the turntable, full screen, fast frames."""

import pytest
from modality_forcing.tasks.host.server import PACK_FOLDER
from modality_forcing.tasks.workflows.builder import Link, Node
from widgets import drag, set_slider, show

CLOUD = "ModalityForcingPreviewPointCloud"
# The same scene by both ways of drawing: the share of pixels that are the same, and of those that only one draws.
COMPARE = """async (web) => {
    const load = (name) => import(`${web}/${name}.js`);
    const [{ cloudModel }, { cloudRenderer }, { keptPoints }, { colourWords, splat }] = await Promise.all(
        ["parts/cloud_model", "parts/cloud_renderer", "parts/points", "parts/software_points"].map(load));
    const [width, height] = [256, 192];
    const depth = Float32Array.from({ length: width * height }, (_, at) => {
        const [x, y] = [(at % width) / width, at / width / height];
        return Math.hypot(x - 0.5, y - 0.5) < 0.2 ? 1 : 2 - y + 0.2 * Math.sin(9 * x);
    });
    const colors = Uint8Array.from({ length: 3 * width * height }, (_, at) => (at * 7) % 256);
    const k = [1, 0, 0.5, 0, 4 / 3, 0.5, 0, 0, 1];
    const model = cloudModel({ kind: "depth", scene: "", width, height, k, depth, colors });
    const kept = keptPoints(model, { edge: 0.04, far: 0 });
    const renderer = cloudRenderer(document.createElement("canvas"));
    renderer.load(model);
    renderer.paint(colors);
    const [c, s] = [Math.cos(0.3), Math.sin(0.3)];
    const view = [c, 0, s, -1.5 * s, 0, 1, 0, 0, -s, 0, c, 1.5 - 1.5 * c, 0, 0, 0, 1];
    const scene = { view, k: model.camera.k, near: 0.02, far: 10, edge: 0.04, farCut: 0, pointSize: 1.5 };
    const viewport = { width: 400, height: 300 };
    const { pixels } = renderer.picture(scene, viewport);
    const other = new Uint32Array(400 * 300);
    const [clip, size] = [renderer.clipOf(scene, viewport), renderer.focalOf(scene, viewport)];
    splat({ ...model, every: 1, kept, colours: colourWords(colors), clip, near: scene.near, size }, {
        words: other, nearness: new Float32Array(400 * 300), ...viewport,
    });
    const one = new Uint32Array(pixels.buffer);
    renderer.dispose();
    let [covered, same, alone] = [0, 0, 0];
    for (let at = 0; at < one.length; at++) {
        if (!one[at] && !other[at]) continue;
        covered += 1;
        same += one[at] === other[at];
        alone += !one[at] !== !other[at];
    }
    return { covered: covered / one.length, same: same / covered, alone: alone / covered };
}"""


@pytest.fixture
def shown(frontend, object_info, scene):
    def make(both=False):
        cloud = Node("cloud", CLOUD, {"geometry": Link("geometry", "geometry")}, column=1, width=560, height=640)
        nodes = scene.pair_nodes() if both else scene.nodes()
        return show(frontend, object_info, [*nodes, cloud], CLOUD)

    return make


def picture(widget) -> bytes:
    return widget.locator(".mf-view").screenshot()


def settled(widget) -> bytes:
    """The picture that does not change any more."""
    last = None
    for _ in range(40):
        now = picture(widget)
        if now == last:
            return now
        last = now
        widget.page.wait_for_timeout(400)
    raise TimeoutError("the view does not come to rest")


def middle(widget, x: float = 0.5) -> tuple[float, float]:
    box = widget.locator(".mf-view").bounding_box()
    return box["x"] + x * box["width"], box["y"] + box["height"] / 2


def test_fast_frames_show_what_resting_ones_do(frontend):
    """Points by the CPU's loop lie where WebGL draws them; rounding decides at the borders of the squares alone."""
    found = frontend.page.evaluate(COMPARE, f"/extensions/{PACK_FOLDER}")
    assert found["covered"] > 0.5 and found["same"] > 0.8 and found["alone"] < 0.02, found


def test_a_batch_scrubs_and_plays(frontend, shown):
    widget = shown(both=True)
    number = widget.locator(".mf-batch output")
    set_slider(widget.get_by_label("Image of the batch"), 1)
    number.filter(has_text="2 / 2").wait_for()
    play = widget.get_by_role("button", name="Play")
    play.click()
    for text in ("1 / 2", "2 / 2", "1 / 2"):
        number.filter(has_text=text).wait_for()
    play.click()
    frontend.page.wait_for_timeout(300)
    stopped = number.inner_text()
    frontend.page.wait_for_timeout(1500)
    assert number.inner_text() == stopped and play.get_attribute("aria-pressed") == "false"
    assert frontend.errors == []


def test_the_turntable_turns_until_it_is_touched(frontend, shown):
    widget = shown()
    widget.get_by_role("button", name="More").click()
    before = settled(widget)
    turntable = widget.get_by_role("button", name="Turntable")
    turntable.click()
    frontend.page.wait_for_timeout(800)
    assert picture(widget) != before
    drag(frontend.page, middle(widget), middle(widget, 0.6))
    assert turntable.get_attribute("aria-pressed") == "false"
    resting = settled(widget)
    frontend.page.wait_for_timeout(600)
    assert picture(widget) == resting
    assert frontend.errors == []


def test_full_screen_and_back(frontend, shown):
    widget = shown()
    small = widget.locator(".mf-view").bounding_box()
    widget.get_by_role("button", name="Full screen").click()
    page = frontend.page
    page.wait_for_function("document.fullscreenElement?.classList.contains('mf-widget')")
    page.wait_for_timeout(300)
    large = page.locator(":fullscreen .mf-view").bounding_box()
    assert large["width"] > 0.9 * page.viewport_size["width"] and large["height"] > 0.6 * page.viewport_size["height"]
    surface = page.locator(":fullscreen .mf-view canvas").first.bounding_box()
    assert abs(surface["width"] - large["width"]) < 3
    page.evaluate("document.exitFullscreen()")
    page.wait_for_function("!document.fullscreenElement")
    page.wait_for_timeout(300)
    again = widget.locator(".mf-view").bounding_box()
    assert abs(again["width"] - small["width"]) < 3 and abs(again["height"] - small["height"]) < 3
    assert frontend.errors == []
