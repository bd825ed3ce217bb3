"""``run.py bench schedulers [--count N]``: grain in depth over ComfyUI's schedulers and log2_alpha.

Joint runs of the bundled small model under ComfyUI's Euler sampler, in one process. Grain is the mean second difference
of the depth codes along the rows inside patches, as a multiple of that with the sigmas of RGB-D Schedule at log2_alpha
0, exact depth on: 1 is as smooth.
"""

import argparse
from dataclasses import replace

from torch import Tensor

from ...model.depth.codec import unpatchify
from ...model.network.config import DEPTH_PATCH
from ..workflows.settings import GUIDANCE, SIDE
from .bundled import Bundled
from .in_core import InCore, Setting
from .tables import heading, show

STEPS = 20
TILTS = (5.0, 2.0, 0.0, -2.0)
PLAIN = Setting("euler", STEPS, cfg=GUIDANCE)
EXACT = replace(PLAIN, exact=True)


def grain(codes: Tensor) -> float:
    """Mean second difference along rows inside patches of codes (B,256,h,w)."""
    patches = unpatchify(codes.float()).unflatten(2, (-1, DEPTH_PATCH))
    return float(patches.diff(dim=-1).diff(dim=-1).abs().mean())


def main(arguments: list[str]) -> int:
    """Measure and print a Markdown table, line by line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py bench schedulers", description=__doc__)
    parser.add_argument("--count", type=int, default=2, help="scenes and captions (2: five minutes)")
    options = parser.parse_args(arguments)
    core = InCore(Bundled(options.count))
    smooth = grain(core.joint(EXACT).codes)
    settings = {"RGB-D Schedule, as released": PLAIN, "RGB-D Schedule, exact_depth": EXACT}
    settings |= {name: replace(PLAIN, scheduler=name) for name in core.schedulers()}
    print(f"ComfyUI {core.host}, {options.count} scenes of {SIDE} x {SIDE}, {STEPS} steps, guidance {GUIDANCE:g}")
    heading("scheduler", *(f"log2_alpha {tilt:g}" for tilt in TILTS))
    for name, setting in settings.items():
        grains = (grain(core.joint(replace(setting, log2_alpha=tilt)).codes) for tilt in TILTS)
        show(name, *(f"{found / smooth:.1f}" for found in grains))
    return 0
