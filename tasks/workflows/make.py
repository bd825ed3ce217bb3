"""``run.py workflows make``: write workflows/*.json and subgraphs/*.json from their descriptions.

Run it with the oldest ComfyUI that the pack runs on. ``run.py pictures thumbnails`` makes what lies beside them.
"""

import json
import tempfile
from pathlib import Path

from .. import ROOT, WORKFLOWS
from ..host.server import Server
from .builder import Node, build
from .catalogue import CATALOGUE
from .subgraphs import BLUEPRINTS

SUBGRAPHS = ROOT / "subgraphs"  # where ComfyUI looks for a pack's blueprints


def files(object_info: dict) -> dict[Path, str]:
    """The content of every file that is written."""
    workflows = {WORKFLOWS / f"{made.title}.json": build(object_info, made.title, made.items) for made in CATALOGUE}
    blueprints = {
        SUBGRAPHS / f"{subgraph.name}.json": build(object_info, subgraph.name, [Node("box", subgraph)], loose=True)
        for subgraph in BLUEPRINTS
    }
    return {path: json.dumps(graph, indent=1) + "\n" for path, graph in (workflows | blueprints).items()}


def main(_arguments: list[str]) -> int:
    """Write the files; returns the exit status."""
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server:
        object_info = server.object_info()
    for path, text in files(object_info).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0
