"""A small image autoencoder: RGB pictures <-> latents of 128 channels at 1/16 of the size, the grid of FLUX.2's.

Convolutions all the way, so one set of weights serves every size, and the decoder's 3 x 3 layers overlap between
latent cells: what a transformer predicts for one 16 x 16 patch runs smoothly into the next. Letters: B pictures, C
channels, h and w latent rows and columns.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 16
CHANNELS = 128
KIND = "modality-forcing demo image codec"


class ImageCodec(nn.Module):
    """encode: (B,3,H,W) in 0..1 -> (B,128,H/16,W/16) of about unit variance; decode: the way back.

    A linear map of patches carries the picture; convolutions beside it add what it misses, and the decoder's take away
    its seams. `width` is their number of channels at 1/4 of the size; at 1/8 there are three times as many.

    `used` is how many of the 128 channels carry the picture. The others are zero, and not read: a small transformer of
    128 or so features would fill them all with the noise of a latent of as many.
    """

    def __init__(self, width: int = 32, used: int = CHANNELS) -> None:
        super().__init__()
        self.width, self.used = width, used
        wide = 3 * width
        self.linear_in = nn.Conv2d(3, used, PATCH, stride=PATCH)
        self.linear_out = nn.ConvTranspose2d(used, 3, PATCH, stride=PATCH)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),  # (B,48,H/4,W/4)
            nn.Conv2d(48, width, 3, padding=1),
            Residual(width),
            nn.PixelUnshuffle(2),  # (B,4*width,H/8,W/8)
            nn.Conv2d(4 * width, wide, 1),
            Residual(wide),
            nn.PixelUnshuffle(2),  # (B,4*wide,h,w)
            _zero(nn.Conv2d(4 * wide, used, 1)),
        )
        self.widen = nn.Sequential(
            nn.Conv2d(used, 4 * wide, 3, padding=1),
            nn.PixelShuffle(2),  # (B,wide,H/8,W/8)
            Residual(wide),
            nn.Conv2d(wide, 4 * width, 1),
            nn.PixelShuffle(2),  # (B,width,H/4,W/4)
        )
        self.look = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, width, 3, padding=1))
        self.refine = nn.Sequential(
            Residual(width),
            Residual(width),
            _zero(nn.Conv2d(width, 48, 3, padding=1)),
            nn.PixelShuffle(4),  # (B,3,H,W)
        )
        # Latent = (raw - centre) / spread, measured once after training (`calibrate`).
        self.register_buffer("centre", torch.zeros(1, used, 1, 1))
        self.register_buffer("spread", torch.ones(1, used, 1, 1))

    def encode(self, rgb: Tensor) -> Tensor:
        """(B,3,H,W) float in 0..1, H and W multiples of 16 -> (B,128,H/16,W/16)."""
        if rgb.ndim != 4 or rgb.shape[1] != 3 or rgb.shape[2] % PATCH or rgb.shape[3] % PATCH:
            raise ValueError(
                f"got pictures of shape {tuple(rgb.shape)}; expected (batch, 3, height, width) with height and width "
                f"multiples of {PATCH}"
            )
        latent = (self.encode_unscaled(rgb) - self.centre) / self.spread
        return F.pad(latent, (0, 0, 0, 0, 0, CHANNELS - self.used))

    def decode(self, latent: Tensor) -> Tensor:
        """(B,128,h,w) -> (B,3,16h,16w), not clamped to 0..1."""
        if latent.ndim != 4 or latent.shape[1] != CHANNELS:
            raise ValueError(f"got a latent of shape {tuple(latent.shape)}; expected (batch, {CHANNELS}, h, w)")
        return self.decode_unscaled(latent[:, : self.used] * self.spread + self.centre)

    def encode_unscaled(self, rgb: Tensor) -> Tensor:
        """`encode` before the latents are centred and scaled, the used channels only."""
        signed = 2 * rgb - 1
        return self.linear_in(signed) + self.encoder(signed)

    def decode_unscaled(self, raw: Tensor) -> Tensor:
        """Inverse of `encode_unscaled`."""
        signed = self.linear_out(raw)
        return (signed + self.refine(self.widen(raw) + self.look(signed)) + 1) / 2

    @torch.no_grad()
    def start_linear(self, pictures: Tensor) -> None:
        """Start from principal components: the best linear codec of the patches of pictures (N,3,H,W) in 0..1.

        The convolutions' last layers are zero at first, so this is then the whole codec, and training improves on it.
        """
        patches = (2 * pictures - 1).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (N,3,h,w,16,16)
        rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)  # (N*h*w,768)
        mean = rows.mean(0).view(3, -1).mean(1)  # a colour
        rows = rows - mean.repeat_interleave(PATCH**2)
        _, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))  # ascending
        components = vectors[:, -self.used :].flip(1).T.unflatten(1, (3, PATCH, PATCH))  # (used,3,16,16)
        self.linear_in.weight.copy_(components)
        self.linear_in.bias.copy_(-(components * mean[:, None, None]).sum((1, 2, 3)))
        self.linear_out.weight.copy_(components)
        self.linear_out.bias.copy_(mean)

    @torch.no_grad()
    def calibrate(self, raw: Tensor) -> None:
        """Set centre and spread from unscaled latents (N,used,h,w) of many pictures.

        A channel is divided by the square root of its standard deviation and a common factor that makes the mean
        variance 1: channels that matter little to the picture stay smaller than the others.
        """
        deviation = raw.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-6)
        self.centre.copy_(raw.mean(dim=(0, 2, 3), keepdim=True))
        self.spread.copy_(deviation.sqrt() * deviation.mean().sqrt())  # variance of a channel: std / mean std

    def save(self, path: str | Path) -> None:
        """Write weights, centre and spread as safetensors."""
        state = {name: tensor.contiguous().cpu() for name, tensor in self.state_dict().items()}
        save_file(state, path, {"kind": KIND, "width": str(self.width), "used": str(self.used)})

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "ImageCodec":
        """Read what `save` wrote, frozen, in evaluation mode. Raises ValueError for another file."""
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
            if notes.get("kind") != KIND:
                raise ValueError(f"{path} is not a codec of this model (its note says {notes.get('kind')!r})")
            codec = cls(int(notes["width"]), int(notes["used"]))
            codec.load_state_dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file ({error}); expected an image codec") from error
        return codec.eval().requires_grad_(False).to(device)


class Residual(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))); the second convolution starts at zero, so a block starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = _zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def psnr_db(pictures: Tensor, decoded: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture (B,3,H,W) in 0..1, in decibels: (B,). Decoded values are clamped."""
    error = (decoded.clamp(0, 1) - pictures).square().mean((1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()
