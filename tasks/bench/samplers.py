"""``run.py bench samplers [--count N] [--tables …]``: error against calls of the network.

The bundled small model under ComfyUI's own samplers, in one process; held-out scenes and their captions, all from the
same noise. A guided step takes two calls, with and without the prompt. Each table's errors are against a run of 400
calls (Heun):

joint     solvers x calls x log2_alpha, the whole run guided. Cells: change of the picture (RMS, thousandths) / change
          of its depth (AbsRel %) / disagreement (AbsRel % of that depth against image -> depth on that picture)
tried     the same for other ways to spend 20 calls: solvers, spacings of the steps, guidance held over two steps
interval  the same where guidance acts in a part of the run only: its reference is guided throughout
depth     image -> depth. Cells: change (AbsRel %) / error against the truth (AbsRel %)
cache     ComfyUI's EasyCache on the released setting, beside fewer plain steps and the setting called "fast"

The setting that the workflows call "fast" is read off these.
"""

import argparse
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from torch import Tensor

from ...model.diffusion.schedule import DEFAULT_MU
from ...model.diffusion.settings import AS_RELEASED, FAST, SAMPLINGS
from ..workflows.settings import GUIDANCE, SIDE
from .bundled import Bundled, abs_rel, rms
from .in_core import InCore, Result, Setting
from .tables import heading, show

RELEASED, QUICK = SAMPLINGS[AS_RELEASED], SAMPLINGS[FAST]
TILTS = (5.0, 0.0, -2.0)
EVALUATIONS = {"euler": 1, "heun": 2, "dpmpp_2m": 1, "res_multistep": 1, "uni_pc": 1, "ipndm": 1}  # in a step
CALLS, DEPTH_CALLS = (4, 8, 20, 40), (1, 2, 4, 10, 50)
SPANS = ((0.0, 1.0), (0.0, 0.6), (0.2, 1.0), (0.2, 0.6))
OTHERS, SPACINGS = ("deis", "gradient_estimation", "lms", "ipndm_v"), ("beta", "kl_optimal")
THRESHOLDS, FEWER = (0.05, 0.1, 0.2, 0.4), (40, 30, 20, 10)  # of EasyCache, and plain steps beside it
ESTIMATE = Setting("euler", 4)  # image -> depth on a made picture
HEADING = "picture / depth % / disagreement %"


class Joint:
    """Joint runs, compared with the reference of a tilt, which is made once."""

    def __init__(self, core: InCore, log2_alpha: float) -> None:
        self.core, self.log2_alpha = core, log2_alpha
        reference = _reference(core, log2_alpha)
        self.picture, self.depth = core.bundled.picture(reference.rgb), reference.depth

    def cell(self, setting: Setting) -> tuple[str, float]:
        """Its figures, and the calls that it took."""
        result = self.core.joint(setting)
        change = 1000 * rms(self.core.bundled.picture(result.rgb), self.picture)
        depth, apart = abs_rel(result.depth, self.depth), disagreement(self.core, result)
        return f"{change:.0f} / {depth:.1f} / {apart:.1f}", result.calls


@cache
def _reference(core: InCore, log2_alpha: float) -> Result:
    return core.joint(Setting("heun", 100, log2_alpha, GUIDANCE, exact=True))


def disagreement(core: InCore, result: Result) -> float:
    """Percent: the depth made beside what the model sees in the picture made, as a picture and no longer a latent."""
    seen: Tensor = core.bundled.codec_latent(core.bundled.picture(result.rgb))
    return abs_rel(result.depth, core.image_to_depth(ESTIMATE, seen).depth)


def joint_table(core: InCore) -> None:
    heading("log2_alpha", "solver", *(f"{calls} calls: {HEADING}" for calls in CALLS), "100 calls")
    for log2_alpha in TILTS:
        joint = Joint(core, log2_alpha)
        for solver, evaluations in EVALUATIONS.items():
            settings = [Setting(solver, calls // evaluations // 2, log2_alpha, GUIDANCE) for calls in CALLS]
            if solver == RELEASED.solver:
                settings.append(Setting(solver, RELEASED.steps, log2_alpha, GUIDANCE))
            show(f"{log2_alpha:g}", solver, *_filled((joint.cell(s)[0] for s in settings), len(CALLS) + 1))


def tried_table(core: InCore) -> None:
    heading("20 calls", *(f"log2_alpha {log2_alpha:g}: {HEADING}" for log2_alpha in TILTS))
    joints = [Joint(core, log2_alpha) for log2_alpha in TILTS]
    ways = {f"{FAST}: {QUICK.solver}, {QUICK.steps} steps": {}}
    ways |= {solver: {"solver": solver} for solver in OTHERS}
    ways |= {f"ComfyUI's {name}": {"scheduler": name} for name in SPACINGS}
    ways["steps spread by 1.2"] = {"spread": 1.2}
    ways["guidance held: 13 steps, 7 calls without the prompt"] = {"steps": 13, "every": 2}
    ways["the same, spread by 1.2"] = {"steps": 13, "every": 2, "spread": 1.2}
    fast = Setting(QUICK.solver, QUICK.steps, cfg=GUIDANCE)
    for name, way in ways.items():
        show(name, *(joint.cell(replace(fast, log2_alpha=joint.log2_alpha, **way))[0] for joint in joints))
    # Depth's clock lags by alpha: by the mean of both clocks' log signal to noise.
    shifts = {log2_alpha: DEFAULT_MU - log2_alpha * math.log(2) / 2 for log2_alpha in TILTS}
    for name, spread in (("steps between both clocks", 1.0), ("the same, spread by 1.2", 1.2)):
        settings = [replace(fast, log2_alpha=a, shift=mu, spread=spread) for a, mu in shifts.items()]
        show(name, *(joint.cell(setting)[0] for joint, setting in zip(joints, settings, strict=True)))


def interval_table(core: InCore) -> None:
    heading("solver", "steps", "guided from, to", "calls", HEADING)
    joint = Joint(core, 0.0)
    for solver, steps in ((RELEASED.solver, RELEASED.steps), (QUICK.solver, QUICK.steps)):
        for span in SPANS:
            cell, calls = joint.cell(Setting(solver, steps, 0.0, GUIDANCE, span))
            show(solver, steps, "{:g}, {:g}".format(*span), f"{calls:.0f}", cell)


def depth_table(core: InCore) -> None:
    bundled = core.bundled
    reference = core.image_to_depth(Setting("heun", 200, exact=True), bundled.given).depth
    heading("solver", *(f"{calls} calls: change % / error %" for calls in DEPTH_CALLS))
    for solver, evaluations in EVALUATIONS.items():
        cells = []
        for calls in DEPTH_CALLS:
            if calls >= evaluations:
                depth = core.image_to_depth(Setting(solver, calls // evaluations), bundled.given).depth
                cells.append(f"{abs_rel(depth, reference):.1f} / {abs_rel(depth, bundled.truth):.1f}")
            else:
                cells.append("")
        show(solver, *cells)


def cache_table(core: InCore) -> None:
    heading("what", "setting", "calls", f"against 400 calls: {HEADING}")
    joint = Joint(core, 0.0)
    whole = {"cfg": GUIDANCE}
    settings = [(AS_RELEASED, f"{RELEASED.steps} steps", Setting(RELEASED.solver, RELEASED.steps, **whole))]
    settings += [("EasyCache", t, Setting(RELEASED.solver, RELEASED.steps, cache=t, **whole)) for t in THRESHOLDS]
    settings += [("fewer steps", steps, Setting(RELEASED.solver, steps, **whole)) for steps in FEWER]
    settings.append((FAST, f"{QUICK.steps} steps of {QUICK.solver}", Setting(QUICK.solver, QUICK.steps, **whole)))
    for what, name, setting in settings:
        cell, calls = joint.cell(setting)
        show(what, name, f"{calls:.0f}", cell)


def _filled(cells: Iterable[str], count: int) -> list[str]:
    cells = list(cells)
    return cells + [""] * (count - len(cells))


TABLES = {
    "joint": joint_table,
    "tried": tried_table,
    "interval": interval_table,
    "depth": depth_table,
    "cache": cache_table,
}


def main(arguments: list[str]) -> int:
    """Measure and print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py bench samplers", description=__doc__)
    parser.add_argument("--count", type=int, default=2, help="scenes and captions (2: ten minutes)")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="which (all)")
    options = parser.parse_args(arguments)
    core = InCore(Bundled(options.count))
    print(f"ComfyUI {core.host}, {options.count} scenes of {SIDE} x {SIDE}")
    for name in options.tables:
        TABLES[name](core)
    return 0
