"""Saved workflows to prompts and short descriptions to saved workflows, against a small hand-made /object_info."""

import json

import pytest
from modality_forcing.tasks.workflows.builder import In, Link, Node, Note, Subgraph, build
from modality_forcing.tasks.workflows.convert import to_api

INFO = {
    "Load": {
        "input": {"required": {"file": [["a.safetensors", "b.safetensors"]]}},
        "output": ["MODEL", "CLIP"],
        "output_name": ["MODEL", "CLIP"],
        "display_name": "Load It",
    },
    "Text": {
        "input": {"required": {"clip": ["CLIP"], "text": ["STRING", {"multiline": True}]}},
        "output": ["CONDITIONING"],
        "display_name": "Text",
    },
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "cfg": ["FLOAT", {"default": 4.0}],
                "name": ["COMBO", {"options": ["euler", "heun"], "default": "heun"}],
                "positive": ["CONDITIONING"],
            },
            "optional": {
                "mask": ["MASK"],
                "power": ["FLOAT", {"default": 1.0}],
                "sigma": ["FLOAT", {"forceInput": True}],
            },
        },
        "output": ["LATENT"],
        "display_name": "Sample",
    },
    "Patch": {
        "input": {"required": {"text": ["STRING", {}], "clip": ["CLIP"], "model": ["MODEL"]}},
        "output": ["MODEL", "CLIP"],
        "display_name": "Patch",
    },
    "Points": {"input": {"required": {"points": ["STRING", {}]}}, "output": [], "display_name": "Points"},
}


def described(**sample) -> dict:
    inputs = {"model": Link("load", "MODEL"), "positive": Link("text"), "seed": 7, "power": 0.5, **sample}
    items = [
        Node("load", "Load", {"file": "b.safetensors"}),
        Note("Read me."),
        Node("text", "Text", {"clip": Link("load", "CLIP"), "text": "a cat"}, column=1, title="What to see"),
        Node("sample", "Sample", inputs, column=2),
    ]
    return build(INFO, "t", items)


def prompt_inputs(graph: dict) -> dict:
    return {key: node["inputs"] for key, node in to_api(graph, INFO).items()}


def saved(*nodes: dict, links: list[list] = ()) -> dict:
    return {"nodes": list(nodes), "links": list(links), "version": 0.4}


def saved_node(number: int, kind: str, values: list, inputs=(), outputs=(), **rest) -> dict:
    slots = [{"name": name, "type": type_, "link": link} for name, type_, link in inputs]
    outputs = [{"name": type_, "type": type_} for type_ in outputs]
    return {"id": number, "type": kind, "widgets_values": values, "inputs": slots, "outputs": outputs, **rest}


LOAD = saved_node(1, "Load", ["a.safetensors"], outputs=["MODEL", "CLIP"])


def test_a_description_becomes_the_prompt_it_describes():
    api = to_api(described(), INFO)
    assert api == {
        "1": {"class_type": "Load", "inputs": {"file": "b.safetensors"}, "_meta": {"title": "Load It"}},
        "3": {"class_type": "Text", "inputs": {"text": "a cat", "clip": ["1", 1]}, "_meta": {"title": "What to see"}},
        "4": {
            "class_type": "Sample",
            "inputs": {"model": ["1", 0], "seed": 7, "cfg": 4.0, "name": "heun", "positive": ["3", 0], "power": 0.5},
            "_meta": {"title": "Sample"},
        },
    }


def test_the_saved_form_keeps_values_and_links_by_position():
    graph = described()
    sample = graph["nodes"][3]
    assert sample["widgets_values"] == [7, "fixed", 4.0, "heun", 0.5]
    names = ["model", "positive", "mask", "sigma", "seed", "cfg", "name", "power"]
    assert [slot["name"] for slot in sample["inputs"]] == names
    assert graph["links"] == [[1, 1, 1, 3, 0, "CLIP"], [2, 1, 0, 4, 0, "MODEL"], [3, 3, 0, 4, 1, "CONDITIONING"]]
    assert graph["nodes"][0]["outputs"][0] == {"name": "MODEL", "type": "MODEL", "slot_index": 0, "links": [2]}
    assert json.dumps(graph) == json.dumps(described())


def test_columns_do_not_overlap():
    load, note, text, sample = described()["nodes"]
    assert load["pos"][0] == note["pos"][0] and note["pos"][1] >= load["pos"][1] + load["size"][1]
    assert load["pos"][0] + load["size"][0] < text["pos"][0] < text["pos"][0] + text["size"][0] < sample["pos"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "no input colour"),
        ({"model": 3}, "needs a Link at model"),
        ({"mask": 3}, "needs a Link at mask"),
        ({"model": Link("load", "CLIP")}, "takes MODEL, but load gives CLIP"),
        ({"model": Link("load", "VAE")}, "has no output 'VAE'; it has MODEL, CLIP"),
        ({"model": Link("loader")}, "leads to loader, which is not among the nodes"),
    ],
)
def test_a_wrong_description_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        described(**change)


def test_a_widget_that_is_linked_takes_the_link():
    graph = saved(
        LOAD,
        saved_node(2, "Text", ["old"], [("clip", "CLIP", 1), ("text", "STRING", 2)], ["CONDITIONING"]),
        saved_node(3, "PrimitiveNode", ["from the primitive", "fixed"], outputs=["STRING"]),
        links=[[1, 1, 1, 2, 0, "CLIP"], [2, 3, 0, 2, 1, "STRING"]],
    )
    assert prompt_inputs(graph)["2"] == {"clip": ["1", 1], "text": "from the primitive"}


def test_reroutes_and_notes_vanish():
    graph = saved(
        LOAD,
        saved_node(2, "Reroute", [], [("", "*", 1)], ["CLIP"]),
        saved_node(3, "Reroute", [], [("", "*", 2)], ["CLIP"]),
        saved_node(4, "Text", ["x"], [("clip", "CLIP", 3)], ["CONDITIONING"]),
        saved_node(5, "Note", ["x"]),
        links=[[1, 1, 1, 2, 0, "CLIP"], [2, 2, 0, 3, 0, "CLIP"], [3, 3, 0, 4, 0, "CLIP"]],
    )
    assert prompt_inputs(graph) == {"1": {"file": "a.safetensors"}, "4": {"text": "x", "clip": ["1", 1]}}


@pytest.mark.parametrize(("mode", "clip"), [(4, {"clip": ["1", 1]}), (2, {})])
def test_a_bypassed_node_passes_its_input_of_that_type_on_and_a_muted_one_nothing(mode, clip):
    graph = saved(
        LOAD,
        saved_node(2, "Patch", ["x"], [("clip", "CLIP", 1), ("model", "MODEL", 2)], ["MODEL", "CLIP"], mode=mode),
        saved_node(3, "Text", ["x"], [("clip", "CLIP", 3)], ["CONDITIONING"]),
        links=[[1, 1, 1, 2, 0, "CLIP"], [2, 1, 0, 2, 1, "MODEL"], [3, 2, 1, 3, 0, "CLIP"]],
    )
    assert prompt_inputs(graph) == {"1": {"file": "a.safetensors"}, "3": {"text": "x", **clip}}


def test_values_behind_the_declared_ones_are_left_alone_and_lists_are_wrapped():
    graph = saved(saved_node(1, "Load", ["a.safetensors", "image"]), saved_node(2, "Points", [[1, 2]]))
    assert prompt_inputs(graph) == {"1": {"file": "a.safetensors"}, "2": {"points": {"__value__": [1, 2]}}}


def test_what_does_not_fit_this_comfyui_is_refused():
    with pytest.raises(ValueError, match="node 9 is a Gone"):
        to_api(saved(saved_node(9, "Gone", [])), INFO)


def test_an_input_that_is_newer_than_the_workflow_has_its_default():
    prompt = prompt_inputs(saved(saved_node(9, "Sample", [7, "fixed", 2.0])))
    assert prompt == {"9": {"seed": 7, "cfg": 2.0, "name": "heun", "power": 1.0}}


BOX = Subgraph(
    "Box",
    [
        Node("text", "Text", {"clip": In("clip"), "text": In("prompt", "a dog")}),
        Node(
            "sample", "Sample", {"model": In("model"), "positive": Link("text"), "seed": In("seed", 3), "cfg": 2.0}, 1
        ),
    ],
    {"text": Link("text"), "latent": Link("sample")},
)


def boxed(mode: int = 0, **inputs) -> dict:
    given = {"clip": Link("load", "CLIP"), "model": Link("load", "MODEL"), **inputs}
    items = [
        Node("load", "Load"),
        Node("box", BOX, given, 1, mode=mode),
        Node("again", "Sample", {"model": Link("load", "MODEL"), "positive": Link("box", "text")}, 2),
    ]
    return build(INFO, "boxed", items)


def test_a_subgraph_is_run_as_what_is_in_it():
    api = to_api(boxed(prompt="a cat"), INFO)
    assert {key: node["inputs"] for key, node in api.items()} == {
        "1": {"file": "a.safetensors"},
        "2:101": {"clip": ["1", 1], "text": "a cat"},
        "2:102": {"model": ["1", 0], "positive": ["2:101", 0], "seed": 3, "cfg": 2.0, "name": "heun", "power": 1.0},
        "3": {"model": ["1", 0], "positive": ["2:101", 0], "seed": 0, "cfg": 4.0, "name": "heun", "power": 1.0},
    }


def test_a_subgraph_shows_its_controls_and_keeps_their_values_inside():
    graph = boxed(prompt="a cat")
    box, (inside,) = graph["nodes"][1], graph["definitions"]["subgraphs"]
    assert box["type"] == inside["id"] and box["widgets_values"] == ["a cat", 3]
    assert [slot["name"] for slot in box["inputs"]] == ["clip", "model", "prompt", "seed"]
    assert [slot["name"] for slot in inside["inputs"]] == ["clip", "model", "prompt", "seed"]
    assert [node["widgets_values"] for node in inside["nodes"]] == [["a cat"], [3, "fixed", 2.0, "heun", 1.0]]
    ends = {(link["origin_id"], link["origin_slot"], link["target_id"]) for link in inside["links"]}
    assert ends == {
        (-10, 0, 101),
        (-10, 1, 102),
        (-10, 2, 101),
        (-10, 3, 102),
        (101, 0, 102),
        (101, 0, -20),
        (102, 0, -20),
    }
    linked = {number for end in (*inside["inputs"], *inside["outputs"]) for number in end["linkIds"]}
    assert linked <= {link["id"] for link in inside["links"]} and len(linked) == 6


def test_a_muted_subgraph_does_not_run_and_gives_nothing():
    graph = boxed(mode=2)
    assert list(to_api(graph, INFO)) == ["1", "3"] and "positive" not in to_api(graph, INFO)["3"]["inputs"]
    # Frontends ask each node inside; muting by hand mutes them too.
    assert {node["mode"] for node in graph["definitions"]["subgraphs"][0]["nodes"]} == {2}


def test_a_subgraph_is_used_once():
    items = [
        Node("load", "Load"),
        *(Node(name, BOX, {"clip": Link("load", 1), "model": Link("load")}) for name in "ab"),
    ]
    with pytest.raises(ValueError, match="used twice"):
        build(INFO, "twice", items)
