"""Loading the model, setting its schedule and how it is sampled."""

import folder_paths
import torch
from comfy_api.latest import io

from ..model.diffusion.schedule import DEFAULT_LOG2_ALPHA, DEFAULT_MU, DEFAULT_STEPS, base_levels
from ..model.diffusion.settings import DEPTH_SAMPLINGS, SAMPLINGS
from .native.loading import load_model
from .native.run_checks import tilt_depth
from .native.samplers import sampler
from .sockets import CATEGORY

FOLDER = "diffusion_models"
WEIGHT_TYPES = {
    "default": {},
    "bf16": {"model_options": {"dtype": torch.bfloat16}},
    "fp32": {"model_options": {"dtype": torch.float32}},
    "fp8_e4m3fn": {"scaled_fp8": "full"},
    "fp8_e4m3fn_fast": {"scaled_fp8": "fast"},
    "fp8_e5m2": {"model_options": {"dtype": torch.float8_e5m2}},
}


SAMPLING_TOOLTIP = (
    "as released: euler, 50 steps. fast: dpmpp_2m, 10 steps; for depth only euler, 4. Measured on the bundled model."
)
LEADS = {"image first": DEFAULT_LOG2_ALPHA, "together": 0.0, "depth first": -2.0}  # log2_alpha


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingLoadModel",
            display_name="Load Modality Forcing Model",
            category=CATEGORY,
            description="Loads a Modality Forcing checkpoint as a native model: offloading, LoRA and fp8 work.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A Modality Forcing .safetensors file in models/diffusion_models.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_TYPES),
                    default="default",
                    tooltip="Type of the weights in memory. default: as in the file, where the device can. fp8_e4m3fn "
                    "halves the blocks' memory, a scale for each layer; fast also multiplies in fp8. fp8_e5m2 is a "
                    "plain cast. The depth head always stays fp32. fp16 overflows: not offered.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise(FOLDER, model_name)
        return io.NodeOutput(load_model(path, **WEIGHT_TYPES[weight_dtype]))


class Schedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingSchedule",
            display_name="RGB-D Schedule",
            category=CATEGORY,
            description="Sets how fast RGB and depth lose their noise, against each other, and gives the steps.",
            inputs=[
                io.Model.Input("model"),
                io.Int.Input(
                    "steps", default=DEFAULT_STEPS, min=1, max=10000, tooltip="Sampling steps; 50 in the release."
                ),
                io.Float.Input(
                    "shift",
                    default=DEFAULT_MU,
                    min=-5.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Timestep shift mu, no unit. Higher spends more steps near pure noise. Trained with 1.1.",
                ),
                io.Float.Input(
                    "log2_alpha",
                    default=DEFAULT_LOG2_ALPHA,
                    min=-14.0,
                    max=14.0,
                    step=0.1,
                    tooltip="Which modality resolves first, -5 to 5 in the paper. Above 0 RGB leads and depth follows "
                    "(5: best depth), 0 both at once, below 0 depth leads. No effect while the whole image is given.",
                ),
                io.Boolean.Input(
                    "exact_depth",
                    default=False,
                    optional=True,
                    tooltip="Off: the release's own last steps, which leave grain in depth where it is cleaner than "
                    "0.05 early: log2_alpha below 0, or very many steps. On: depth ends as the network sees it. Other "
                    "schedulers than 'simple' and these sigmas are always exact.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    id="scheduled", display_name="model", tooltip="The model with this schedule, for any sampler node."
                ),
                io.Sigmas.Output(display_name="sigmas", tooltip="The exact steps, for SamplerCustomAdvanced."),
            ],
        )

    @classmethod
    def execute(cls, model, steps: int, shift: float, log2_alpha: float, exact_depth: bool = False) -> io.NodeOutput:
        return io.NodeOutput(tilt_depth(model, shift, log2_alpha, exact_depth), base_levels(steps, shift))


class Lead(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingLead",
            display_name="Which Comes First",
            category=CATEGORY,
            description="Says in words what log2_alpha of 'RGB-D Schedule' says as a number.",
            inputs=[
                io.Combo.Input(
                    "order",
                    options=list(LEADS),
                    default="image first",
                    tooltip="image first: the release's setting, log2_alpha 5. together: 0. depth first: -2, smoother "
                    "depth. No effect while the whole image is given.",
                )
            ],
            outputs=[io.Float.Output(display_name="log2_alpha")],
        )

    @classmethod
    def execute(cls, order: str) -> io.NodeOutput:
        return io.NodeOutput(LEADS[order])


class Sampling(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingSampling",
            display_name="As Released or Fast",
            category=CATEGORY,
            description="Sampler and number of steps by name: as in the release, or with a fifth of the calls or less.",
            inputs=[
                io.Combo.Input("sampling", options=list(SAMPLINGS), default="as released", tooltip=SAMPLING_TOOLTIP),
                io.Boolean.Input(
                    "depth_only",
                    default=False,
                    tooltip="On where the whole picture is given and only depth is made, which takes fewer steps.",
                ),
            ],
            outputs=[
                io.Sampler.Output(id="sampler", display_name="sampler"),
                io.Int.Output(id="steps", display_name="steps", tooltip="For 'RGB-D Schedule'."),
            ],
        )

    @classmethod
    def execute(cls, sampling: str, depth_only: bool) -> io.NodeOutput:
        chosen = (DEPTH_SAMPLINGS if depth_only else SAMPLINGS)[sampling]
        return io.NodeOutput(sampler(chosen.solver), chosen.steps)


NODES = [LoadModel, Schedule, Lead, Sampling]
