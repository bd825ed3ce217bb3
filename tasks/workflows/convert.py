"""Saved workflows (the frontend's form) as prompts (the form ``/prompt`` takes), as the frontend itself converts them.

The shipped workflows are kept in the saved form only; tests and demo run what this makes of them.
"""

from .definitions import inputs_of

MUTED, BYPASSED = 2, 4
NOT_RUN = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}  # they live in the frontend only


def to_api(graph: dict, object_info: dict) -> dict:
    """The prompt of a saved workflow. Raises ValueError for unknown nodes, subgraphs and values that do not fit."""
    if (graph.get("definitions") or {}).get("subgraphs"):
        raise ValueError("the workflow holds subgraphs, which are not converted here; unpack them in the frontend")
    links = _Links(graph)
    nodes = [node for node in graph["nodes"] if node["type"] not in NOT_RUN]
    running = [node for node in nodes if node.get("mode", 0) not in (MUTED, BYPASSED)]
    return {str(node["id"]): _prompt_node(node, _definition(node, object_info), links) for node in running}


def _definition(node: dict, object_info: dict) -> dict:
    if node["type"] not in object_info:
        raise ValueError(f"node {node['id']} is a {node['type']}, which this ComfyUI does not have")
    return object_info[node["type"]]


def _prompt_node(node: dict, definition: dict, links: "_Links") -> dict:
    inputs = widget_values(node, definition)
    for slot in node.get("inputs", []):
        if slot.get("link") is not None:
            source = links.source(slot["link"])
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
    names: list[str | None] = []
    for item in inputs:
        names += [item.name, *(None for _ in item.companions)]
    if len(saved) < len(names):
        raise ValueError(
            f"node {node['id']} ({node['type']}) holds {len(saved)} widget values, expected {len(names)}: "
            f"{', '.join(name or '(after run)' for name in names)}; save the workflow again"
        )
    # More than expected is right: upload buttons and previews keep values of their own behind the declared ones.
    pairs = zip(names, saved, strict=False)
    return {name: {"__value__": value} if isinstance(value, list) else value for name, value in pairs if name}


class _Links:
    """Where links really come from, past reroutes, primitives and bypassed nodes."""

    def __init__(self, graph: dict) -> None:
        self._nodes = {node["id"]: node for node in graph["nodes"]}
        self._links = {link[0]: link for link in graph["links"]}

    def source(self, link_id: int):
        """``[node id, output index]``, the value of a primitive, or None if what the link comes from does not run."""
        _, origin_id, slot, _, _, kind = self._links[link_id][:6]
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
        return None if mode == MUTED else [str(origin_id), slot]

    def _through(self, slot: dict):
        return None if slot.get("link") is None else self.source(slot["link"])
