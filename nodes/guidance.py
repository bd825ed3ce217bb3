"""Guidance of RGB and of depth apart, as a guider and as a patch of the model."""

from typing import Any

from comfy_api.latest import io

from .native.guidance import Weights, guided, guider
from .sockets import CATEGORY

MODALITIES = {"rgb": "the picture", "depth": "depth"}


def _weight_inputs() -> list[io.Input]:
    """The settings that both nodes share; the names are those of `_weights`."""
    inputs = []
    for name, what in MODALITIES.items():
        inputs.append(
            io.Float.Input(
                f"{name}_cfg",
                default=4.0,
                min=0.0,
                max=100.0,
                step=0.1,
                tooltip=f"Guidance of {what}: how much it follows the prompt. 1: the prompt alone. 0: the empty "
                "prompt alone. Either takes one pass where both weights are so. The same for both is the sampler's "
                "ordinary guidance (4 in the release; for the bundled model 3 for the picture, 1 for depth).",
            )
        )
    for name, what in MODALITIES.items():
        for end, default in (("start", 0.0), ("end", 1.0)):
            inputs.append(
                io.Float.Input(
                    f"{name}_{end}_percent",
                    default=default,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip=f"Share of the run at which the guidance of {what} {end}s. Outside it is 1; steps that "
                    "need no empty prompt for either modality take half the time.",
                )
            )
    follow = {
        "follow_depth": "the picture heeds depth",
        "follow_image": "depth heeds the picture",
    }
    for name, what in follow.items():
        inputs.append(
            io.Float.Input(
                name,
                default=1.0,
                min=0.0,
                max=10.0,
                step=0.1,
                tooltip=f"How much {what}, given or made with it. 1: as the model does. 0: not at all. Other values "
                "than 1 take one more pass in each step.",
            )
        )
    return inputs


def _weights(**settings: float) -> dict[str, Weights]:
    follow = {"rgb": settings["follow_depth"], "depth": settings["follow_image"]}
    return {
        name: Weights(
            settings[f"{name}_cfg"],
            settings[f"{name}_start_percent"],
            settings[f"{name}_end_percent"],
            follow[name],
        )
        for name in MODALITIES
    }


class Guider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingGuider",
            display_name="RGB-D Guidance",
            category=CATEGORY,
            description="Guides the picture and its depth apart: a weight and a part of the run for each, and how much "
            "each heeds the other. For SamplerCustomAdvanced.",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                *_weight_inputs(),
            ],
            outputs=[io.Guider.Output(display_name="guider")],
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, negative: Any, **settings: float) -> io.NodeOutput:
        return io.NodeOutput(guider(model, _weights(**settings), positive, negative))


class PatchGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingPatchGuidance",
            display_name="RGB-D Guidance (model)",
            category=CATEGORY,
            description="As 'RGB-D Guidance', for KSampler and all samplers that take a model: it takes the place of "
            "their cfg, which then has no effect.",
            inputs=[io.Model.Input("model"), *_weight_inputs()],
            outputs=[io.Model.Output(id="guided", display_name="model")],
        )

    @classmethod
    def execute(cls, model: Any, **settings: float) -> io.NodeOutput:
        return io.NodeOutput(guided(model, _weights(**settings)))


NODES = [Guider, PatchGuidance]
