"""A small model's image codec as core's VAE."""

from collections.abc import Callable
from typing import Any

import comfy.model_management as memory
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...model.demo.image_codec import CHANNELS, PATCH, ImageCodec
from ...model.network.config import DEPTH_CHANNELS
from .latent_format import JOINT_CHANNELS

BYTES_PER_PIXEL = 256  # of a float32 encode or decode: some 60 numbers for each pixel of the picture


class SmallVAE:
    """The image codec with the methods of core's VAE, under core's memory management.

    Not a subclass: core's class knows only its own architectures and can be built from their weights alone.
    """

    latent_channels, latent_dim, output_channels = CHANNELS, 2, 3
    downscale_ratio = upscale_ratio = PATCH
    vae_dtype = torch.float32

    def __init__(self, codec: ImageCodec) -> None:
        self.first_stage_model = codec
        self.device = memory.vae_device()
        self.output_device = memory.intermediate_device()
        self.patcher = ModelPatcher(codec, load_device=self.device, offload_device=memory.vae_offload_device())

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """(B,H,W,3 or more) in 0..1 -> (B,128,H/16,W/16), cropped around the centre to multiples of 16."""
        return self._by_batch(self._encode, _cropped(pixel_samples).movedim(-1, 1), pixels_each=1)

    def decode(self, samples_in: Tensor, vae_options: dict[str, Any] | None = None) -> Tensor:
        """(B,128,h,w) -> (B,16h,16w,3) in 0..1."""
        _check_latent(samples_in)
        return self._by_batch(self._decode, samples_in, pixels_each=PATCH**2).movedim(1, -1)

    def encode_tiled(self, pixel_samples, tile_x=None, tile_y=None, overlap=None, tile_t=None, overlap_t=None):
        """As `encode`, in tiles of so many pixels."""
        tiles = (tile_x or 512, tile_y or 512, 64 if overlap is None else overlap)
        return self._by_tile(self._encode, _cropped(pixel_samples).movedim(-1, 1), tiles, 1 / PATCH, CHANNELS)

    def decode_tiled(self, samples, tile_x=None, tile_y=None, overlap=None, tile_t=None, overlap_t=None):
        """As `decode`, in tiles of so many latent cells."""
        _check_latent(samples)
        tiles = (tile_x or 32, tile_y or 32, 4 if overlap is None else overlap)
        return self._by_tile(self._decode, samples, tiles, PATCH, 3).movedim(1, -1)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.first_stage_model.encode(pixels.to(self.device, self.vae_dtype)).to(self.output_device)

    def _decode(self, latent: Tensor) -> Tensor:
        return self.first_stage_model.decode(latent.to(self.device, self.vae_dtype)).clamp(0, 1).to(self.output_device)

    def _by_batch(self, function: Any, values: Tensor, pixels_each: int) -> Tensor:
        needed = BYTES_PER_PIXEL * pixels_each * values.shape[2] * values.shape[3]
        self._load(needed)
        count = max(1, int(memory.get_free_memory(self.device) // needed))
        return torch.cat([function(part) for part in values.split(count)])

    def _by_tile(self, function: Any, values: Tensor, tiles: tuple, scale: float, channels: int) -> Tensor:
        x, y, overlap = tiles
        self._load(int(BYTES_PER_PIXEL * x * y * max(1, scale) ** 2))
        return comfy.utils.tiled_scale(values, function, x, y, overlap, scale, channels, self.output_device)

    def _load(self, needed_bytes: int) -> None:
        memory.load_models_gpu([self.patcher], memory_required=needed_bytes, force_full_load=True)

    # The rest of what core's nodes and its cache ask a VAE.
    def spacial_compression_encode(self) -> int:
        return PATCH

    def spacial_compression_decode(self) -> int:
        return PATCH

    def temporal_compression_decode(self) -> None:
        return None

    def throw_exception_if_invalid(self) -> None:
        return None

    def get_sd(self) -> dict[str, Tensor]:
        return self.first_stage_model.state_dict()

    def model_size(self) -> int:
        return memory.module_size(self.first_stage_model)

    def get_ram_usage(self) -> int:
        return self.model_size()

    def is_dynamic(self) -> bool:
        return False


def _cropped(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[1:3]
    if min(height, width) < PATCH:
        raise ValueError(f"got an image of {width} x {height} pixels; expected at least {PATCH} x {PATCH}")
    top, left = height % PATCH // 2, width % PATCH // 2
    height, width = (size - size % PATCH for size in (height, width))
    return pixels[:, top : top + height, left : left + width, :3]


def _check_latent(samples: Tensor) -> None:
    if samples.ndim == 4 and samples.shape[1] == CHANNELS:
        return
    channels = samples.shape[1] if samples.ndim == 4 else 0
    hints = {
        JOINT_CHANNELS: "This is a joint RGB-D latent: put it through 'Split RGB-D Latent' and decode its rgb.",
        DEPTH_CHANNELS: "This is a depth latent: use 'Decode Depth'.",
    }
    raise ValueError(
        f"got a latent of shape {tuple(samples.shape)}; the small model's VAE decodes {CHANNELS} channels. "
        + hints.get(channels, "It was made with another model's VAE or empty latent.")
    )


def preview_of(codec: ImageCodec) -> Callable[[Tensor], Tensor]:
    """Live previews by a second copy of the codec, on the CPU: the VAE's own may be anywhere while a sampler runs."""
    return lambda rgb: 2 * codec.decode(rgb.cpu()) - 1
