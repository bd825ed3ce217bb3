"""Modality Forcing without ComfyUI: pictures, depth and prompts in, pictures and depth out.

    from model.pipeline import Pipeline
    pipeline = Pipeline.flux2("modality_forcing.safetensors", "FLUX.2-klein-base-9B", device="cuda", offload=True)
    depth, valid = pipeline.image_to_depth(picture)      # (B,H,W,3) in 0..1 -> (B,H,W)

diffusers and transformers are loaded by `Pipeline.flux2` when they are first used; the small bundled model needs
neither. A sample's noise depends on its seed alone, so samples do not change with what is computed beside them.
Letters: B samples, H and W pixels (multiples of 16), L tokens, C text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .demo.image_codec import ImageCodec
from .demo.text import TextEncoder
from .depth.codec import decode, encode
from .diffusion.levels import add_noise, fill_holes
from .diffusion.sampling import sample
from .diffusion.schedule import DEFAULT_LOG2_ALPHA, DEFAULT_MU, DEFAULT_STEPS, base_levels
from .flux2_codecs import Flux2Codecs
from .network.checkpoint import load_transformer
from .network.config import DEPTH_PATCH

DEFAULT_GUIDANCE = 4.0
Progress = Callable[[int, int], None]  # (steps done, steps in all)


class Codecs(Protocol):
    """Between pictures and prompts and what the transformer takes."""

    def encode_images(self, pictures: Tensor) -> Tensor:
        """(B,3,H,W) in 0..1 -> (B,128,H/16,W/16)."""

    def decode_images(self, latents: Tensor) -> Tensor:
        """The other way."""

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(B,L,C)."""


class SmallCodecs:
    """Those of the small models, from the folder of one."""

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        self._image = ImageCodec.load(Path(folder) / "image_codec.safetensors", device)
        self._text, self._device = TextEncoder.load(Path(folder) / "words.json"), device

    @torch.inference_mode()
    def encode_images(self, pictures: Tensor) -> Tensor:
        return self._image.encode(pictures.to(self._device).float())

    @torch.inference_mode()
    def decode_images(self, latents: Tensor) -> Tensor:
        return self._image.decode(latents.to(self._device).float()).clamp(0, 1)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return self._text.encode(prompts).to(self._device)


@dataclass(frozen=True)
class Sample:
    """image (B,H,W,3) in 0..1, depth (B,H,W) of mean about 1, valid (B,H,W) bool: where depth is known; on the CPU."""

    image: Tensor
    depth: Tensor
    valid: Tensor


class Pipeline:
    """Joint sampling, image -> depth and depth -> image.

    Args:
        transformer: a `ModalityForcingTransformer` in bfloat16 or float32.
        codecs: those that it was trained with.
        device: where the transformer computes.
        offload: the transformer lies on the device only while it is at work.
        at_once: samples computed together at most.
    """

    def __init__(
        self,
        transformer: nn.Module,
        codecs: Codecs,
        device: torch.device | str = "cpu",
        *,
        offload: bool = False,
        at_once: int = 4,
    ) -> None:
        self.transformer, self.codecs, self.device = transformer.eval(), codecs, torch.device(device)
        self.offload, self.at_once = offload, at_once
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def flux2(
        cls,
        checkpoint: str | Path,
        folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        *,
        offload: bool = False,
        at_once: int = 4,
    ) -> "Pipeline":
        """From a checkpoint and a diffusers folder of FLUX.2-klein, with `vae`, `text_encoder` and `tokenizer` in it.

        Raises CheckpointError, or OSError where the folder lacks a part.
        """
        codecs = Flux2Codecs(Path(folder) / "vae", Path(folder) / "text_encoder", device, dtype, offload=offload)
        transformer = load_transformer(checkpoint, dtype, "cpu" if offload else device)
        return cls(transformer, codecs, device, offload=offload, at_once=at_once)

    @classmethod
    def small(cls, checkpoint: str | Path, device: torch.device | str = "cpu", *, at_once: int = 16) -> "Pipeline":
        """From a small model's checkpoint, with its image codec and word list beside it."""
        codecs = SmallCodecs(Path(checkpoint).parent, device)
        return cls(load_transformer(checkpoint, device=device), codecs, device, at_once=at_once)

    def joint(
        self,
        prompts: str | Sequence[str],
        height: int = 512,
        width: int = 512,
        *,
        steps: int = DEFAULT_STEPS,
        guidance: float = DEFAULT_GUIDANCE,
        log2_alpha: float = DEFAULT_LOG2_ALPHA,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Sample:
        """Pictures and their depth from prompts; sample i has the noise of seed + i.

        `log2_alpha`: how much longer depth stays noisy than the picture (0: as long).
        """
        prompts = _listed(prompts)
        h, w = _cells(height, width)
        noise = self._noise(range(seed, seed + len(prompts)), h, w)
        options = {"steps": steps, "mode": "joint", "cfg": guidance, "log2_alpha": log2_alpha}
        rgb, depth = self._sampled(*noise, prompts, options, progress)
        return Sample(self._pictures(rgb), *decode(depth))

    def image_to_depth(
        self,
        images: Tensor,
        prompts: str | Sequence[str] = "",
        *,
        steps: int = DEFAULT_STEPS,
        guidance: float = 1.0,
        seed: int = 0,
        solver: str = "euler",
        progress: Progress | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`solver`: "euler" or "heun" (`diffusion.sampling`).

        Returns depth (B,H,W), whose scale is not known, and where it is valid, of pictures (B,H,W,3) in 0..1."""
        options = {"steps": steps, "guidance": guidance, "seed": seed, "solver": solver, "progress": progress}
        estimate = self.depth_estimator(prompts, **options)
        return decode(estimate(images, estimate.noise(*images.shape[:3])))

    def depth_to_image(
        self,
        depth: Tensor,
        prompts: str | Sequence[str],
        *,
        valid: Tensor | None = None,
        strength: float = 1.0,
        steps: int = DEFAULT_STEPS,
        guidance: float = DEFAULT_GUIDANCE,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Tensor:
        """Pictures (B,H,W,3) in 0..1 of depth (B,H,W), any scale; what is not finite, above 0 and valid is unknown.

        `strength`: 1 keeps the depth, below 1 it is given with noise (above 0).
        """
        prompts = _listed(prompts, len(depth))
        codes = encode(depth, valid).to(self.device)
        rgb, noise = self._noise(range(seed, seed + len(codes)), *codes.shape[2:])
        options = {"steps": steps, "mode": "d2i", "cfg": guidance, "strength": strength}
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)  # of the noise on depth that is given in part
            rgb, _ = self._sampled(rgb, fill_holes(codes, noise), prompts, options, progress)
        return self._pictures(rgb)

    def depth_estimator(self, prompts: str | Sequence[str] = "", **options: Any) -> "DepthEstimator":
        """Image -> depth as `model.depth` takes it for ensembles, tiles and clips. Options as of `image_to_depth`."""
        return DepthEstimator(self, prompts, **options)

    def _sampled(
        self, rgb: Tensor, depth: Tensor, prompts: list[str], options: dict[str, Any], progress: Progress | None
    ) -> tuple[Tensor, Tensor]:
        """Latents on the CPU; as many samples together as `at_once` says."""
        texts = self._encoded(prompts)
        null = self._encoded([""]) if options["cfg"] != 1 else None
        steps, first = options["steps"], options.get("first_step", 0)
        starts, found = range(0, len(rgb), self.at_once), []
        transformer = self.transformer.to(self.device)
        for number, start in enumerate(starts):
            part = slice(start, start + self.at_once)

            def report(done: int, before: int = number * (steps - first)) -> None:
                if progress is not None:
                    progress(before + done - first, len(starts) * (steps - first))

            sampled = sample(transformer, rgb[part], depth[part], texts[part], null, on_step=report, **options)
            found.append([x.cpu() for x in sampled])
        if self.offload:
            self.transformer.to("cpu")
        rgb, depth = (torch.cat(parts) for parts in zip(*found, strict=True))
        return rgb, depth

    def _encoded(self, prompts: list[str]) -> Tensor:
        """(B,L,C); each prompt is encoded once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._texts]
        if new:
            self._texts.update(zip(new, self.codecs.encode_text(new).to(self.device), strict=True))
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def _pictures(self, rgb: Tensor) -> Tensor:
        parts = [self.codecs.decode_images(part).float().cpu() for part in rgb.split(self.at_once)]
        return torch.cat(parts).permute(0, 2, 3, 1)

    def _noise(self, seeds: Sequence[int], h: int, w: int) -> tuple[Tensor, Tensor]:
        """RGB's and depth's of each seed, drawn on the CPU: the same on every device."""
        config = self.transformer.config
        channels = config.rgb_channels, config.depth_channels
        drawn = [torch.randn(sum(channels), h, w, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(drawn).to(self.device).split(channels, dim=1)


@dataclass(frozen=True)
class DepthEstimator:
    """A `model.depth.estimate.Estimator` that runs a pipeline."""

    pipeline: Pipeline
    prompts: str | Sequence[str] = ""
    _: KW_ONLY
    steps: int = DEFAULT_STEPS
    guidance: float = 1.0
    seed: int = 0
    solver: str = "euler"
    progress: Progress | None = None

    def noise(self, count: int, height: int, width: int) -> Tensor:
        """(count,256,height/16,width/16)."""
        return self.pipeline._noise(range(self.seed, self.seed + count), *_cells(height, width))[1].cpu()

    def __call__(self, pictures: Tensor, noise: Tensor, start: Tensor | None = None, denoise: float = 1.0) -> Tensor:
        """Codes (B,256,H/16,W/16) of pictures (B,H,W,3) in 0..1; see `Estimator`."""
        pipeline, device = self.pipeline, self.pipeline.device
        _cells(*pictures.shape[1:3])
        parts = pictures.permute(0, 3, 1, 2).split(pipeline.at_once)
        rgb = torch.cat([pipeline.codecs.encode_images(part).to(device) for part in parts])
        first = self.steps - max(1, round(denoise * self.steps))
        if start is not None:
            level = base_levels(self.steps, DEFAULT_MU)[first].expand(len(noise))
            noise = add_noise(start.float().cpu(), noise.cpu(), level)
        options = {"steps": self.steps, "mode": "i2d", "cfg": self.guidance, "first_step": first, "solver": self.solver}
        prompts = _listed(self.prompts, len(pictures))
        return pipeline._sampled(rgb, noise.to(device), prompts, options, self.progress)[1]


def _listed(prompts: str | Sequence[str], count: int | None = None) -> list[str]:
    """One prompt for each sample. Raises ValueError for another number of them."""
    if isinstance(prompts, str):
        return [prompts] * (1 if count is None else count)
    if count is not None and len(prompts) != count:
        raise ValueError(f"got {len(prompts)} prompts for {count} samples; expected one for all, or one for each")
    return list(prompts)


def _cells(height: int, width: int) -> tuple[int, int]:
    if min(height, width) < DEPTH_PATCH or height % DEPTH_PATCH or width % DEPTH_PATCH:
        raise ValueError(
            f"got {width} x {height} pixels; expected multiples of {DEPTH_PATCH}: crop or resize (`model.resize`)"
        )
    return height // DEPTH_PATCH, width // DEPTH_PATCH
