"""Image -> depth as often as a control needs it, through any of core's guiders, samplers and schedules."""

import copy
from collections.abc import Iterator
from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...model.diffusion.given import Given
from ...model.network.config import DEPTH_PATCH
from .latent_format import JOINT_CHANNELS, PARTS, empty_joint
from .model import given_key

MOST_AT_ONCE = 16  # pictures; more of them save no time
SHARE = 0.8  # of the free memory


class ImageToDepth:
    """A `model.depth.estimate.Estimator` that runs a GUIDER with the picture as its condition.

    Letters: N pictures, H rows, W columns.
    """

    def __init__(
        self, noise: Any, guider: Any, sampler: Any, sigmas: Tensor, vae: Any, *, at_once: int, estimates: int
    ) -> None:
        """at_once: pictures in one run, 0 for what memory holds; estimates: how many there will be, for progress."""
        self.source, self.guider, self.sampler, self.sigmas, self.vae = noise, guider, sampler, sigmas, vae
        self.at_once = at_once
        self.progress = comfy.utils.ProgressBar(estimates)
        self.done = 0

    def noise(self, count: int, height: int, width: int) -> Tensor:
        """(count,384,H/16,W/16) from the NOISE, as SamplerCustomAdvanced would have it for a batch."""
        _check_size(height, width)
        return self.source.generate_noise(empty_joint(count, height // DEPTH_PATCH, width // DEPTH_PATCH))

    def __call__(self, pictures: Tensor, noise: Tensor, start: Tensor | None = None, denoise: float = 1.0) -> Tensor:
        """Codes (N,256,H/16,W/16) of pictures (N,H,W,3); see `Estimator`."""
        _check_size(*pictures.shape[1:3])
        sigmas = self.sigmas[-(max(1, round((len(self.sigmas) - 1) * denoise)) + 1) :]
        parts = self._parts(len(pictures), *noise.shape[-2:])
        return torch.cat([self._run(pictures[p], noise[p], None if start is None else start[p], sigmas) for p in parts])

    def _parts(self, count: int, h: int, w: int) -> Iterator[slice]:
        step = self.at_once or self._memory_holds(h, w)
        return (slice(first, first + step) for first in range(0, count, step))

    def _memory_holds(self, h: int, w: int) -> int:
        """How many pictures fit into the device's free memory beside the model, by core's own estimate."""
        patcher = self.guider.model_patcher
        free = comfy.model_management.get_free_memory(patcher.load_device)
        free -= max(0, patcher.model_size() - patcher.loaded_size())
        each = patcher.model.memory_required([2, JOINT_CHANNELS, h, w])  # 2: with and without text, as core counts
        return int(min(max(1, SHARE * free // each), MOST_AT_ONCE))

    def _run(self, pictures: Tensor, noise: Tensor, start: Tensor | None, sigmas: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        rgb = self.vae.encode(pictures)
        latent = empty_joint(len(pictures), *noise.shape[-2:])["samples"]
        wanted = latent[:, PARTS["rgb"]].shape
        if rgb.shape != wanted:
            raise ValueError(
                f"got a latent of shape {tuple(rgb.shape)} from this VAE; expected {tuple(wanted)}. Connect the FLUX.2 "
                "VAE, or that of 'Load Small Model'"
            )
        if start is not None:
            latent[:, PARTS["depth"]] = start
        guider = _with_picture(self.guider, Given(rgb, None, 1.0, 0.0, 1.0))
        sampled = guider.sample(
            noise,
            latent,
            self.sampler,
            sigmas,
            callback=self._callback(len(pictures)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=self.source.seed,
        )
        self.done += len(pictures)
        return sampled[:, PARTS["depth"]].to(comfy.model_management.intermediate_device())

    def _callback(self, count: int) -> Any:
        """Progress over all estimates, with core's preview of the first picture of this run."""
        patcher, done = self.guider.model_patcher, self.done
        previewer = latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)

        def callback(step: int, x0: Tensor, _x: Tensor, total_steps: int) -> None:
            preview = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
            self.progress.update_absolute(done + count * (step + 1) / total_steps, preview=preview)

        return callback


def _with_picture(guider: Any, given: Given) -> Any:
    """The guider with the picture in all of its conditions; the one that was passed in stays as it is."""
    guider = copy.copy(guider)
    key = given_key("rgb")
    guider.original_conds = {n: [{**cond, key: given} for cond in group] for n, group in guider.original_conds.items()}
    return guider


def _check_size(height: int, width: int) -> None:
    if height % DEPTH_PATCH or width % DEPTH_PATCH:
        raise ValueError(
            f"got a picture of {width} x {height} pixels; expected multiples of {DEPTH_PATCH}. Put it through 'Fit "
            "Image to Model'"
        )
