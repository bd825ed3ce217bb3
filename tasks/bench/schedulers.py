"""``run.py bench schedulers``: grain in depth over ComfyUI's schedulers and log2_alpha, for the bundled small model.

Joint runs on a real ComfyUI server. Grain is the mean second difference of the depth codes along the rows inside
patches, as a multiple of that with the sigmas of RGB-D Schedule at log2_alpha 0, exact depth on: 1 is as smooth.
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...model.depth.codec import unpatchify
from ...model.network.config import DEPTH_PATCH
from .. import SMALL_MODEL
from ..host.server import Server
from ..workflows.settings import SIDE

STEPS, CFG, COUNT = 20, 3.0, 4
PROMPT = "a red box on the left in daylight."
TILTS = (5.0, 2.0, 0.0, -2.0)
OURS = {"RGB-D Schedule, as released": False, "RGB-D Schedule, exact_depth": True}


def prompt_for(scheduler: str, log2_alpha: float, prefix: str) -> dict:
    """A joint run of COUNT pictures that saves its latent."""
    text = {"clip": ["1", 1]}
    schedule = {"model": ["1", 0], "steps": STEPS, "shift": 1.1, "log2_alpha": log2_alpha}
    sampled = {"model": ["4", 0], "add_noise": True, "noise_seed": 3, "cfg": CFG, "positive": ["2", 0]}
    wired = {"negative": ["3", 0], "sampler": ["6", 0], "sigmas": ["7", 0], "latent_image": ["5", 0]}
    sigmas = ("BasicScheduler", {"model": ["4", 0], "scheduler": scheduler, "steps": STEPS, "denoise": 1.0})
    nodes = {
        "1": ("ModalityForcingLoadSmall", {"model_name": SMALL_MODEL.name}),
        "2": ("CLIPTextEncode", {**text, "text": PROMPT}),
        "3": ("CLIPTextEncode", {**text, "text": ""}),
        "4": ("ModalityForcingSchedule", {**schedule, "exact_depth": OURS.get(scheduler, False)}),
        "5": ("ModalityForcingEmptyLatent", {"width": SIDE, "height": SIDE, "batch_size": COUNT}),
        "6": ("KSamplerSelect", {"sampler_name": "euler"}),
        "7": sigmas,
        "8": ("SamplerCustom", {**sampled, **wired}),
        "9": ("ModalityForcingSplitLatents", {"latent": ["8", 0]}),
        "10": ("SaveLatent", {"samples": ["9", 1], "filename_prefix": prefix}),
    }
    if scheduler in OURS:
        nodes["8"] = ("SamplerCustom", {**sampled, **wired, "sigmas": ["4", 1]})
        del nodes["7"]
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def grain(codes: Tensor) -> float:
    """Mean second difference along rows inside patches of codes (B,256,h,w)."""
    patches = unpatchify(codes.float()).unflatten(2, (-1, DEPTH_PATCH))
    return float(patches.diff(dim=-1).diff(dim=-1).abs().mean())


def main(arguments: list[str]) -> int:
    """Measure and print a Markdown table; returns the exit status."""
    with torch.no_grad(), tempfile.TemporaryDirectory() as base, Server(Path(base)) as server:
        kind, *settings = server.object_info()["BasicScheduler"]["input"]["required"]["scheduler"]
        options = kind if isinstance(kind, list) else settings[0]["options"]  # two forms, by the age of the node
        found = {}
        for scheduler in [*OURS, *options]:
            for log2_alpha in TILTS:
                prefix = f"run_{len(found)}"
                server.run(prompt_for(scheduler, log2_alpha, prefix))
                (file,) = (server.base / "output").glob(f"{prefix}_*.latent")
                found[scheduler, log2_alpha] = grain(load_file(file)["latent_tensor"])
    smooth = found["RGB-D Schedule, exact_depth", 0.0]
    print(f"| scheduler | {' | '.join(f'log2_alpha {a:g}' for a in TILTS)} |\n|---|{'---|' * len(TILTS)}")
    for scheduler in [*OURS, *options]:
        print(f"| {scheduler} | {' | '.join(f'{found[scheduler, a] / smooth:.1f}' for a in TILTS)} |")
    return 0
