"""The schedule picture: dragging, presets, keys, typed and linked values, given modalities."""

import pytest
from modality_forcing.tasks.workflows.builder import Link, Node
from widgets import close_up, drag, node_value, open_graph

SCHEDULE = "ModalityForcingSchedule"
SIDE, LEFT, TOP, PICTURE = 160, 70, 8, (300, 222)  # of parts/schedule_picture.js


@pytest.fixture
def opened_schedule(frontend, object_info):
    def make(inputs=None, more=()):
        nodes = [
            Node("model", "UNETLoader", {"unet_name": "none.safetensors"}),
            Node("schedule", SCHEDULE, {"model": Link("model"), "steps": 12, **(inputs or {})}, column=1, height=460),
            *more,
        ]
        open_graph(frontend, object_info, nodes)
        return close_up(frontend, SCHEDULE)

    return make


def place(widget, t_rgb: float, t_depth: float) -> tuple[float, float]:
    """Where a pair of levels lies on the page."""
    box = widget.locator("svg").bounding_box()
    scale = min(box["width"] / PICTURE[0], box["height"] / PICTURE[1])
    x = box["x"] + (box["width"] - PICTURE[0] * scale) / 2 + scale * (LEFT + t_rgb * SIDE)
    y = box["y"] + (box["height"] - PICTURE[1] * scale) / 2 + scale * (TOP + (1 - t_depth) * SIDE)
    return x, y


def alpha(frontend):
    return node_value(frontend, SCHEDULE, "node.widgets.find(w => w.name === 'log2_alpha').value")


def test_dragging_the_curve_sets_log2_alpha(frontend, opened_schedule):
    widget = opened_schedule()
    assert alpha(frontend) == 5
    before = node_value(frontend, SCHEDULE, "[...node.pos, ...app.canvas.ds.offset]")
    drag(frontend.page, place(widget, 0.5, 0.5), place(widget, 0.25, 0.75))
    assert alpha(frontend) == pytest.approx(3.2)  # log2(0.75·0.75 / (0.25·0.25)) = 3.17, to the input's 0.1
    assert "log2_alpha 3.2" in widget.inner_text()
    drag(frontend.page, place(widget, 0.5, 0.5), place(widget, 0.5, 0.2))
    assert alpha(frontend) == pytest.approx(-2.0)  # log2(0.2 / 0.8)
    assert frontend.prompt()["2"]["inputs"]["log2_alpha"] == pytest.approx(-2.0)
    assert node_value(frontend, SCHEDULE, "[...node.pos, ...app.canvas.ds.offset]") == before
    frontend.screenshot("schedule")
    assert frontend.errors == []


def test_presets_keys_and_typed_values(frontend, opened_schedule):
    widget = opened_schedule()
    for name, value in (("Depth first", -5), ("Together", 0), ("RGB first", 5)):
        widget.get_by_text(name, exact=True).first.click()
        assert alpha(frontend) == value
    widget.locator("svg").focus()
    frontend.page.keyboard.press("ArrowDown")
    assert alpha(frontend) == pytest.approx(4.9)
    frontend.page.keyboard.press("Shift+ArrowDown")
    frontend.page.keyboard.press("PageDown")
    assert alpha(frontend) == pytest.approx(2.9)
    assert widget.locator("circle").count() == 13
    node_value(frontend, SCHEDULE, "void (node.widgets[0].value = 4, node.widgets[2].value = -3)")
    frontend.page.wait_for_timeout(500)
    assert widget.locator("circle").count() == 5
    assert "depth leads" in widget.inner_text()
    assert widget.locator("svg").get_attribute("aria-valuenow") == "-3"


def test_saved_values_are_those_of_the_inputs_alone(frontend, opened_schedule):
    opened_schedule({"log2_alpha": -1.5})
    (node,) = (node for node in frontend.saved()["nodes"] if node["type"] == SCHEDULE)
    assert node["widgets_values"] == [12, 1.1, -1.5, False]
    assert set(frontend.prompt()["2"]["inputs"]) == {"model", "steps", "shift", "log2_alpha", "exact_depth"}


def test_a_linked_value_is_followed_and_not_dragged(frontend, opened_schedule):
    widget = opened_schedule({"log2_alpha": Link("number")}, [Node("number", "PrimitiveFloat", {"value": -2.5})])
    assert "log2_alpha -2.5 (linked)" in widget.inner_text()
    drag(frontend.page, place(widget, 0.5, 0.5), place(widget, 0.25, 0.75))
    assert widget.locator("svg").get_attribute("aria-valuenow") == "-2.5"
    assert widget.locator(".mf-presets button:disabled").count() == 3
    frontend.page.evaluate("app.graph.nodes.find(n => n.type === 'PrimitiveFloat').widgets[0].value = 4")
    frontend.page.wait_for_timeout(500)
    assert widget.locator("svg").get_attribute("aria-valuenow") == "4"


def depth_given(strength: float) -> list[Node]:
    """A sampler that gets depth as a condition, behind the schedule node."""
    condition = {"positive": Link("text"), "negative": Link("text"), "depth": Link("latent"), "strength": strength}
    sampler = {"model": Link("schedule", "model"), "positive": Link("given", "positive")}
    sampler |= {"negative": Link("given", "negative"), "latent_image": Link("latent")}
    return [
        Node("clip", "CLIPLoader", {"clip_name": "none.safetensors"}, column=2),
        Node("text", "CLIPTextEncode", {"clip": Link("clip"), "text": "x"}, column=2),
        Node("latent", "ModalityForcingEmptyLatent", {}, column=2),
        Node("given", "ModalityForcingDepthCondition", condition, column=3),
        Node("s", "KSampler", sampler),
    ]


def test_a_modality_that_one_of_two_samplers_is_given_is_not_drawn(opened_schedule):
    joint = {"model": Link("schedule", "model"), "positive": Link("text"), "negative": Link("text")}
    widget = opened_schedule(
        None, [*depth_given(1.0), Node("j", "KSampler", {**joint, "latent_image": Link("latent")})]
    )
    assert "Depth is given" not in widget.text_content() and "depth follows" in widget.text_content()


@pytest.mark.parametrize("strength, text", [(1.0, "Depth is given"), (0.6, "given 0.6")])
def test_a_given_modality_is_drawn(frontend, opened_schedule, strength, text):
    widget = opened_schedule(None, depth_given(strength))
    assert text in widget.text_content()
    frontend.page.evaluate("app.graph.nodes.find(n => n.type === 'ModalityForcingDepthCondition').mode = 4")
    frontend.page.wait_for_timeout(500)
    assert text not in widget.text_content()


def test_the_picture_stops_looking_when_its_node_is_removed(frontend, opened_schedule):
    frontend.page.evaluate(
        """() => {
            window.running = new Set();
            const [start, stop] = [window.setInterval, window.clearInterval];
            window.setInterval = (call, ms, ...more) => {
                const id = start(call, ms, ...more);
                if (ms === 200) running.add(id);
                return id;
            };
            window.clearInterval = id => { running.delete(id); stop(id); };
            window.restoreTimers = () => { window.setInterval = start; window.clearInterval = stop; };
        }"""
    )
    opened_schedule()
    assert frontend.page.evaluate("running.size") >= 1
    frontend.page.evaluate("app.graph.remove(app.graph.nodes.find(n => n.type === 'ModalityForcingSchedule'))")
    frontend.page.wait_for_timeout(300)
    assert frontend.page.evaluate("restoreTimers(), running.size") == 0
    assert frontend.page.locator(".mf-widget").count() == 0
    assert frontend.errors == []
