"""``run.py bench controls [NAME...]``: what each control does to the bundled small model, in one table.

Held-out procedural scenes, whose true depth is known, and the real depth of ../shared where it is there. Each part of
the table is a module of ``of_controls`` with ``rows(small)``.
"""

import importlib
import time

import torch

from .. import TaskError
from .of_controls.small import Small
from .tables import heading, show

PARTS = ("upscale", "ensemble", "sparse", "complete", "tiles", "video", "scene", "strength", "guidance")


def main(arguments: list[str]) -> int:
    """Print the table, all of it or the parts named."""
    unknown = set(arguments) - set(PARTS)
    if unknown:
        raise TaskError(f"there is no {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    small = Small.load()
    print(f"The bundled model at {small.side} x {small.side} pixels, torch on {torch.get_num_threads()} threads.")
    heading("control", "setting", "figures")
    start = time.monotonic()
    for part in arguments or PARTS:
        for row in importlib.import_module(f".of_controls.{part}", __package__).rows(small):
            show(row.control, row.setting, row.figures)
    minutes = (time.monotonic() - start) / 60, time.process_time() / 60
    print(f"\n{minutes[0]:.1f} minutes, {minutes[1]:.1f} of a processor's")
    return 0
