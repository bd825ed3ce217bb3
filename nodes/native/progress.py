"""Progress and interruption of a long node by ComfyUI's own means."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils


def steps() -> Callable[[int, int], None]:
    """Takes (index, count) before each step: moves the node's bar, and raises if the user has stopped the run."""
    bars: list[comfy.utils.ProgressBar] = []

    def show(index: int, count: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not bars:
            bars.append(comfy.utils.ProgressBar(count))
        bars[0].update_absolute(index, count)

    return show


def device() -> Any:
    """Where ComfyUI computes."""
    return comfy.model_management.get_torch_device()
