"""``run.py bench samplers``: calls of the network against error, for Euler and two higher-order core samplers.

Image -> depth of held-out scenes by the bundled small model on a real ComfyUI server, all from the same noise. Two
errors: against the true depth (AbsRel, scale and shift fitted), which ends at what the model knows, and of the depth
codes against those of many small steps, which is the solver's own.
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ...model.demo import CODEC_FILE
from ...model.demo.image_codec import ImageCodec
from ...model.depth import codec as depth_codec
from ...model.depth.alignment import evaluate
from .. import SMALL_MODEL
from ..host.server import Server
from ..small_model.held_out import MAX_CODE, held_out

COUNT = 32
SAMPLERS = {"euler": 1, "heun": 2, "dpmpp_2m": 1}  # calls of the network in a step (heun: one in the last)
STEPS = (1, 2, 4, 8, 16, 32)
REFERENCE = ("heun", 64)


def prompt_for(latent_file: str, sampler: str, steps: int, prefix: str) -> dict:
    """Image -> depth on the latents of a file in the input folder; saves the depth latent."""
    nodes = {
        "1": ("ModalityForcingLoadSmall", {"model_name": SMALL_MODEL.name}),
        "2": ("CLIPTextEncode", {"clip": ["1", 1], "text": ""}),
        "3": ("LoadLatent", {"latent": latent_file}),
        "4": (
            "ModalityForcingImageCondition",
            {
                **{"positive": ["2", 0], "negative": ["2", 0], "rgb": ["3", 0]},
                **{"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
            },
        ),
        "5": ("ModalityForcingSchedule", {"model": ["1", 0], "steps": steps, "shift": 1.1, "log2_alpha": 0.0}),
        "6": ("KSamplerSelect", {"sampler_name": sampler}),
        "7": (
            "SamplerCustom",
            {
                **{"model": ["5", 0], "add_noise": True, "noise_seed": 0, "cfg": 1.0, "positive": ["4", 0]},
                **{"negative": ["4", 1], "sampler": ["6", 0], "sigmas": ["5", 1], "latent_image": ["4", 2]},
            },
        ),
        "8": ("ModalityForcingSplitLatents", {"latent": ["7", 0]}),
        "9": ("SaveLatent", {"samples": ["8", 1], "filename_prefix": prefix}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def main(arguments: list[str]) -> int:
    """Measure and print a Markdown table; returns the exit status."""
    scenes = held_out(COUNT)
    codec = ImageCodec.load(SMALL_MODEL.parent / CODEC_FILE)
    codes = {}
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server:
        with torch.no_grad():
            tensors = {"latent_tensor": codec.encode(scenes.rgb), "latent_format_version_0": torch.tensor([])}
        save_file(tensors, server.base / "input" / "held_out.latent")
        for sampler, steps in [REFERENCE, *((sampler, steps) for sampler in SAMPLERS for steps in STEPS)]:
            prefix = f"{sampler}_{steps}"
            server.run(prompt_for("held_out.latent", sampler, steps, prefix))
            (file,) = (server.base / "output").glob(f"{prefix}_*.latent")
            codes[sampler, steps] = load_file(file)["latent_tensor"].float().clamp(0.01, MAX_CODE)
    print("| sampler | steps | calls of the network | AbsRel % | codes off by (RMS) |\n|---|---|---|---|---|")
    for (sampler, steps), code in codes.items():
        depth, valid = depth_codec.decode(code)
        error = 100 * float(evaluate(depth, scenes.depth, valid, scenes.valid).abs_rel.nanmean())
        off = float((code - codes[REFERENCE]).square().mean().sqrt())
        calls = steps * SAMPLERS[sampler] - (sampler == "heun")
        print(f"| {sampler} | {steps} | {calls} | {error:.2f} | {off:.4f} |")
    return 0
