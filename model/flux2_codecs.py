"""FLUX.2's autoencoder (diffusers) and text encoder (Qwen3, transformers), as Modality Forcing's checkpoint uses them.

Image: posterior mean, 2 x 2 cells to one of 128 channels, normalised with the autoencoder's own running statistics.
Text: user turn with generation prompt, thinking disabled, padded on the right to 512 tokens; hidden states after three
layers side by side. Letters: B pictures or prompts, H and W pixels, L tokens, C width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

QWEN_LAYERS = (9, 18, 27)  # hidden states after these layers are FLUX.2-klein's text
QWEN_TOKENS = 512


class Flux2Codecs:
    """Both codecs, frozen, each loaded when it is first used.

    Args:
        image: folder of an `AutoencoderKLFlux2`, or such a module.
        text: folder of a Qwen3, its tokenizer in it or in `tokenizer` beside it; or (module, tokenizer).
        dtype: of what is loaded.
        offload: only the part that is at work lies on the device.
    """

    def __init__(
        self,
        image: str | Path | nn.Module,
        text: str | Path | tuple[nn.Module, Any],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        *,
        offload: bool = False,
    ) -> None:
        self.device, self.dtype, self.offload = torch.device(device), dtype, offload
        self._image, self._text = image, text
        self._loaded: dict[str, Any] = {}

    @torch.inference_mode()
    def encode_images(self, pictures: Tensor) -> Tensor:
        """Pictures (B,3,H,W) in 0..1 -> latents (B,128,H/16,W/16) float32."""
        vae = self._at_work("vae")
        cells = vae.encode((2 * pictures.to(self.device).float() - 1).to(vae.dtype)).latent_dist.mean  # (B,32,H/8,W/8)
        mean, deviation = _statistics(vae)
        return self._done("vae", (nn.functional.pixel_unshuffle(cells, 2).float() - mean) / deviation)

    @torch.inference_mode()
    def decode_images(self, latents: Tensor) -> Tensor:
        """Latents (B,128,h,w) -> pictures (B,3,16h,16w) in 0..1, float32."""
        vae = self._at_work("vae")
        mean, deviation = _statistics(vae)
        cells = nn.functional.pixel_shuffle(latents.to(self.device).float() * deviation + mean, 2)
        pictures = (vae.decode(cells.to(vae.dtype)).sample.float() + 1) / 2
        return self._done("vae", pictures.clamp(0, 1))

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(B,512,C)."""
        tokenizer, encoder = self._part("tokenizer"), self._at_work("encoder")
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
        return self._done("encoder", torch.cat([states[layer] for layer in QWEN_LAYERS], dim=-1))

    def _at_work(self, name: str) -> nn.Module:
        return self._part(name).to(self.device)

    def _done(self, name: str, result: Tensor) -> Tensor:
        if self.offload:
            self._part(name).to("cpu")
        return result

    def _part(self, name: str) -> Any:
        if name not in self._loaded:
            part = {"vae": self._load_vae, "encoder": self._load_encoder, "tokenizer": self._load_tokenizer}[name]()
            self._loaded[name] = part.eval().requires_grad_(False) if isinstance(part, nn.Module) else part
        return self._loaded[name]

    def _load_vae(self) -> nn.Module:
        if isinstance(self._image, nn.Module):
            return self._image
        try:
            from diffusers import AutoencoderKLFlux2
        except ImportError as error:
            raise ImportError("FLUX.2's autoencoder needs diffusers 0.36 or newer: pip install diffusers") from error
        return AutoencoderKLFlux2.from_pretrained(self._image, torch_dtype=self.dtype)

    def _load_encoder(self) -> nn.Module:
        if isinstance(self._text, tuple):
            return getattr(self._text[0], "model", self._text[0])
        from transformers import AutoModel

        model = AutoModel.from_pretrained(self._text, dtype=self.dtype)
        # One layer more than is read, since the state after a model's last layer is normalised.
        model.layers = model.layers[: QWEN_LAYERS[-1] + 1]
        return model

    def _load_tokenizer(self) -> Any:
        if isinstance(self._text, tuple):
            return self._text[1]
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ImportError("encoding text for FLUX.2 needs transformers: pip install transformers") from error
        folder = Path(self._text)
        inside = (folder / "tokenizer_config.json").is_file()  # a pipeline keeps it in a folder beside
        return AutoTokenizer.from_pretrained(folder if inside else folder.parent / "tokenizer")


def _statistics(vae: nn.Module) -> tuple[Tensor, Tensor]:
    mean, variance = (x.view(1, -1, 1, 1).float() for x in (vae.bn.running_mean, vae.bn.running_var))
    return mean, (variance + vae.config.batch_norm_eps).sqrt()
