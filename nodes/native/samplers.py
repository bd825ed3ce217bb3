"""Core's samplers by name."""

from typing import Any

import comfy.samplers


def sampler(name: str) -> Any:
    """A SAMPLER, as KSamplerSelect makes it."""
    return comfy.samplers.sampler_object(name)
