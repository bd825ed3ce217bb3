"""Trains the small image codec on procedural scenes, and writes the word list of the text encoder beside it."""

import logging
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..demo import WORDS_FILE
from ..demo.image_codec import ImageCodec, psnr_db
from ..demo.text import TextEncoder
from ..scenes import KINDS, VOCABULARY, generate, heldout_seed, train_seed
from .config_preparing import CodecConfig
from .scene_source import to_bytes

LOG = logging.getLogger(__name__)
TRAINED_CODEC, PICTURE = "codec.safetensors", "codec.png"
HELD_OUT = 256
SHOWN = 8
RENDERED_AT_ONCE = 256


def train_codec(config: CodecConfig, device: torch.device | str = "cpu", progress: bool = True) -> dict[str, float]:
    """Train, save to the output folder, and measure on held-out scenes.

    The loss is the mean square, with a tenth of the mean absolute error, which keeps edges; a little noise on the
    latents teaches the decoder to bear what a transformer will get wrong.

    Returns:
        PSNR in dB: "linear" (the start), "codec", "codec, noise" (with the training's noise on the latents), "seams"
        (ratio of the error at the borders of 16 x 16 patches to that elsewhere, 1 is none).
    """
    torch.manual_seed(config.seed)
    out = Path(config.output)
    out.mkdir(parents=True, exist_ok=True)
    TextEncoder.of_vocabulary(VOCABULARY, config.text_length).save(out / WORDS_FILE)
    pictures = _render(config, [train_seed(i) for i in range(config.scenes)], device)
    held_out = _render(config, [heldout_seed(i) for i in range(HELD_OUT)], device).float() / 255
    codec = ImageCodec(config.width, config.channels).to(device)
    some = pictures[:1000].float() / 255
    codec.start_linear(some)
    codec.calibrate(codec.encode_unscaled(some))
    figures = {"linear": _psnr(codec, held_out, 0.0)}
    _fit(codec, pictures, config, progress)
    codec.eval()
    with torch.no_grad():
        codec.calibrate(codec.encode_unscaled(some))
    codec.save(out / TRAINED_CODEC)
    figures["codec"] = _psnr(codec, held_out, 0.0)
    figures["codec, noise"] = _psnr(codec, held_out, config.latent_noise)
    figures["seams"] = seam_ratio(codec, held_out, config.latent_noise)
    _write_picture(codec, held_out[:SHOWN], out / PICTURE)
    return figures


def _fit(codec: ImageCodec, pictures: Tensor, config: CodecConfig, progress: bool) -> None:
    optimiser = torch.optim.AdamW(codec.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, config.steps, pct_start=0.1)
    steps = range(config.steps)
    if progress:
        from tqdm import tqdm

        steps = tqdm(steps, unit="step", desc="codec", mininterval=1.0)
    for _ in steps:
        chosen = torch.randint(len(pictures), (config.batch,))
        batch = pictures[chosen.to(pictures.device)].float() / 255
        if torch.rand(()) < 0.5:
            batch = batch.flip(-1)
        latent = codec.encode(batch)
        error = codec.decode(latent + config.latent_noise * torch.randn_like(latent)) - batch
        loss = error.square().mean() + 0.1 * error.abs().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
        schedule.step()


@torch.no_grad()
def seam_ratio(codec: ImageCodec, pictures: Tensor, noise: float) -> float:
    """How much more the error jumps across the borders of patches than inside of them, with noise on the latents."""
    generator = torch.Generator().manual_seed(0)
    latent = codec.encode(pictures)
    error = codec.decode(latent + noise * _randn(latent, generator)) - pictures
    jumps = error.diff(dim=-1).square().mean((0, 1, 2))  # (W-1,)
    at_border = torch.arange(len(jumps), device=jumps.device) % 16 == 15
    return float(jumps[at_border].mean() / jumps[~at_border].mean())


@torch.no_grad()
def _psnr(codec: ImageCodec, pictures: Tensor, noise: float) -> float:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for part in pictures.split(32):
        latent = codec.encode(part)
        parts.append(psnr_db(part, codec.decode(latent + noise * _randn(latent, generator))))
    return float(torch.cat(parts).mean())


def _randn(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like.device)


def _render(config: CodecConfig, seeds: list[int], device: torch.device | str) -> Tensor:
    options = {"difficulty": config.difficulty, "kinds": config.kinds or KINDS}
    parts = [
        to_bytes(generate(seeds[i : i + RENDERED_AT_ONCE], (config.size,) * 2, device, **options).rgb)
        for i in range(0, len(seeds), RENDERED_AT_ONCE)
    ]
    return torch.cat(parts)


@torch.no_grad()
def _write_picture(codec: ImageCodec, pictures: Tensor, path: Path) -> None:
    """Held-out pictures above what the codec makes of them."""
    rows = [torch.cat(list(x), dim=2) for x in (pictures, codec.decode(codec.encode(pictures)).clamp(0, 1))]
    Image.fromarray(to_bytes(torch.cat(rows, dim=1)).permute(1, 2, 0).cpu().numpy()).save(path)
