"""Writing a workflow in the frontend's saved form from a short description, laid out in columns.

text_to_image = Subgraph("Text to Image", [
    Node("text", "CLIPTextEncode", {"clip": In("clip"), "text": In("prompt", "a cat")}),
    Node("sampler", "KSampler", {"positive": Link("text"), "seed": In("seed", 7), ...}, column=1),
], {"latent": Link("sampler")})
build(object_info, "Cats", [
    Note("Cats"),
    Node("clip", "CLIPLoader", {"clip_name": "x.safetensors"}),
    Node("made", text_to_image, {"clip": Link("clip"), "prompt": "two cats"}, column=1),
])
"""

import uuid
from dataclasses import dataclass, field

from .definitions import AFTER_RUN, Input, inputs_of

GAP_X, GAP_Y = 40, 60  # between columns; between nodes of one, title included
# What the taller of the two renderers needs.
NODE_TITLE, SLOT_HEIGHT, WIDGET_HEIGHT, TEXT_HEIGHT, PICTURE_HEIGHT = 30, 24, 36, 150, 300
OPTIONAL_SHAPE = 7  # the frontend's hollow dot
INSIDE, OUTSIDE = (
    -10,
    -20,
)  # what the frontend calls the ends of a subgraph: where its inputs come in, its outputs leave
MUTED = 2


@dataclass(frozen=True)
class Link:
    """An output of another node: by name, by index, or the only one."""

    node: str
    output: str | int = 0


@dataclass(frozen=True)
class In:
    """An input of the subgraph that a node lies in. value: what its widget shows at first, if it is one."""

    name: str
    value: object = None


@dataclass(frozen=True)
class Subgraph:
    """Nodes in a box of their own. outputs: links to what leaves it; its inputs are the Ins of its nodes."""

    name: str
    items: list["Node"]
    outputs: dict[str, Link]
    description: str = ""

    @property
    def id(self) -> str:
        """What a node of this subgraph has as its type."""
        return _id(f"subgraphs/{self.name}")


@dataclass(frozen=True)
class Node:
    """A node. inputs: widget values, Links and Ins by input name; widgets that are left out keep their default."""

    id: str
    type: str | Subgraph
    inputs: dict = field(default_factory=dict)
    column: int = 0
    title: str | None = None
    width: int = 310
    height: int | None = None
    mode: int = 0
    properties: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A Markdown note."""

    text: str
    column: int = 0
    title: str = "Note"
    width: int = 310
    height: int = 400


def build(object_info: dict, name: str, items: list[Node | Note], loose: bool = False) -> dict:
    """The saved form of a workflow; the same description gives the same bytes.

    Items of one column stand below one another in the order given. Raises ValueError for what the frontend would show
    broken: unknown types and inputs, links that do not fit, required inputs without a link. A subgraph may be used once
    in a workflow, since frontends keep the values of its widgets inside of it. loose: sockets may stay without a link.
    """
    used = [item for item in items if isinstance(item, Node) and isinstance(item.type, Subgraph)]
    if len({item.type.id for item in used}) < len(used):
        raise ValueError("a subgraph is used twice in one workflow")
    # Frontends number nodes anew whose numbers occur in two levels.
    subgraphs = [_build_subgraph(object_info, item, 100 * number) for number, item in enumerate(used, 1)]
    builder = _Builder(_with_subgraphs(object_info, used), items, loose=loose)
    nodes = builder.nodes()
    workflow = {
        "id": _id(name),
        "revision": 0,
        "last_node_id": max([len(nodes), *(item["state"]["lastNodeId"] for item in subgraphs)]),
        "last_link_id": len(builder.links),
        "nodes": nodes,
        "links": [list(link) for link in builder.links],
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }
    return {**workflow, "definitions": {"subgraphs": subgraphs}} if subgraphs else workflow


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"modality-forcing/{name}"))


def _with_subgraphs(object_info: dict, nodes: list[Node]) -> dict:
    return object_info | {node.type.id: _definition(object_info, node.type) for node in nodes}


def _definition(object_info: dict, subgraph: Subgraph) -> dict:
    """A subgraph as if it were a node class: an entry of /object_info. Sockets come before widgets."""
    found: dict[str, tuple[Input, list]] = {}
    for node in subgraph.items:
        declared = {item.name: item for item in inputs_of(_info(object_info, node.type))}
        for name, value in node.inputs.items():
            if isinstance(value, In) and value.name not in found:
                item = declared[name]
                kind = item.choices if item.type == "COMBO" else item.type
                spec = [kind, {**item.options, AFTER_RUN: False}]
                if item.widget:
                    spec[1]["default"] = item.default if value.value is None else value.value
                found[value.name] = item, spec
    builder = _Builder(object_info, subgraph.items)
    return {
        "input": {
            "required": {name: spec for name, (item, spec) in found.items() if item.required or item.widget},
            "optional": {name: spec for name, (item, spec) in found.items() if not (item.required or item.widget)},
        },
        "output": [builder.output(link)["type"] for link in subgraph.outputs.values()],
        "output_name": list(subgraph.outputs),
    }


def _info(object_info: dict, kind: str) -> dict:
    if kind not in object_info:
        raise ValueError(f"this ComfyUI has no node of the type {kind}")
    return object_info[kind]


def _build_subgraph(object_info: dict, node: Node, base: int) -> dict:
    """The definition of the subgraph that a node is of, its widgets at the node's values; numbers begin at base."""
    subgraph, definition = node.type, _definition(object_info, node.type)
    inputs = sorted(inputs_of(definition), key=lambda item: item.widget)  # as they are listed at the node
    values = {item.name: node.inputs.get(item.name, item.default) for item in inputs if item.widget}
    builder = _Builder(object_info, subgraph.items, [item.name for item in inputs], values, base=base)
    nodes = [{**entry, "mode": node.mode or entry["mode"]} for entry in builder.nodes()]  # as muting by hand does
    for slot, link in enumerate(subgraph.outputs.values()):
        builder.link(link, OUTSIDE, slot)
    right = max(entry["pos"][0] + entry["size"][0] for entry in nodes) + 100
    links = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return {
        "id": subgraph.id,
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": base + len(nodes),
            "lastLinkId": len(builder.links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": subgraph.name,
        "description": subgraph.description,
        "inputNode": {"id": INSIDE, "bounding": [-220, 0, 120, 40 + 20 * len(inputs)]},
        "outputNode": {"id": OUTSIDE, "bounding": [right, 0, 120, 40 + 20 * len(subgraph.outputs)]},
        "inputs": [_end(subgraph, INSIDE, slot, item.name, item.type, builder) for slot, item in enumerate(inputs)],
        "outputs": [
            _end(subgraph, OUTSIDE, slot, name, kind, builder)
            for slot, (name, kind) in enumerate(zip(subgraph.outputs, definition["output"], strict=True))
        ],
        "widgets": [],
        "nodes": nodes,
        "groups": [],
        "links": [dict(zip(links, link, strict=True)) for link in builder.links],
        "extra": {},
    }


def _end(subgraph: Subgraph, end: int, slot: int, name: str, kind: str, builder: "_Builder") -> dict:
    """One input or output of a subgraph, as its definition lists it."""
    here = 1 if end == INSIDE else 3  # of a link: the place of its origin's, or of its target's id
    linked = [link[0] for link in builder.links if link[here : here + 2] == (end, slot)]
    return {"id": _id(f"subgraphs/{subgraph.name}/{end}/{name}"), "name": name, "type": kind, "linkIds": linked}


class _Builder:
    """Nodes and links of one level. ins, values: the inputs of the subgraph it is, and what their widgets show."""

    def __init__(
        self,
        object_info: dict,
        items: list[Node | Note],
        ins: list[str] = (),
        values: dict | None = None,
        loose: bool = False,
        base: int = 0,
    ) -> None:
        self._info = object_info
        self._all = items
        self._items = {item.id: item for item in items if isinstance(item, Node)}
        self._base = base
        self._numbers = {item.id: base + number for number, item in enumerate(items, 1) if isinstance(item, Node)}
        self._ins, self._values, self._loose = list(ins), values or {}, loose
        self._outputs: dict[str, list[dict]] = {}
        self.links: list[tuple] = []
        if len(self._items) < sum(isinstance(item, Node) for item in items):
            raise ValueError("two nodes have the same id")

    def nodes(self) -> list[dict]:
        """All items in the saved form, in columns."""
        built = [self._note(item) if isinstance(item, Note) else self._node(item) for item in self._all]
        for order, node in enumerate(built):
            node["id"], node["order"] = self._base + order + 1, order
        _lay_out(self._all, built)
        return built

    def output(self, link: Link) -> dict:
        """The output that a link leads to."""
        if link.node not in self._items:
            raise ValueError(f"a link leads to {link.node}, which is not among the nodes")
        outputs = self._outputs_of(link.node)
        names = [output["name"] for output in outputs]
        slot = names.index(link.output) if link.output in names else link.output
        if not isinstance(slot, int) or slot >= len(outputs):
            raise ValueError(f"{link.node} has no output {link.output!r}; it has {', '.join(names)}")
        return outputs[slot]

    def link(self, link: Link, target: int, target_slot: int) -> int:
        """Make a link; returns its number."""
        output = self.output(link)
        number = len(self.links) + 1
        self.links.append((number, self._numbers[link.node], output["slot_index"], target, target_slot, output["type"]))
        output["links"].append(number)
        return number

    def _note(self, note: Note) -> dict:
        saved = {**_frame("MarkdownNote", note), "widgets_values": [note.text], "color": "#432", "bgcolor": "#653"}
        return {**saved, "title": note.title}

    def _node(self, node: Node) -> dict:
        kind = node.type.id if isinstance(node.type, Subgraph) else node.type
        declared = inputs_of(_info(self._info, kind))
        self._check_names(node, declared)
        slots = [item for item in declared if not item.widget] + [item for item in declared if item.widget]
        outputs = self._outputs_of(node.id)
        saved = _frame(kind, node, _height(declared, len(outputs)))
        names = {} if isinstance(node.type, Subgraph) else {"Node name for S&R": kind}
        saved |= {
            "inputs": [self._slot(node, item, index) for index, item in enumerate(slots)],
            "outputs": outputs,
            "properties": {**names, **node.properties},
            "widgets_values": self._widget_values(node, declared),
        }
        return saved if node.title is None else {**saved, "title": node.title}

    def _check_names(self, node: Node, declared: list[Input]) -> None:
        known = {name for item in declared for name in (item.name, *item.companions)}
        unknown = sorted(set(node.inputs) - known)
        if unknown:
            raise ValueError(f"{node.id} has no input {', '.join(unknown)}; it has {', '.join(known)}")
        for item in declared:
            linked = isinstance(node.inputs.get(item.name), Link | In)
            needed = item.name in node.inputs or (item.required and not self._loose)
            if not item.widget and not linked and needed:
                raise ValueError(f"{node.id} needs a Link at {item.name} ({item.type})")

    def _slot(self, node: Node, item: Input, index: int) -> dict:
        slot = {"name": item.name, "type": item.type, "link": None}
        if item.widget:
            slot["widget"] = {"name": item.name}
        if not item.required and not item.widget:
            slot["shape"] = OPTIONAL_SHAPE
        value = node.inputs.get(item.name)
        if isinstance(value, Link):
            kind = self.output(value)["type"]
            if "*" not in (kind, item.type) and not set(kind.split(",")) & set(item.type.split(",")):
                raise ValueError(f"{node.id}.{item.name} takes {item.type}, but {value.node} gives {kind} there")
            slot["link"] = self.link(value, self._numbers[node.id], index)
        elif isinstance(value, In) and self._ins:
            slot["link"] = len(self.links) + 1
            origin = INSIDE, self._ins.index(value.name)
            self.links.append((slot["link"], *origin, self._numbers[node.id], index, item.type))
        return slot

    def _outputs_of(self, node_id: str) -> list[dict]:
        # The same list objects go into the node, so links that are made later still appear there.
        if node_id not in self._outputs:
            kind = self._items[node_id].type
            info = _info(self._info, kind.id if isinstance(kind, Subgraph) else kind)
            kinds = ["COMBO" if isinstance(kind, list) else kind for kind in info["output"]]
            names = info.get("output_name") or kinds
            self._outputs[node_id] = [
                {"name": name, "type": kind, "slot_index": slot, "links": []}
                for slot, (name, kind) in enumerate(zip(names, kinds, strict=True))
            ]
        return self._outputs[node_id]

    def _widget_values(self, node: Node, declared: list[Input]) -> list:
        values = []
        for item in declared:
            if item.widget:
                value = node.inputs.get(item.name, item.default)
                if isinstance(value, In):
                    value = self._values.get(value.name, value.value)
                values.append(item.default if isinstance(value, Link) else value)
                values += [node.inputs.get(name, default) for name, default in item.companions.items()]
        return values


def _frame(kind: str, item: Node | Note, height: int = 0) -> dict:
    return {
        "id": 0,
        "type": kind,
        "pos": [0, 0],
        "size": [item.width, item.height or height],
        "flags": {},
        "order": 0,
        "mode": getattr(item, "mode", 0),
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [],
    }


def _height(declared: list[Input], outputs: int) -> int:
    sockets = sum(not item.widget for item in declared)
    height = NODE_TITLE + SLOT_HEIGHT * max(sockets, outputs)
    for item in declared:
        if item.widget:
            height += TEXT_HEIGHT if item.options.get("multiline") else WIDGET_HEIGHT * (1 + len(item.companions))
        if item.options.get("image_upload"):
            height += PICTURE_HEIGHT
    return height


def _lay_out(items: list[Node | Note], nodes: list[dict]) -> None:
    x = 0
    for column in sorted({item.column for item in items}):
        stacked = [node for item, node in zip(items, nodes, strict=True) if item.column == column]
        y = 0
        for node in stacked:
            node["pos"] = [x, y]
            y += node["size"][1] + GAP_Y
        x += max(node["size"][0] for node in stacked) + GAP_X
