"""Joint RGB-D latents: empty, joined from and split into plain latents."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.depth.patches import torn
from .native.latent_format import JOINT_CHANNELS, PARTS, SIZE_KEY, empty_joint
from .native.notices import notice
from .sockets import CATEGORY

PATCH = 16
SOURCES = {
    "rgb": "'VAE Encode' with the FLUX.2 VAE, or a joint latent",
    "depth": "'Encode Depth Picture', 'Encode Geometry Depth', or a joint latent",
}


def samples_of(latent: object) -> Tensor:
    """What a LATENT holds, or ValueError."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor) or samples.is_complex() or samples.numel() == 0:
        raise ValueError(
            f"got a latent of type {type(latent).__name__} without numbers under 'samples'; connect a LATENT"
        )
    return samples


def modality_latent(latent: dict[str, Any], modality: str) -> Tensor:
    """The (B,C,h,w) samples of one modality, from its own latent or a joint one."""
    samples = samples_of(latent)
    part = PARTS[modality]
    if samples.ndim == 4 and samples.shape[1] == JOINT_CHANNELS:
        samples = samples[:, part]
    wanted = part.stop - part.start
    if samples.ndim != 4 or samples.shape[1] != wanted:
        raise ValueError(
            f"got a latent of shape {tuple(samples.shape)} as {modality}, {_name_of(samples)}; expected {wanted} or "
            f"{JOINT_CHANNELS} channels. Connect {SOURCES[modality]}."
        )
    if modality == "depth":
        _say_if_torn(samples, latent.get(SIZE_KEY))
    return samples


def _name_of(samples: Tensor) -> str:
    widths = {part.stop - part.start: f"that of {modality} alone" for modality, part in PARTS.items()}
    return widths.get(samples.shape[1] if samples.ndim == 4 else None, "another model's")


def _say_if_torn(depth: Tensor, made_with: tuple[int, int] | None) -> None:
    grown = made_with is not None and any(now > then for now, then in zip(depth.shape[-2:], made_with, strict=True))
    if grown or torn(depth):
        notice(
            "The depth of this latent looks torn: a node has enlarged, flipped or rotated its cells, each of which is "
            "a picture of 16 x 16 pixels. Enlarge with 'Upscale RGB-D Latent'; flip and rotate pictures and maps "
            "before they are encoded."
        )


def check_known(samples: Tensor, what: str) -> None:
    """Every map of a depth latent must know at least one pixel."""
    empty = [i for i, item in enumerate(samples) if not (item > 0).any()]
    if empty:
        raise ValueError(
            f"{what}: map {', '.join(map(str, empty))} of {len(samples)} has no valid depth at all (every pixel is "
            "missing, NaN or not above 0, as in an empty latent). Check what is connected, its meaning and its scale, "
            "or the mask."
        )


class EmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingEmptyLatent",
            display_name="Empty RGB-D Latent",
            category=CATEGORY,
            description="An empty latent for an image and its depth.",
            inputs=[
                io.Int.Input("width", default=512, min=16, max=16384, step=16, tooltip="Pixels, a multiple of 16."),
                io.Int.Input("height", default=512, min=16, max=16384, step=16, tooltip="Pixels, a multiple of 16."),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Number of samples."),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int) -> io.NodeOutput:
        for name, size in (("width", width), ("height", height)):
            if size % PATCH or size < PATCH:
                low = max(PATCH, size - size % PATCH)
                raise ValueError(f"got {name} {size}; expected a multiple of {PATCH}, such as {low} or {low + PATCH}")
        if batch_size < 1:
            raise ValueError(f"got batch_size {batch_size}; expected 1 or more")
        return io.NodeOutput(empty_joint(batch_size, height // PATCH, width // PATCH))


class JoinLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingJoinLatents",
            display_name="Join RGB-D Latent",
            category=CATEGORY,
            description="Joins a FLUX.2 latent and a depth latent. What is not connected is unknown. Needed to start "
            "from an existing picture (denoise below 1, Set Latent Noise Mask); conditions take plain latents.",
            inputs=[
                io.Latent.Input("rgb", optional=True, tooltip="FLUX.2 latent, 128 channels, or a joint latent."),
                io.Latent.Input("depth", optional=True, tooltip="Depth latent, 256 channels, or a joint latent."),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(cls, rgb: dict[str, Any] | None = None, depth: dict[str, Any] | None = None) -> io.NodeOutput:
        given = {"rgb": rgb, "depth": depth}
        parts = {name: modality_latent(latent, name) for name, latent in given.items() if latent is not None}
        if not parts:
            raise ValueError("got neither rgb nor depth; connect at least one of them")
        if "depth" in parts:
            check_known(parts["depth"], "depth")
        batch, h, w = _common_shape(parts)
        joint = empty_joint(batch, h, w)
        joint["samples"].fill_(torch.nan)  # unknown, as the holes of a depth map: a sampler fills it
        for name, part in parts.items():
            joint["samples"][:, PARTS[name]] = part
        kept = {k: v for latent in (depth, rgb) if latent for k, v in latent.items() if k != "samples"}
        return io.NodeOutput({**joint, **kept})


class SplitLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingSplitLatents",
            display_name="Split RGB-D Latent",
            category=CATEGORY,
            description="Splits a joint latent into a FLUX.2 latent (for VAE Decode) and a depth latent.",
            inputs=[io.Latent.Input("latent", tooltip="Joint latent, 384 channels.")],
            outputs=[
                io.Latent.Output(id="rgb", display_name="rgb", tooltip="FLUX.2 latent, 128 channels."),
                io.Latent.Output(id="depth", display_name="depth", tooltip="Depth latent, 256 channels."),
            ],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any]) -> io.NodeOutput:
        samples = samples_of(latent)
        if samples.ndim != 4 or samples.shape[1] != JOINT_CHANNELS:
            raise ValueError(
                f"got a latent of shape {tuple(samples.shape)}; expected {JOINT_CHANNELS} channels, RGB and depth "
                "together, as a sampler returns them for a Modality Forcing model"
            )
        return io.NodeOutput(*({**latent, "samples": samples[:, part]} for part in PARTS.values()))


def _common_shape(parts: dict[str, Tensor]) -> tuple[int, int, int]:
    sizes = {name: tuple(part.shape[-2:]) for name, part in parts.items()}
    if len(set(sizes.values())) > 1:
        text = " and ".join(f"{name} of {w * PATCH} x {h * PATCH} pixels" for name, (h, w) in sizes.items())
        raise ValueError(f"got {text}; expected the same size. Put both through 'Fit Image to Model' alike.")
    batches = {name: part.shape[0] for name, part in parts.items()}
    batch = max(batches.values())
    if not set(batches.values()) <= {1, batch}:
        text = " and ".join(f"{count} {name}" for name, count in batches.items())
        raise ValueError(f"got {text} latents; expected the same number, or 1 of either to share")
    return batch, *next(iter(sizes.values()))


NODES = [EmptyLatent, JoinLatents, SplitLatents]
