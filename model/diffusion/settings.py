"""Named ways to sample: the release's own, and a fast one, as measured by `run.py bench samplers`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """solver: a sampler's name in ComfyUI; steps: of it."""

    solver: str
    steps: int


AS_RELEASED, FAST = "as released", "fast"
# With guidance a step takes two calls of the network.
SAMPLINGS = {AS_RELEASED: Sampling("euler", 50), FAST: Sampling("dpmpp_2m", 10)}
# Where the whole picture is given and only depth is made; one call each.
DEPTH_SAMPLINGS = {AS_RELEASED: Sampling("euler", 50), FAST: Sampling("euler", 4)}
