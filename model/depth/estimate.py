"""Image -> depth as a function that a control calls as often as it needs: ensembles, tiles, clips.

The controls know nothing of networks and samplers: ComfyUI's nodes and the plain sampler both fit.
"""

from typing import Protocol

from torch import Tensor


class Estimator(Protocol):
    """Letters: N pictures, H rows, W columns, both multiples of 16."""

    def noise(self, count: int, height: int, width: int) -> Tensor:
        """(count,C,height/16,width/16) starting noise, the same at each call; cut, repeat or index it, but no more."""

    def __call__(self, pictures: Tensor, noise: Tensor, start: Tensor | None = None, denoise: float = 1.0) -> Tensor:
        """Codes (N,256,H/16,W/16) of pictures (N,H,W,3) in 0..1.

        start: codes without holes to begin from, noised to the level at which the last share `denoise` of the steps
        begins; None with 1.0: from noise alone.
        """
