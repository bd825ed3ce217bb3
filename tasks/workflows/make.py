"""``run.py workflows make``: write workflows/*.json from their descriptions, for the oldest ComfyUI we run on.

``run.py pictures thumbnails`` makes the thumbnails and the example inputs.
"""

import json
import tempfile
from pathlib import Path

from .. import WORKFLOWS
from ..host.server import Server
from .builder import build
from .catalogue import CATALOGUE


def text_of(object_info: dict, describe) -> str:
    """The content of a workflow's file."""
    workflow = describe()
    return json.dumps(build(object_info, workflow.name, workflow.items, workflow.groups), indent=1) + "\n"


def main(arguments: list[str]) -> int:
    """Write the files; returns the exit status."""
    WORKFLOWS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server:
        object_info = server.object_info()
    for describe in CATALOGUE:
        path = WORKFLOWS / f"{describe.__name__}.json"
        path.write_text(text_of(object_info, describe), encoding="utf-8")
        print(path)
    return 0
