"""``python -m tasks.make_workflows``: write workflows/*.json from their descriptions, for the oldest ComfyUI we run on.

With ``pictures`` the thumbnails and the example inputs are made anew as well, from procedural scenes. Needs the
variables that run.py sets (see tasks/__init__.py).
"""

import json
import sys
import tempfile
from pathlib import Path

from . import WORKFLOWS
from .bench import import_as_package
from .server import Server
from .workflow_builder import build
from .workflow_catalogue import CATALOGUE


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
    if arguments == ["pictures"]:
        import_as_package()
        from modality_forcing.tasks.workflow_pictures import write_pictures

        for path in write_pictures():
            print(f"{path} {path.stat().st_size / 1024:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
