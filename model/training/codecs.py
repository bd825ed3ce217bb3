"""Pictures and captions to latents and back, by the small demo codecs or by FLUX.2's; all of them frozen."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..demo.image_codec import ImageCodec
from ..demo.text import TextEncoder
from ..depth import codec as depth_codec
from ..flux2_codecs import Flux2Codecs
from ..network.config import RGB_CHANNELS
from .config import CodecSection
from .data import RawBatch
from .losses import LatentBatch


class Codecs(Protocol):
    """What the trainer needs of an image codec and a text encoder."""

    channels: int  # of the latent's 128, those that carry the picture: the first

    def encode_images(self, rgb: Tensor) -> Tensor:
        """(B,3,H,W) uint8 -> (B,128,H/16,W/16) float32."""

    def decode_images(self, latents: Tensor) -> Tensor:
        """(B,128,h,w) -> (B,3,16h,16w) in 0..1."""

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(B,L,C)."""


def open_codecs(section: CodecSection, device: torch.device | str) -> Codecs:
    """The codecs of a configuration; a part whose path is empty raises ValueError when it is used."""
    return DemoCodecs(section, device) if section.kind == "demo" else FluxCodecs(section, device)


class DemoCodecs:
    """The small image codec and the closed-vocabulary text encoder (`model.demo`)."""

    def __init__(self, section: CodecSection, device: torch.device | str) -> None:
        self.device = device
        self._image = ImageCodec.load(section.image, device) if section.image else None
        self._text = TextEncoder.load(section.text) if section.text else None

    @property
    def channels(self) -> int:
        return self._image.used if self._image else RGB_CHANNELS

    @property
    def text(self) -> TextEncoder:
        return _have(self._text, "codec.text")

    @torch.inference_mode()
    def encode_images(self, rgb: Tensor) -> Tensor:
        return _have(self._image, "codec.image").encode(rgb.to(self.device).float() / 255)

    @torch.inference_mode()
    def decode_images(self, latents: Tensor) -> Tensor:
        return _have(self._image, "codec.image").decode(latents.to(self.device).float()).clamp(0, 1)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return self.text.encode(prompts).to(self.device)


class FluxCodecs:
    """FLUX.2's autoencoder and Qwen3, in bfloat16 (`model.flux2_codecs`)."""

    channels = RGB_CHANNELS

    def __init__(self, section: CodecSection, device: torch.device | str) -> None:
        self.section, self._codecs = section, Flux2Codecs(section.image, section.text, device)

    def encode_images(self, rgb: Tensor) -> Tensor:
        _have(self.section.image, "codec.image")
        return self._codecs.encode_images(rgb.float() / 255)

    def decode_images(self, latents: Tensor) -> Tensor:
        _have(self.section.image, "codec.image")
        return self._codecs.decode_images(latents)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        _have(self.section.text, "codec.text")
        return self._codecs.encode_text(prompts)


def encode_batch(codecs: Codecs, batch: RawBatch, far_code: float, device: torch.device | str) -> LatentBatch:
    """Latents of a raw batch, on the device."""
    return LatentBatch(
        codecs.encode_images(batch.rgb),
        depth_codes(batch.depth.to(device), far_code),
        codecs.encode_text(batch.captions),
    )


def depth_codes(depth: Tensor, far_code: float) -> Tensor:
    """Depth latents (B,256,h,w) of maps (B,H,W) with NaN = unknown and +inf = sky.

    The mean depth that maps are divided by is that of the finite depths (`depth.codec`). Codes above `far_code` become
    `far_code`, and so does sky: it is known to be far, so it is trained on, unlike a hole.
    """
    codes = depth_codec.encode(depth).clamp(max=far_code)  # NaN stays NaN
    sky = depth_codec.patchify(depth.isposinf().float()) > 0
    return torch.where(sky, far_code, codes)


def _have(part, name: str):
    if not part:
        raise ValueError(f"{name} is not set, but it is needed here; set its path in the configuration")
    return part
