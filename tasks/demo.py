"""``run.py demo [serve]``: the three modes on a real ComfyUI with the bundled small model, and where results are."""

import json
import shutil
import sys
import time
from pathlib import Path

from . import INPUTS, SMALL_MODEL, WORK, WORKFLOWS, TaskError, end_on_terminate
from .host.server import GraphError, Server
from .pictures.contact_sheet import Row, write_sheet
from .serve import free_port_from, stay, user_server
from .workflows.catalogue import CATALOGUE
from .workflows.convert import to_api
from .workflows.results import add_pictures, save_picture

# In the order of the story: both at once, then one from the other.
DEMOS = CATALOGUE[:3]
RESULTS = WORK / "demo"


def run_demos(server: Server) -> list[Path]:
    """Run every demo workflow and copy what it saves into RESULTS; returns the copies, the contact sheet first."""
    print(f"The model is {SMALL_MODEL.name}: small, of procedural scenes, to show how the graphs work.", flush=True)
    info = server.object_info()
    shutil.rmtree(RESULTS, ignore_errors=True)
    rows, results = [], []
    for title in (workflow.title for workflow in DEMOS):
        print(f"{title} ...", end=" ", flush=True)
        started = time.monotonic()
        prompt = to_api(json.loads((WORKFLOWS / f"{title}.json").read_text(encoding="utf-8")), info)
        for what, link in add_pictures(prompt, info).items():
            save_picture(prompt, info, link, f"{title[3:]} {what}".replace(" ", "_").lower())
        given = upload_pictures(prompt, server)
        try:
            outputs = server.run(prompt)
        except GraphError as error:
            print("failed")
            raise TaskError(f"{title}: {error}\nThe log is {server.log}") from error
        kept = _keep(server, outputs, RESULTS / title)
        seconds = time.monotonic() - started
        print(f"{seconds:.1f} s")
        pictures = [*given, *(path for path in kept if path.suffix == ".png")]
        rows.append(Row(f"{title}   {seconds:.1f} s", pictures, given=len(given)))
        results += kept
    return [write_sheet(RESULTS / "contact_sheet.png", rows), *results]


def upload_pictures(prompt: dict, server: Server) -> list[Path]:
    """Put the pack's own example pictures that the prompt loads onto the server; returns their paths."""
    pictures = []
    for node in prompt.values():
        if node["class_type"] == "LoadImage" and (INPUTS / node["inputs"]["image"]).is_file():
            pictures.append(INPUTS / node["inputs"]["image"])
            node["inputs"]["image"] = server.upload_image(pictures[-1])
    return pictures


def _keep(server: Server, outputs: dict, folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    kept = []
    for key in sorted(outputs, key=lambda key: [int(part) for part in key.split(":")]):
        for file in [*outputs[key].get("images", []), *outputs[key].get("3d", [])]:
            path = folder / file["filename"]
            path.write_bytes(server.view(file["filename"], file["subfolder"], file["type"]))
            kept.append(path)
    return kept


def main(arguments: list[str]) -> int:
    """Run the demos; with ``serve`` keep the server. Returns the exit status."""
    end_on_terminate()
    serve = arguments == ["serve"]
    started = time.monotonic()
    try:
        with user_server(free_port_from(8188) if serve else 0) as server:
            server.check_pack()
            results = run_demos(server)
            print(f"\nDone in {time.monotonic() - started:.0f} s. Results:", *results, sep="\n  ", flush=True)
            if serve:
                stay(server)
    except TaskError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
