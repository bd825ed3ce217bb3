"""What is checked of every run; and by the model itself in a run that nothing surrounds.

Our loader and RGB-D Schedule surround a run (run_checks.py). Core's own loader makes the patcher, and ComfyUI has no
way for a model to reach it: there the model looks at what it is handed, a condition at a time and a call at a time.
"""

import weakref
from typing import Any

from torch import Tensor

from ...model.diffusion.levels import MIN_DEPTH_LEVEL
from ...model.diffusion.schedule import on_base_levels, tilt
from .notices import notice

CLEAN_LEVEL = 0.02  # measured by `run.py bench schedulers`: steps below it roughen depth
NODES = {"rgb": "Image as Condition", "depth": "Depth as Condition"}
UNSEEN = (
    "This model comes from core's own loader, without 'RGB-D Schedule': other nodes that change its guidance, and the "
    "areas of 'Conditioning (Set Area)', are not made to fit it in this run. Load it with 'Load Modality Forcing "
    "Model', or put 'RGB-D Schedule' before the sampler."
)


def check_sides(modality: str, has: dict[str, bool]) -> None:
    """ValueError where only some of the groups of conditions that a run compares have a modality given."""
    if any(has.values()) and not all(has.values()):
        with_it = ", ".join(name for name, value in has.items() if value)
        without = ", ".join(name for name, value in has.items() if not value)
        raise ValueError(
            f"the {modality} condition is on {with_it} but not on {without}, so guidance would compare two different "
            f"tasks. Connect both outputs of '{NODES[modality]}', positive and negative, to the sampler."
        )


def check_tail(sigmas: Tensor, mu: float, log2_alpha: float, exact_depth: bool) -> None:
    """A notice where the last steps leave grain in the depth that is sampled."""
    if len(sigmas) < 2 or sigmas[-1] > 0:
        return
    level = float(tilt(sigmas[-2], log2_alpha))
    if on_base_levels(sigmas, mu):
        if level < MIN_DEPTH_LEVEL and not exact_depth:
            notice(
                f"The release's own last steps leave grain in depth here: it is at noise level {level:.4f} before the "
                f"last one, and they divide by {MIN_DEPTH_LEVEL} at least. Turn on exact_depth of 'RGB-D Schedule'."
            )
    elif level < CLEAN_LEVEL:
        notice(
            f"These sigmas step through depth's noise level {level:.4f}, so close to 0 that the network copies its "
            "grain. Depth ends smoother with the sigmas of 'RGB-D Schedule' or the schedulers simple, sgm_uniform, "
            "beta and linear_quadratic."
        )


class PlainRun:
    """What a model has seen of the run that it is in. `given`: modalities by the name of the group of conditions."""

    def __init__(self) -> None:
        self.given: dict[str, set[str]] = {}
        self.exact_depth: bool | None = None  # not known before the first call
        self._noise: Any = lambda: None

    def note(self, group: str, noise: Tensor, given: set[str]) -> None:
        """A condition of a run, which has one noise for all of them."""
        if self._noise() is not noise:
            self.given, self.exact_depth, self._noise = {}, None, weakref.ref(noise)
        self.given.setdefault(group, set()).update(given)

    def begin(self, options: dict[str, Any], mu: float, log2_alpha: float) -> bool:
        """Check the run at a call, by the options that the call brings; returns whether depth ends exactly."""
        if 1 in options.get("cond_or_uncond", ()):  # at guidance 1 the other side is not used
            for modality in NODES:
                check_sides(modality, {group: modality in given for group, given in self.given.items()})
        sigmas = options.get("sample_sigmas")
        if self.exact_depth is None and sigmas is not None:
            self.exact_depth = not on_base_levels(sigmas, mu)
            notice(UNSEEN)
            if not all("depth" in given for given in self.given.values()):
                check_tail(sigmas, mu, log2_alpha, self.exact_depth)
        return bool(self.exact_depth)
