"""Writing a workflow in the frontend's saved form from a short description, laid out in columns.

build(object_info, "Joint", [
    Node("model", "UNETLoader", {"unet_name": "x.safetensors"}),
    Node("sampler", "KSampler", {"model": Link("model"), "steps": 20, ...}, column=1),
    Note("Depth is relative."),
], groups=[Group("Load", ["model"])])
"""

import uuid
from dataclasses import dataclass, field

from .definitions import Input, inputs_of

GAP_X, GAP_Y, GAP_Y_BETWEEN_GROUPS = 70, 60, 120
GROUP_PADDING, GROUP_TITLE, NODE_TITLE = 15, 40, 30
# What the taller of the two renderers needs.
SLOT_HEIGHT, WIDGET_HEIGHT, TEXT_HEIGHT, PICTURE_HEIGHT = 24, 36, 150, 300
OPTIONAL_SHAPE = 7  # the frontend's hollow dot


@dataclass(frozen=True)
class Link:
    """An output of another node: by name, by index, or the only one."""

    node: str
    output: str | int = 0


@dataclass(frozen=True)
class Node:
    """A node. inputs: widget values and Links by input name; widgets that are left out keep their default."""

    id: str
    type: str
    inputs: dict = field(default_factory=dict)
    column: int = 0
    title: str | None = None
    width: int = 340
    height: int | None = None
    mode: int = 0
    properties: dict = field(default_factory=dict)
    color: str | None = None


@dataclass(frozen=True)
class Note:
    """A Markdown note."""

    text: str
    column: int = 0
    title: str = "Note"
    width: int = 340
    height: int = 200


@dataclass(frozen=True)
class Group:
    """A titled frame around nodes, given by id."""

    title: str
    nodes: list[str]
    color: str = "#3f789e"


@dataclass(frozen=True)
class Workflow:
    """What `build` takes beside the definitions of nodes."""

    name: str
    items: list[Node | Note]
    groups: list[Group]


def build(object_info: dict, name: str, items: list[Node | Note], groups: list[Group] = ()) -> dict:
    """The saved form of a workflow; the same description gives the same bytes.

    Items of one column stand below one another in the order given. Raises ValueError for what the frontend would show
    broken: unknown types and inputs, links that do not fit, required inputs without a link, frames over foreign nodes.
    """
    builder = _Builder(object_info, items)
    nodes = [builder.note(item) if isinstance(item, Note) else builder.node(item) for item in items]
    _lay_out(items, nodes, groups)
    by_id = {item.id: node for item, node in zip(items, nodes, strict=True) if isinstance(item, Node)}
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"modality-forcing/{name}")),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(builder.links),
        "nodes": nodes,
        "links": builder.links,
        "groups": [_group(number, group, by_id, nodes) for number, group in enumerate(groups, 1)],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


class _Builder:
    def __init__(self, object_info: dict, items: list[Node | Note]) -> None:
        self._info = object_info
        self._items = {item.id: item for item in items if isinstance(item, Node)}
        self._numbers = {item.id: number for number, item in enumerate(items, 1) if isinstance(item, Node)}
        self._count = 0
        self.links: list[list] = []
        self._outputs: dict[str, list[dict]] = {}
        unknown = sorted({item.type for item in self._items.values()} - set(object_info))
        if unknown:
            raise ValueError(f"this ComfyUI has no node of the type {', '.join(unknown)}")
        if len(self._numbers) != sum(isinstance(item, Node) for item in items):
            raise ValueError("two nodes have the same id")

    def note(self, note: Note) -> dict:
        self._count += 1
        return {
            "id": self._count,
            "type": "MarkdownNote",
            "pos": [0, 0],
            "size": [note.width, note.height],
            "flags": {},
            "order": self._count - 1,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": note.title,
            "properties": {},
            "widgets_values": [note.text],
            "color": "#432",
            "bgcolor": "#653",
        }

    def node(self, node: Node) -> dict:
        self._count += 1
        declared = inputs_of(self._info[node.type])
        self._check_names(node, declared)
        slots = [item for item in declared if not item.widget] + [item for item in declared if item.widget]
        outputs = self._outputs_of(node.id)
        values = _widget_values(node, declared)
        result = {
            "id": self._count,
            "type": node.type,
            "pos": [0, 0],
            "size": [node.width, node.height or _height(declared, len(outputs))],
            "flags": {},
            "order": self._count - 1,
            "mode": node.mode,
            "inputs": [self._slot(node, item, index) for index, item in enumerate(slots)],
            "outputs": outputs,
            "properties": {"Node name for S&R": node.type, **node.properties},
            "widgets_values": values,
        }
        if node.title is not None:
            result["title"] = node.title
        if node.color is not None:
            result["color"] = node.color
        return result

    def _check_names(self, node: Node, declared: list[Input]) -> None:
        known = {name for item in declared for name in (item.name, *item.companions)}
        unknown = sorted(set(node.inputs) - known)
        if unknown:
            raise ValueError(f"{node.id} ({node.type}) has no input {', '.join(unknown)}; it has {', '.join(known)}")
        for item in declared:
            linked = isinstance(node.inputs.get(item.name), Link)
            if not item.widget and not linked and (item.required or item.name in node.inputs):
                raise ValueError(f"{node.id} ({node.type}) needs a Link at {item.name} ({item.type})")

    def _slot(self, node: Node, item: Input, index: int) -> dict:
        slot = {"name": item.name, "type": item.type, "link": None}
        if item.widget:
            slot["widget"] = {"name": item.name}
        if not item.required:
            slot["shape"] = OPTIONAL_SHAPE
        value = node.inputs.get(item.name)
        if isinstance(value, Link):
            slot["link"] = self._link(node, item, index, value)
        return slot

    def _link(self, node: Node, item: Input, index: int, link: Link) -> int:
        if link.node not in self._items:
            raise ValueError(f"{node.id}.{item.name} is linked to {link.node}, which is not among the nodes")
        outputs = self._outputs_of(link.node)
        slot = _output_index(link, outputs)
        kind = outputs[slot]["type"]
        if "*" not in (kind, item.type) and not set(kind.split(",")) & set(item.type.split(",")):
            raise ValueError(f"{node.id}.{item.name} takes {item.type}, but {link.node} gives {kind} there")
        number = len(self.links) + 1
        self.links.append([number, self._numbers[link.node], slot, self._numbers[node.id], index, kind])
        outputs[slot]["links"].append(number)
        return number

    def _outputs_of(self, node_id: str) -> list[dict]:
        # The same list objects go into the node, so links that are made later still appear there.
        if node_id not in self._outputs:
            info = self._info[self._items[node_id].type]
            kinds = ["COMBO" if isinstance(kind, list) else kind for kind in info["output"]]
            names = info.get("output_name") or kinds
            self._outputs[node_id] = [
                {"name": name, "type": kind, "slot_index": slot, "links": []}
                for slot, (name, kind) in enumerate(zip(names, kinds, strict=True))
            ]
        return self._outputs[node_id]


def _output_index(link: Link, outputs: list[dict]) -> int:
    names = [output["name"] for output in outputs]
    slot = names.index(link.output) if link.output in names else link.output
    if not isinstance(slot, int) or slot >= len(outputs):
        raise ValueError(f"{link.node} has no output {link.output!r}; it has {', '.join(names)}")
    return slot


def _widget_values(node: Node, declared: list[Input]) -> list:
    values = []
    for item in declared:
        if item.widget:
            value = node.inputs.get(item.name, item.default)
            values.append(item.default if isinstance(value, Link) else value)
            values += [node.inputs.get(name, default) for name, default in item.companions.items()]
    return values


def _height(declared: list[Input], outputs: int) -> int:
    sockets = sum(not item.widget for item in declared)
    height = NODE_TITLE + SLOT_HEIGHT * max(sockets, outputs)
    for item in declared:
        if item.widget:
            height += TEXT_HEIGHT if item.options.get("multiline") else WIDGET_HEIGHT * (1 + len(item.companions))
        if item.options.get("image_upload"):
            height += PICTURE_HEIGHT
    return height


def _lay_out(items: list[Node | Note], nodes: list[dict], groups: list[Group]) -> None:
    group_of = {node_id: group.title for group in groups for node_id in group.nodes}
    x = 0
    for column in sorted({item.column for item in items}):
        stacked = [pair for pair in zip(items, nodes, strict=True) if pair[0].column == column]
        y, above = 0, None
        for item, node in stacked:
            group = group_of.get(getattr(item, "id", None))
            y += 0 if above is None else (GAP_Y if group == above[0] else GAP_Y_BETWEEN_GROUPS)
            node["pos"] = [x, y]
            y, above = y + node["size"][1], (group,)
        x += max(node["size"][0] for _, node in stacked) + GAP_X


def _group(number: int, group: Group, by_id: dict[str, dict], nodes: list[dict]) -> dict:
    members = [by_id[node_id] for node_id in group.nodes]
    left = min(node["pos"][0] for node in members) - GROUP_PADDING
    top = min(node["pos"][1] for node in members) - GROUP_TITLE - NODE_TITLE
    right = max(node["pos"][0] + node["size"][0] for node in members) + GROUP_PADDING
    bottom = max(node["pos"][1] + node["size"][1] for node in members) + GROUP_PADDING
    for node in nodes:
        x, y = node["pos"]
        apart = x >= right or y >= bottom or x + node["size"][0] <= left or y + node["size"][1] <= top
        if not apart and node not in members:
            raise ValueError(f"the frame {group.title!r} would cover node {node['id']} ({node['type']}), not its own")
    bounding = [left, top, right - left, bottom - top]
    return {"id": number, "title": group.title, "bounding": bounding, "color": group.color, "flags": {}}
