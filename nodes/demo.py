"""Loading a small model, bundled or self-trained: its transformer, its words as CLIP and its image codec as VAE.

A small model is a folder with transformer files in the released layout, image_codec.safetensors and words.json.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management as memory
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget
from comfy_api.latest import io
from torch import Tensor

from ..model.demo import CODEC_FILE, WORDS_FILE
from ..model.demo.image_codec import CHANNELS, PATCH, ImageCodec
from ..model.demo.text import TextEncoder
from . import backend
from .models import CATEGORY

log = logging.getLogger("modality_forcing")

FOLDER = "modality_forcing_small"
BUNDLED = Path(__file__).resolve().parent.parent / "model" / "demo" / "weights"
BYTES_PER_PIXEL = 256  # of a float32 encode or decode: some 60 numbers for each pixel of the picture

for _folder in (Path(folder_paths.models_dir) / FOLDER, BUNDLED):
    folder_paths.add_model_folder_path(FOLDER, str(_folder))


class SmallTokenizer:
    """A prompt as core's token lists; the numbers are the word list's. Weights, as in (red:1.2), have no effect."""

    def __init__(self, words: TextEncoder) -> None:
        self.words = words
        self.reported: set[str] = set()

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_kwargs: Any) -> dict[str, list]:
        unknown = [word for word in self.words.unknown_words(text) if word not in self.reported]
        if unknown:
            self.reported.update(unknown)
            log.warning(
                "The small model does not know the words %s and leaves them out. It knows: %s",
                ", ".join(unknown),
                ", ".join(self.words.words),
            )
        numbers = self.words.tokens([text])[0].tolist()
        return {"words": [[(number, 1.0, 0) if return_word_ids else (number, 1.0) for number in numbers]]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class SmallTextModel(torch.nn.Module):
    """What core's CLIP expects of a text encoder's network; this one has no weights."""

    disable_offload = True

    def __init__(self, words: TextEncoder) -> None:
        super().__init__()
        self.words = words
        self.dtypes: set[torch.dtype] = set()

    def set_clip_options(self, _options: dict[str, Any]) -> None:
        """There is none that applies: no layers to skip, no projection."""

    def reset_clip_options(self) -> None:
        """See `set_clip_options`."""

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[Tensor, None]:
        """Tokens of B prompts -> (B,L,C) embedding, and no pooled one."""
        numbers = torch.tensor([[token[0] for token in row] for row in tokens["words"]])
        return self.words.embed(numbers).to(memory.intermediate_device()), None


def small_clip(words: TextEncoder) -> comfy.sd.CLIP:
    """Core's own CLIP object around the word list."""
    target = ClipTarget(tokenizer=lambda **_kwargs: SmallTokenizer(words), clip=lambda **_kwargs: SmallTextModel(words))
    return comfy.sd.CLIP(target)


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
        backend.JOINT_CHANNELS: "This is a joint RGB-D latent: put it through 'Split RGB-D Latent' and decode its rgb.",
        backend.JOINT_CHANNELS - CHANNELS: "This is a depth latent: use 'Decode Depth'.",
    }
    raise ValueError(
        f"got a latent of shape {tuple(samples.shape)}; the small model's VAE decodes {CHANNELS} channels. "
        + hints.get(channels, "It was made with another model's VAE or empty latent.")
    )


class LoadSmall(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]
        return io.Schema(
            node_id="ModalityForcingLoadSmall",
            display_name="Load Small Model",
            category=CATEGORY,
            description="Loads a small model with its word list and its image codec. In a graph it takes "
            "the places of 'Load Modality Forcing Model', 'Load CLIP' and 'Load VAE'.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[name for name in names if Path(name).name != CODEC_FILE],
                    tooltip=f"A transformer file in a folder below models/{FOLDER} that also holds {CODEC_FILE} and "
                    f"{WORDS_FILE}, or the one that comes with this pack.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip", tooltip="Knows a short list of words; others are left out."),
                io.Vae.Output(display_name="vae", tooltip="128 channels at 1/16 of the size, like FLUX.2's."),
            ],
        )

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        path = Path(folder_paths.get_full_path_or_raise(FOLDER, model_name))
        missing = [name for name in (CODEC_FILE, WORDS_FILE) if not (path.parent / name).is_file()]
        if missing:
            raise ValueError(
                f"{path.parent} does not hold {' and '.join(missing)}; a small model is a folder with its transformer, "
                f"{CODEC_FILE} and {WORDS_FILE}. Copy them from where it was trained."
            )
        words = TextEncoder.load(path.parent / WORDS_FILE)
        model = backend.load_model(str(path))
        width = model.model.diffusion_model.config.text_width
        if width != words.width:
            raise ValueError(
                f"{path.name} takes text {width} wide, but the list in {path.parent / WORDS_FILE} gives {words.width}: "
                "these files are not of one training. Copy them together."
            )
        codec = ImageCodec.load(path.parent / CODEC_FILE)
        model.model.latent_format.rgb_preview = _preview_of(ImageCodec.load(path.parent / CODEC_FILE))
        return io.NodeOutput(model, small_clip(words), SmallVAE(codec))


def _preview_of(codec: ImageCodec) -> Callable[[Tensor], Tensor]:
    """Live previews by a second copy of the codec, on the CPU: the VAE's own may be anywhere while a sampler runs."""
    return lambda rgb: 2 * codec.decode(rgb.cpu()) - 1


NODES = [LoadSmall]
