"""Image and depth as conditions, in the manner of ControlNetApplyAdvanced."""

from typing import Any

import node_helpers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.depth.codec import patchify
from ..model.depth.softness import softened
from ..model.diffusion.given import Given
from ..model.resize import checked_masks
from .latents import PATCH, check_known, modality_latent
from .native.latent_format import empty_joint
from .native.model import given_key
from .sockets import CATEGORY


def _schema(modality: str, node_id: str, name: str, description: str, mask_tooltip: str, *more: io.Input) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        display_name=name,
        category=CATEGORY,
        description=description,
        inputs=[
            io.Conditioning.Input("positive"),
            io.Conditioning.Input("negative"),
            io.Latent.Input(modality, tooltip=f"What is given: a {modality} latent or a joint one, 1 or one a sample."),
            io.Float.Input(
                "strength",
                default=1.0,
                min=0.0,
                max=1.0,
                step=0.01,
                tooltip="How far it decides: equal turns have about equal effect. 1: given clean. 0.5: half-way. 0: "
                "not given. In between it is given with noise that falls along; the paper's range (log2_alpha -5 to "
                "-14) lies above 0.99. With a mask, less strength lets go of the given part earlier.",
            ),
            io.Float.Input(
                "start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="Share of the run it starts at."
            ),
            io.Float.Input(
                "end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="Share of the run it ends at."
            ),
            io.Mask.Input("mask", optional=True, tooltip=mask_tooltip),
            io.Float.Input(
                "noise_level",
                default=0.0,
                min=0.0,
                max=0.5,
                step=0.01,
                optional=True,
                tooltip="The least noise that it is given with, 0 clean to 1, for a model that knows exactly clean "
                "input less well. The small model needs none. Not in a mask.",
            ),
            *more,
        ],
        outputs=[
            io.Conditioning.Output(id="positive_out", display_name="positive"),
            io.Conditioning.Output(id="negative_out", display_name="negative"),
            io.Latent.Output(
                id="latent", display_name="latent", tooltip="An empty joint latent of the same size, to sample on."
            ),
        ],
    )


def _apply(positive: Any, negative: Any, samples: Tensor, given: Given, modality: str) -> io.NodeOutput:
    values = {given_key(modality): given}
    both = (node_helpers.conditioning_set_values(cond, values) for cond in (positive, negative))
    return io.NodeOutput(*both, empty_joint(samples.shape[0], *samples.shape[-2:]))


class ImageCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "rgb",
            "ModalityForcingImageCondition",
            "Image as Condition (image to depth)",
            "Gives an image; depth is generated for it. Guidance 1 and an empty prompt are fine.",
            "White where the image is given; the rest is generated. A 16 x 16 patch is given if half of it is white.",
        )

    @classmethod
    def execute(
        cls, positive, negative, rgb, strength, start_percent, end_percent, mask=None, noise_level: float = 0.0
    ) -> io.NodeOutput:
        samples = modality_latent(rgb, "rgb")
        if not samples.isfinite().all():
            raise ValueError("the given image latent holds NaN or infinity; check the image and its VAE")
        if not samples.flatten(1).any(1).all():
            raise ValueError("the given image latent is an empty one (all 0); connect that of 'VAE Encode'")
        if mask is not None:
            mask = torch.nn.functional.avg_pool2d(_pixels(mask, samples)[:, None], PATCH) >= 0.5  # (B,1,h,w)
        given = Given(samples, mask, strength, *checked_span(start_percent, end_percent), noise_level)
        return _apply(positive, negative, samples, given, "rgb")


class DepthCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "depth",
            "ModalityForcingDepthCondition",
            "Depth as Condition (depth to image)",
            "Gives depth; an image is generated for it. Missing depth is told to the model as unknown.",
            "White where depth is given, pixel by pixel; the rest of the depth is generated too (inpainting, sparse "
            "depth completion). Without a mask the map is given as it is, holes and all.",
            io.Float.Input(
                "softness",
                default=0.0,
                min=0.0,
                max=1.0,
                step=0.01,
                optional=True,
                tooltip="Blurs the given map: the layout stays, edges and small shapes are the model's own. 0: as it "
                "is. 1: a Gaussian of an eighth of the longer side; 0.5, of a sixteenth, frees the shape of objects.",
            ),
        )

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        depth,
        strength,
        start_percent,
        end_percent,
        mask: Tensor | None = None,
        noise_level=0.0,
        softness=0.0,
    ) -> io.NodeOutput:
        samples = modality_latent(depth, "depth")
        check_known(samples, "the given depth")
        if samples.isinf().any():
            raise ValueError("the given depth latent holds infinity; expected finite codes, NaN where depth is unknown")
        if mask is not None:
            mask = patchify(_pixels(mask, samples) >= 0.5)  # (B,256,h,w)
        span = checked_span(start_percent, end_percent)
        given = Given(softened(samples, softness), mask, strength, *span, noise_level)
        return _apply(positive, negative, samples, given, "depth")


def _pixels(mask: Tensor, samples: Tensor) -> Tensor:
    """The mask as (B,H,W) float of the given map's size in pixels."""
    mask = checked_masks(mask).float()
    h, w = (size * PATCH for size in samples.shape[-2:])
    if mask.shape[-2:] != (h, w):
        raise ValueError(
            f"got a mask of {mask.shape[-1]} x {mask.shape[-2]} pixels for a latent of {w} x {h} pixels; expected the "
            "same size. Put image and mask through 'Fit Image to Model' together."
        )
    return mask


def checked_span(start: float, end: float) -> tuple[float, float]:
    """The part of a run, or ValueError."""
    if not 0 <= start < end <= 1:
        raise ValueError(f"got start_percent {start} and end_percent {end}; expected 0 <= start < end <= 1")
    return start, end


NODES = [ImageCondition, DepthCondition]
