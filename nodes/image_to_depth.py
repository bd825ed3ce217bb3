"""What the nodes that run image -> depth many times have in common: inputs as SamplerCustomAdvanced's, and results."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..model.geometry.camera import intrinsics_from_fov_x
from ..model.geometry.packets import make_geometry
from .sockets import FOV_TOOLTIP, GEOMETRY

GEOMETRY_OUTPUT = GEOMETRY.Output(id="geometry", display_name="geometry", tooltip="Relative depth, with the pictures.")


def run_inputs(image_tooltip: str) -> list[io.Input]:
    """The names are those of `ImageToDepth`, and `image`."""
    return [
        io.Image.Input("image", tooltip=f"{image_tooltip} Sides are multiples of 16: 'Fit Image to Model'."),
        io.Vae.Input("vae"),
        io.Noise.Input("noise"),
        io.Guider.Input(
            "guider", tooltip="'BasicGuider' with an empty prompt is fine; the picture is given by this node."
        ),
        io.Sampler.Input("sampler"),
        io.Sigmas.Input("sigmas", tooltip="From 'RGB-D Schedule'."),
    ]


def at_once_input() -> io.Input:
    return io.Int.Input(
        "at_once", default=0, min=0, max=256, tooltip="Estimates in one run. 0: as many as memory holds, up to 16."
    )


def fov_input() -> io.Input:
    return io.Float.Input("fov_x_deg", default=55.0, min=1.0, max=170.0, step=0.1, tooltip=FOV_TOOLTIP)


def geometry_of(depth: Tensor, image: Tensor, fov_x_deg: float) -> dict[str, Any]:
    """MOGE_GEOMETRY of depth (B,H,W), NaN where unknown, and the pictures (B,H,W,3) that it was made from."""
    height, width = depth.shape[1:]
    depth = depth.cpu()
    return make_geometry(depth, depth.isfinite(), intrinsics_from_fov_x(fov_x_deg, width, height), image)
