"""Image -> depth of the frames of a video."""

from comfy_api.latest import io
from torch import Tensor

from ..model.depth.clip import clip_depth
from ..model.resize import checked_colours
from .image_to_depth import GEOMETRY_OUTPUT, at_once_input, fov_input, geometry_of, run_inputs
from .native.image_to_depth import ImageToDepth
from .native.notices import notice
from .sockets import CATEGORY


class VideoDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingVideoDepth",
            display_name="Video Depth (image to depth)",
            category=CATEGORY,
            description="Estimates the depth of the frames of one shot without flicker: the same noise for all frames, "
            "and one scale and shift for each, solved for the clip together.",
            inputs=[
                *run_inputs("The frames of one shot, in order."),
                io.Boolean.Input(
                    "same_scale",
                    default=True,
                    tooltip="Brings all frames to one scale. Off: each has a mean of about 1, as plain estimates.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, a frame starts from the depth of the frame before and takes this share of the "
                    "steps: for still cameras. It drifts where the camera moves, and frames wait for one another.",
                ),
                at_once_input(),
                fov_input(),
            ],
            outputs=[GEOMETRY_OUTPUT],
        )

    @classmethod
    def execute(
        cls, image: Tensor, vae, noise, guider, sampler, sigmas, same_scale, denoise, at_once, fov_x_deg
    ) -> io.NodeOutput:
        image = checked_colours(image)
        estimate = ImageToDepth(noise, guider, sampler, sigmas, vae, at_once=at_once, estimates=len(image))
        depth = clip_depth(estimate, image, denoise, same_scale, notice)
        return io.NodeOutput(geometry_of(depth, image, fov_x_deg))


NODES = [VideoDepth]
