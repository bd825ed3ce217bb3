"""Many samples of image -> depth as one, and what they disagree about."""

from comfy_api.latest import io
from torch import Tensor

from ..model.depth.ensemble import ensemble, uncertainty_picture
from ..model.depth.ensemble import members as choose_members
from ..model.resize import checked_colours
from .image_to_depth import GEOMETRY_OUTPUT, at_once_input, fov_input, geometry_of, run_inputs
from .native.image_to_depth import ImageToDepth
from .sockets import CATEGORY


class EnsembleDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingEnsembleDepth",
            display_name="Depth Ensemble (image to depth)",
            category=CATEGORY,
            description="Estimates the depth of an image several times, brings the results to one scale and takes "
            "their median: more exact, without the grid of 16-pixel patches, and with a map of what is uncertain.",
            inputs=[
                *run_inputs("One or a batch; each is estimated for itself."),
                io.Int.Input("members", default=8, min=1, max=256, tooltip="Estimates of each image. 1: a plain one."),
                io.Boolean.Input(
                    "shift",
                    default=True,
                    tooltip="Members see the image moved by up to 8 pixels, so that the borders of patches fall "
                    "elsewhere in each.",
                ),
                io.Boolean.Input("mirror", default=True, tooltip="Every second member sees the image mirrored."),
                at_once_input(),
                fov_input(),
            ],
            outputs=[
                GEOMETRY_OUTPUT,
                io.Mask.Output(
                    id="uncertainty",
                    display_name="uncertainty",
                    tooltip="How far half of the members are off, as a share of the depth: 0.1 is 10 %. 1 at most.",
                ),
                io.Image.Output(
                    id="picture", display_name="uncertainty picture", tooltip="White = most uncertain of its image."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, vae, noise, guider, sampler, sigmas, members: int, shift, mirror, at_once, fov_x_deg
    ) -> io.NodeOutput:
        image = checked_colours(image)
        chosen = choose_members(members, mirror, shift)
        estimates = len(image) * len(chosen)
        estimate = ImageToDepth(noise, guider, sampler, sigmas, vae, at_once=at_once, estimates=estimates)
        merged = ensemble(estimate, image, chosen)
        uncertainty = merged.uncertainty.nan_to_num(1.0).cpu()
        geometry = geometry_of(merged.depth, image, fov_x_deg)
        return io.NodeOutput(geometry, uncertainty.clamp(0, 1), uncertainty_picture(uncertainty))


NODES = [EnsembleDepth]
