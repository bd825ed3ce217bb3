"""Held-out pictures while a run goes on: image -> depth errors, and sheets of samples to look at."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ..depth.codec import decode
from ..depth.pictures import depth_picture
from ..diffusion.sampling import sample
from ..diffusion.schedule import base_levels
from .assembly import Encoding, open_source
from .codecs import depth_codes
from .config import Config
from .data import RawBatch, Size, UnusableSample
from .evaluation import MIN_CODE, Row, Tally, baseline_errors, image_to_depth_errors
from .latent_store import StoredBatch
from .losses import LatentBatch

HEADER_PX = 14  # of the lines that say what a row of a sheet shows
CELL_PX = 128
SHEETS = "samples"
ROWS = ("image", "depth", "image → depth", "depth → image", "joint: image", "joint: depth")


class HeldOut:
    """Held-out samples as latents, encoded once. Empty where the configuration asks for neither errors nor sheets.

    Several processes share the work: each holds and computes every `processes`-th batch, beginning with its own number.

    Args:
        sizes: of the training pictures; held-out scenes have the first of them.
        folder: of the run, for its sheets; None: write none, on processes other than the main one.
    """

    def __init__(
        self,
        config: Config,
        encoding: Encoding,
        sizes: list[Size],
        folder: Path | None,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.config, self.encoding, self.sizes, self.folder = config, encoding, sizes, folder
        self.process, self.processes = process, processes
        self.batches: list[LatentBatch] = []  # of this process, on the CPU
        self._numbers: list[int] = []  # of their first samples
        self.count = 0  # samples asked for, of all processes
        self.captions: list[str] = []  # of the sheet
        self._shown: LatentBatch | None = None  # the first batch of all, for the sheet
        self._baselines: Tally | None = None
        if config.log.samples_every or config.log.evaluate_every:
            self._load()

    def evaluate(self, module: nn.Module, runs: int = 1) -> list[Row]:
        """Image -> depth with the empty prompt, beside the constant and the planes; `runs` samples of each picture."""
        if self.config.stage != "post_train":
            return []
        section, null = self.config.evaluation, self.encoding.null_text
        if self._baselines is None:
            self._baselines = self._of_all([baseline_errors(batch) for batch in self.batches])
        options = {"runs": runs, "seed": self.config.seed, "max_code": section.max_code}
        found = []
        for turn in range(self._turns):
            # A process without a batch computes along: sharded weights are gathered by all of them together.
            idle = turn >= len(self.batches)
            batch = self._moved(self._shown if idle else self.batches[turn])
            batch = replace(batch, context=null.expand(len(batch.rgb), -1, -1))
            first = 0 if idle else self._numbers[turn]
            errors = image_to_depth_errors(module, batch, section.steps, first=first, **options)
            if not idle:
                found.append(errors)
        tally = Tally()
        tally.merge(self._baselines)
        tally.merge(self._of_all(found))
        return tally.rows()

    def _of_all(self, mine: list[Tally]) -> Tally:
        """The errors of all processes together."""
        tally = Tally()
        for each in mine:
            tally.merge(each)
        if self.processes == 1:
            return tally
        from accelerate.utils import gather_object

        whole = Tally()
        for each in gather_object([tally]):
            whole.merge(each)
        return whole

    def _moved(self, batch: LatentBatch) -> LatentBatch:
        return LatentBatch(*(x.to(self.encoding.device) for x in vars(batch).values()))

    def sheet(self, module: nn.Module, step: int) -> Tensor:
        """Sample the tasks on the first held-out samples into samples/step-<step>.png; returns it, (3,H,W) in 0..1."""
        section = self.config.evaluation
        columns = min(section.sheet_columns, len(self._shown.rgb))
        batch = self._moved(LatentBatch(*(x[:columns] for x in vars(self._shown).values())))
        rows = self._joint_rows(module, batch) if self.config.stage == "post_train" else self._image_rows(module, batch)
        picture = contact_sheet(rows, self.captions[:columns])
        if self.folder is not None:
            (self.folder / SHEETS).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(self.folder / SHEETS / f"step-{step:08d}.png")
        return torch.from_numpy(picture).permute(2, 0, 1) / 255

    def _load(self) -> None:
        section, data, device = self.config.evaluation, self.config.data, self.encoding.device
        kind = data.kind if section.path else "scenes"
        options = replace(data, kind=kind, sizes=tuple(self.sizes), workers=0)
        source = open_source(options, device, path=section.path, heldout=True)
        bucket = int(np.argmax([count or 1 for count in source.counts]))
        available = source.counts[bucket]
        self.count = section.count if available is None else min(section.count, available)
        starts = range(0, self.count, section.batch)
        self._turns = -(-len(starts) // self.processes)
        for number, first in enumerate(starts):
            mine = number % self.processes == self.process
            if not mine and self._shown is not None:
                continue
            loaded = source.load(bucket, range(first, min(first + section.batch, self.count)))
            good = [s for s in loaded if not isinstance(s, UnusableSample)]
            if not good:
                continue
            batch = source.stack(good, [False] * len(good))
            latents = self._encoded(batch)
            if self._shown is None:
                self._shown, self.captions = latents, getattr(batch, "captions", [])
            if mine:
                self.batches.append(latents)
                self._numbers.append(first)
        if self._shown is None:
            raise ValueError(f"none of {self.count} held-out samples can be used; check evaluation.path")

    def _encoded(self, batch: RawBatch | StoredBatch) -> LatentBatch:
        latents = self.encoding.to_latents(batch)
        if isinstance(batch, RawBatch):  # the truth is not capped
            latents = replace(latents, depth=depth_codes(batch.depth.to(self.encoding.device), 2.0))
        return LatentBatch(*(x.cpu() for x in vars(latents).values()))

    def _image_rows(self, module: nn.Module, batch: LatentBatch) -> dict[str, Tensor]:
        """Text-to-image: Euler on the RGB level alone."""
        noise = _noise(batch.rgb, self.config.seed)
        latent = sample_text_to_image(
            module,
            noise,
            batch.context,
            self.encoding.null_text,
            steps=self.config.evaluation.sheet_steps,
            cfg=self.config.evaluation.sheet_guidance,
            mu=self.config.recipe.mu,
        )
        return {"image": self._picture(batch.rgb), "text → image": self._picture(latent)}

    def _joint_rows(self, module: nn.Module, batch: LatentBatch) -> dict[str, Tensor]:
        section, seed, null = self.config.evaluation, self.config.seed, self.encoding.null_text
        rgb_noise, depth_noise = _noise(batch.rgb, seed), _noise(batch.depth, seed + 1)
        options = {"steps": section.sheet_steps, "mu": self.config.recipe.mu}
        guided = {**options, "cfg": section.sheet_guidance}
        empty = null.expand(len(batch.rgb), -1, -1)
        _, found = sample(module, batch.rgb, depth_noise, empty, None, mode="i2d", **options)
        # Nothing is known beyond the data's cap: the model has never seen a code above it.
        given = batch.depth.clamp(max=self.encoding.far_code)
        image, _ = sample(module, rgb_noise, given, batch.context, null, mode="d2i", **guided)
        both = sample(module, rgb_noise, depth_noise, batch.context, null, mode="joint", log2_alpha=5.0, **guided)
        pictures = (batch.rgb, batch.depth, found, image, *both)
        draw = (self._picture, self._depth, self._depth, self._picture, self._picture, self._depth)
        return {name: show(latent) for name, show, latent in zip(ROWS, draw, pictures, strict=True)}

    def _picture(self, latent: Tensor) -> Tensor:
        return self.encoding.codecs.decode_images(latent).permute(0, 2, 3, 1).float().cpu()

    def _depth(self, latent: Tensor) -> Tensor:
        code = latent.float().cpu().clamp(min=MIN_CODE, max=self.config.evaluation.max_code)
        return depth_picture(*decode(code), mapping="disparity", colour_map="spectral", invalid_colour="black")


@torch.inference_mode()
def sample_text_to_image(
    module: nn.Module, noise: Tensor, context: Tensor, null_context: Tensor, *, steps: int, cfg: float, mu: float
) -> Tensor:
    """Euler on the RGB level with guidance, without depth tokens: for the text-to-image stage."""
    dtype = module.img_in.weight.dtype
    t = base_levels(steps, mu).to(noise.device)
    texts = [context, null_context.expand(len(noise), -1, -1)]
    x = noise.float()
    for i in range(steps):
        level = t[i].expand(len(x))
        of_text, of_empty = (module(x.to(dtype), None, text.to(dtype), level)[0].float() for text in texts)
        x = x + (t[i + 1] - t[i]) * (of_empty + cfg * (of_text - of_empty))
    return x


def contact_sheet(rows: dict[str, Tensor], captions: list[str]) -> np.ndarray:
    """Rows of pictures (B,H,W,3) in 0..1 under their names; captions below. Returns (H,W,3) uint8."""
    strips = []
    for name, pictures in rows.items():
        cells = [_cell(picture) for picture in pictures]
        strip = np.concatenate(cells, axis=1)
        strips += [_line([name], strip.shape[1]), strip]
    width = strips[0].shape[1]
    lines = [_line([f"{i + 1}. {caption}"], width) for i, caption in enumerate(captions)]
    return np.concatenate([*strips, *lines])


def _cell(picture: Tensor) -> np.ndarray:
    """A picture (H,W,3) at most CELL_PX high or larger as it is, enlarged without smoothing."""
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    factor = max(1, CELL_PX // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _line(texts: list[str], width: int) -> np.ndarray:
    image = Image.new("RGB", (width, HEADER_PX), "white")
    ImageDraw.Draw(image).text((3, 1), "  ".join(texts).replace("→", "->"), fill="black")
    return np.asarray(image)


def _noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.device)
