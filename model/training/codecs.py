"""Pictures and captions to latents and back, by the small demo codecs or by FLUX.2's; all of them frozen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..demo.image_codec import ImageCodec
from ..demo.text import TextEncoder
from ..depth import codec as depth_codec
from ..network.config import RGB_CHANNELS
from .config import CodecSection
from .data import RawBatch
from .losses import LatentBatch

QWEN_LAYERS = (9, 18, 27)  # hidden states after these layers are FLUX.2-klein's text
QWEN_TOKENS = 512


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
    return DemoCodecs(section, device) if section.kind == "demo" else Flux2Codecs(section, device)


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


class Flux2Codecs:
    """FLUX.2's autoencoder (diffusers) and Qwen3-8B (transformers), loaded when first used, in bfloat16.

    Image: posterior mean, 2 x 2 cells to one of 128 channels, normalised with the autoencoder's own running statistics.
    Text: user turn with generation prompt, thinking disabled, padded on the right to 512 tokens; hidden states after
    three layers side by side. The layers after the last of them are cut off.
    """

    channels = RGB_CHANNELS

    def __init__(self, section: CodecSection, device: torch.device | str) -> None:
        self.device, self.section = device, section
        self._loaded: dict[str, nn.Module] = {}

    @torch.inference_mode()
    def encode_images(self, rgb: Tensor) -> Tensor:
        vae = self._vae()
        pictures = rgb.to(self.device, vae.dtype) / 127.5 - 1
        cells = vae.encode(pictures).latent_dist.mean  # (B,32,H/8,W/8)
        mean, deviation = _statistics(vae)
        return (nn.functional.pixel_unshuffle(cells, 2).float() - mean) / deviation

    @torch.inference_mode()
    def decode_images(self, latents: Tensor) -> Tensor:
        vae = self._vae()
        mean, deviation = _statistics(vae)
        cells = nn.functional.pixel_shuffle(latents.to(self.device).float() * deviation + mean, 2)
        return ((vae.decode(cells.to(vae.dtype)).sample.float() + 1) / 2).clamp(0, 1)

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        tokenizer, encoder = self._tokenizer(), self._encoder()
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            for prompt in prompts
        ]
        tokens = tokenizer(
            texts,
            return_tensors="pt",
            padding="max_length",
            padding_side="right",
            truncation=True,
            max_length=QWEN_TOKENS,
        ).to(self.device)
        states = encoder(**tokens, output_hidden_states=True, use_cache=False).hidden_states
        return torch.cat([states[layer] for layer in QWEN_LAYERS], dim=-1)  # (B,512,3*width)

    def _vae(self) -> nn.Module:
        def load() -> nn.Module:
            try:
                from diffusers import AutoencoderKLFlux2
            except ImportError as error:
                raise ImportError(
                    "FLUX.2's autoencoder needs diffusers 0.36 or newer: pip install diffusers"
                ) from error
            return AutoencoderKLFlux2.from_pretrained(
                _have(self.section.image, "codec.image"), torch_dtype=torch.bfloat16
            )

        return self._once("vae", load)

    def _encoder(self) -> nn.Module:
        def load() -> nn.Module:
            from transformers import AutoModel

            model = AutoModel.from_pretrained(_have(self.section.text, "codec.text"), dtype=torch.bfloat16)
            # One layer more than is read, since the state after a model's last layer is normalised.
            model.layers = model.layers[: QWEN_LAYERS[-1] + 1]
            return model

        return self._once("encoder", load)

    def _tokenizer(self):
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ImportError("encoding text for FLUX.2 needs transformers: pip install transformers") from error
        if "tokenizer" not in self._loaded:
            folder = Path(_have(self.section.text, "codec.text"))
            inside = (folder / "tokenizer_config.json").is_file()  # a pipeline keeps it in a folder beside
            self._loaded["tokenizer"] = AutoTokenizer.from_pretrained(folder if inside else folder.parent / "tokenizer")
        return self._loaded["tokenizer"]

    def _once(self, name: str, load) -> nn.Module:
        if name not in self._loaded:
            self._loaded[name] = load().eval().requires_grad_(False).to(self.device)
        return self._loaded[name]


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


def _statistics(vae: nn.Module) -> tuple[Tensor, Tensor]:
    mean, variance = (x.view(1, -1, 1, 1).float() for x in (vae.bn.running_mean, vae.bn.running_var))
    return mean, (variance + vae.config.batch_norm_eps).sqrt()


def _have(part, name: str):
    if not part:
        raise ValueError(f"{name} is not set, but it is needed here; set its path in the configuration")
    return part
