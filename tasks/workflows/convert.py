"""Saved workflows (the frontend's form) as prompts (the form ``/prompt`` takes), as the frontend itself converts them.

The shipped workflows are kept in the saved form only; tests and demo run what this makes of them.
"""

from .builder import INSIDE, MUTED
from .definitions import inputs_of

BYPASSED = 4
NOT_RUN = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}  # they live in the frontend only


def to_api(graph: dict, object_info: dict) -> dict:
    """The prompt of a saved workflow. Raises ValueError for unknown nodes and values that do not fit.

    A node in a subgraph has the number of the subgraph's node before its own: "5:3".
    """
    subgraphs = {item["id"]: item for item in (graph.get("definitions") or {}).get("subgraphs", [])}
    return {key: _prompt_node(level, node, object_info, key) for key, level, node in _Level(graph, subgraphs).running()}


def _prompt_node(level: "_Level", node: dict, object_info: dict, key: str) -> dict:
    if node["type"] not in object_info:
        raise ValueError(f"node {key} is a {node['type']}, which this ComfyUI does not have")
    definition = object_info[node["type"]]
    inputs = widget_values(node, definition)
    for slot in node.get("inputs", []):
        if slot.get("link") is not None:
            source = level.source(slot["link"])
            if source is not None:
                inputs[slot["name"]] = source
    title = node.get("title") or definition.get("display_name") or node["type"]
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}


def widget_values(node: dict, definition: dict) -> dict:
    """The values of a saved node's widgets by input name. Saved lists are positional and hold companions of seeds."""
    saved = node.get("widgets_values", [])
    inputs = [item for item in inputs_of(definition) if item.widget]
    if isinstance(saved, dict):
        return {item.name: saved[item.name] for item in inputs if item.name in saved}
    pairs: list[tuple[str | None, object]] = []
    for item in inputs:
        pairs += [(item.name, item.default), *((None, value) for value in item.companions.values())]
    # More than declared is right: upload buttons and previews keep values of their own behind the declared ones. Fewer
    # too: an input that is newer than the workflow has its default.
    values = [*saved, *(default for _, default in pairs[len(saved) :])]
    named = {name: value for (name, _), value in zip(pairs, values, strict=False) if name}
    return {name: {"__value__": value} if isinstance(value, list) else value for name, value in named.items()}


class _Level:
    """A workflow, or the inside of a subgraph's node in one: its nodes, and where links really come from."""

    def __init__(
        self, graph: dict, subgraphs: dict[str, dict], above: "_Level | None" = None, frame: dict | None = None
    ):
        self._nodes = {node["id"]: node for node in graph["nodes"]}
        self._links = {link["id"]: link for link in map(_as_dict, graph["links"])}
        self._outputs = graph.get("outputs", [])
        self._above, self._frame = above, frame
        self._prefix = "" if frame is None else f"{above._prefix}{frame['id']}:"
        frames = (node for node in graph["nodes"] if node["type"] in subgraphs)
        self._inside = {node["id"]: _Level(subgraphs[node["type"]], subgraphs, self, node) for node in frames}

    def running(self):
        """The key, the level and the node of all that runs, here and in subgraphs."""
        for node in self._nodes.values():
            if node["type"] in NOT_RUN or node.get("mode", 0) in (MUTED, BYPASSED):
                continue
            if node["id"] in self._inside:
                yield from self._inside[node["id"]].running()
            else:
                yield f"{self._prefix}{node['id']}", self, node

    def source(self, link_id: int):
        """``[node key, output index]``, the value of a primitive, or None if what the link comes from does not run.

        Past reroutes, primitives, bypassed nodes and the frames of subgraphs.
        """
        link = self._links[link_id]
        origin_id, slot, kind = link["origin_id"], link["origin_slot"], link["type"]
        if origin_id == INSIDE:
            return self._above._through(self._frame["inputs"][slot])
        origin = self._nodes[origin_id]
        if origin["type"] == "PrimitiveNode":
            return origin["widgets_values"][0]
        if origin["type"] == "Reroute":
            return self._through(origin["inputs"][0])
        mode = origin.get("mode", 0)
        if mode == BYPASSED:
            kind = origin["outputs"][slot]["type"]
            inputs = origin.get("inputs", [])
            candidates = [*inputs[slot : slot + 1], *inputs]
            return self._through(next((item for item in candidates if item["type"] == kind), {}))
        if mode == MUTED:
            return None
        if origin_id in self._inside:
            inside = self._inside[origin_id]
            return inside.source(inside._outputs[slot]["linkIds"][0])
        return [f"{self._prefix}{origin_id}", slot]

    def _through(self, slot: dict):
        return None if slot.get("link") is None else self.source(slot["link"])


def _as_dict(link: list | dict) -> dict:
    """The links of a workflow are saved as lists, those of a subgraph by name."""
    if isinstance(link, dict):
        return link
    return dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=False))
