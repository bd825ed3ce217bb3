"""The training loop: batches in, a checkpoint in the released layout out.

Losses are exact means over all samples of a step, however they are split: each pass divides its sums by the element
counts of the whole step, over all passes and processes. Letters: B samples of a step, over all processes.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..diffusion.levels import per_sample
from ..network.config import RGB_CHANNELS
from . import checkpoints
from .assembly import FINAL, Parts, assemble, save_adapted, save_released
from .config import Config, ConfigError
from .data import Problems, StepBatches
from .level_sampling import Levels, TaskMixture, draw_levels
from .logs import RunLog
from .losses import (
    TERMS,
    LatentBatch,
    Losses,
    LossWeights,
    drop_text,
    joint_loss,
    known_slopes,
    text_to_image_loss,
)
from .optimisation import learning_rate, set_rate
from .order import StepOrder, level_generator, sample_noise
from .samples import HeldOut

LOG = logging.getLogger(__name__)


class Trainer:
    """One run. `run` trains from the last checkpoint in the output folder, or from the start, to the end.

    SIGINT and SIGTERM (what clusters send before they take a node away) end it after the step in progress, with a
    checkpoint; `stopped` then says so.
    """

    def __init__(self, config: Config, accelerator: Any) -> None:
        self.config, self.accelerator = config, accelerator
        self.stopped = False
        self.folder = Path(config.output)
        self.rows = split_rows(config, accelerator.process_index, accelerator.num_processes)
        self.parts: Parts = assemble(config, accelerator)
        self.order = StepOrder(self.parts.source.counts, config.training.batch, config.seed)
        recipe = config.recipe
        self.joint = config.stage == "post_train"
        shares = (recipe.image_to_depth, recipe.depth_to_image) if self.joint else (0.0, 0.0)
        self.mixture = TaskMixture(*shares, mu=recipe.mu)
        self.weights = LossWeights(
            recipe.rgb_weight,
            recipe.depth_weight,
            recipe.distill_weight,
            recipe.distill_high,
            recipe.distill_low,
            recipe.slope_weight,
        )
        if self.joint and recipe.text_to_image > 0 and accelerator.num_processes > 1:
            raise ConfigError(
                f"recipe.text_to_image is {recipe.text_to_image} with {accelerator.num_processes} processes; steps "
                "without depth leave weights without a gradient, which only a single process takes. Set it to 0"
            )
        self.problems = Problems()
        self._signals: set[int] = set()  # received so far
        self._reported = 0  # step of the last report
        self._sums = torch.zeros(2 * len(TERMS) + 1, device=accelerator.device)  # of losses, of counts, of the norm

    def run(self) -> None:
        """Train, log, sample and save."""
        first = self._reported = self._resume()
        log = RunLog(self.folder, self.config.log, first, self.config.training.steps, self.accelerator.is_main_process)
        log.unusable(self.problems.add(self.parts.source.unusable))
        held_out = self.open_held_out()
        before = _catch_signals(self._ask_to_stop)
        try:
            self._train(first, log, held_out)
            self._report_problems(log)
        finally:
            _restore_signals(before)
            log.close()
        if not self.stopped:
            with self.parts.model.averaged(self.parts.averages):
                self._write_result()

    def _write_result(self) -> None:
        if self.config.lora.rank:
            save_adapted(self.parts.model, self.config, self.folder, self.accelerator)
        else:
            save_released(self.parts.model, self.config, self.folder / FINAL, self.accelerator)

    def _report_problems(self, log: RunLog) -> None:
        """The samples that any process skipped, in one list."""
        from accelerate.utils import gather_object

        mine = [(name, reason) for reason, names in self.problems.names.items() for name in names]
        self.problems.add(gather_object(mine))
        if self.problems.names:
            log.skipped(self.problems.counts)
            LOG.warning("data:\n%s", self.problems.report())

    def open_held_out(self) -> HeldOut:
        """The held-out samples; only the main process writes their sheets."""
        at = self.accelerator
        folder = self.folder if at.is_main_process else None
        sizes = self.parts.source.sizes
        return HeldOut(self.config, self.parts.encoding, sizes, folder, at.process_index, at.num_processes)

    def _train(self, first: int, log: RunLog, held_out: HeldOut) -> None:
        batches = self.batches(first)
        for step in range(first, self.config.training.steps):
            self.iterate(step, batches, log, held_out)
            if self.stopped:
                LOG.warning("stopped after step %d; the same command continues from there", step + 1)
                return

    def iterate(self, step: int, batches: Iterator, log: RunLog, held_out: HeldOut) -> None:
        """Step `step`, counted from 0, with the next of `batches(step)`, and whatever is due after it."""
        self.update(step, batches, log)
        done, section = step + 1, self.config.log
        log.step(self.config.training.batch)
        self.report(done, log)
        log.pause()
        if self._due(done, section.checkpoint_every) or self.stopped:
            self._save(done)
        evaluates, samples = self._due(done, section.evaluate_every), self._due(done, section.samples_every)
        if (evaluates or samples) and not self.stopped:
            with self.parts.model.averaged(self.parts.averages):
                if evaluates:
                    log.evaluation(done, held_out.evaluate(self.parts.model.module))
                if samples and (self.parts.model.sharded or self.accelerator.is_main_process):
                    log.sheet(done, held_out.sheet(self.parts.model.module, done))
        log.go_on()

    def update(self, step: int, batches: Iterator, log: RunLog) -> None:
        """One update of the weights."""
        passes = [self._prepare(next(batches), log) for _ in self.rows]
        joint = self.is_joint(step)
        levels, dropped = self._draw(step)
        levels = [_take(levels, rows, self.accelerator.device) for rows in self.rows]
        if not joint:
            passes = [(replace(batch, depth=None), positions) for batch, positions in passes]
        counts = self._counts([batch for batch, _ in passes], levels)
        for turn, ((batch, positions), level) in enumerate(zip(passes, levels, strict=True)):
            drop = dropped[self.rows[turn]].to(batch.rgb.device)
            batch = replace(batch, context=drop_text(batch.context, self.parts.encoding.null_text, drop))
            with self.parts.model.accumulating(last=turn == len(passes) - 1):
                losses = self._losses(batch, level, positions)
                # Gradients are averaged over the processes, the loss is a sum over them.
                (losses.total_over(counts) * self.accelerator.num_processes).backward()
            self._sums[: len(TERMS)] += torch.stack([losses.sums[name].detach() for name in TERMS])
            self._sums[len(TERMS) : -1] += torch.stack([losses.counts[name] for name in TERMS])
        parts, section = self.parts, self.config.optimiser
        parts.model.drop_unread(parts.encoding.codecs.channels)
        self._sums[-1] += parts.model.clip(parts.trained, section.clip)
        rate = learning_rate(step, self.config.training.steps, section)
        for optimiser in parts.optimisers:
            set_rate(optimiser, rate)
            optimiser.step()
            optimiser.zero_grad()
        parts.averages.update(step)

    def is_joint(self, step: int) -> bool:
        """Whether a step trains depth too; `recipe.text_to_image` of those of post-training, evenly spread, do not."""
        share = self.config.recipe.text_to_image
        return self.joint and int((step + 1) * share) == int(step * share)

    def _prepare(self, batch: Any, log: RunLog) -> tuple[LatentBatch, Any]:
        log.unusable(self.problems.add(batch.unusable))
        return self.parts.encoding.to_latents(batch), batch.positions

    def _draw(self, step: int) -> tuple[Levels, Tensor]:
        """Levels and text dropout (1 = dropped) of all B samples of a step."""
        generator = level_generator(self.config.seed, step)
        size, recipe = self.config.training.batch, self.config.recipe
        mixture = self.mixture if self.is_joint(step) else TaskMixture(0.0, 0.0, mu=recipe.mu)
        levels = draw_levels(size, mixture, generator)
        chance = torch.where(levels.rgb_given, recipe.text_dropout_image_to_depth, recipe.text_dropout)
        return levels, (torch.rand(size, generator=generator) < chance).float()

    def _counts(self, batches: list[LatentBatch], levels: list[Levels]) -> dict[str, Tensor]:
        """Elements of each term over the whole step; also agrees with the other processes on whether to stop."""
        counts = torch.zeros(len(TERMS) + 1, device=self.accelerator.device)
        for batch, level in zip(batches, levels, strict=True):
            counts[:-1] += count_elements(batch, level, self.weights, self.parts.encoding.codecs.channels)
        counts[-1] = float(bool(self._signals))
        if self.accelerator.num_processes == 1:
            self.stopped = bool(self._signals)  # without waiting for the device
        else:
            counts = self.accelerator.reduce(counts, reduction="sum")
            self.stopped = bool(counts[-1] > 0)
        return dict(zip(TERMS, counts, strict=False))

    def _losses(self, batch: LatentBatch, levels: Levels, positions: Any) -> Losses:
        device, seed = self.accelerator.device, self.config.seed
        channels = RGB_CHANNELS + (0 if batch.depth is None else batch.depth.shape[1])
        drawn = sample_noise(seed, positions, (channels, *batch.rgb.shape[2:]), device)
        noise = drawn[:, :RGB_CHANNELS], drawn[:, RGB_CHANNELS:]
        training, used = self.parts.model.training, self.parts.encoding.codecs.channels
        if batch.depth is None:
            return text_to_image_loss(training, batch, levels.t_rgb, noise[0], channels=used)
        return joint_loss(training, batch, levels, *noise, self.weights, self.parts.teacher, channels=used)

    def report(self, done: int, log: RunLog) -> None:
        """Mean losses since the last report. Raises FloatingPointError where they are not finite."""
        every = self.config.log.every
        due = self._due(done, every) or self._due(done, self.config.log.checkpoint_every) or self.stopped
        if not due and done != self.config.training.steps:
            return
        since = done - self._reported
        self._reported = done
        sums = self.accelerator.reduce(self._sums, reduction="sum").tolist()
        self._sums.zero_()
        norm = sums[-1] / self.accelerator.num_processes / max(1, since)
        values = {name: s / max(1.0, c) for name, s, c in zip(TERMS, sums, sums[len(TERMS) :], strict=False)}
        if not all(abs(value) < float("inf") for value in (*values.values(), norm)):
            raise FloatingPointError(
                f"the loss is not finite within the last {since} steps before step {done} ({values}, gradient norm "
                f"{norm}). Continue from the last checkpoint with a smaller learning rate or clip."
            )
        rate = learning_rate(done - 1, self.config.training.steps, self.config.optimiser)
        log.losses(done, {**values, "gradient_norm": norm, "learning_rate": rate})

    def _due(self, done: int, every: int) -> bool:
        return every > 0 and (done % every == 0 or done == self.config.training.steps)

    def batches(self, first: int) -> Iterator:
        """What `update` takes its data from, from step `first` on."""
        config = self.config
        data = StepBatches(
            self.parts.source,
            self.order,
            self.rows,
            range(first, config.training.steps),
            config.data.mirror,
            config.seed,
        )
        return iter(DataLoader(data, batch_size=None, num_workers=config.data.workers, worker_init_fn=_ignore_signals))

    def _resume(self) -> int:
        found = checkpoints.newest_whole(self.folder, self.accelerator)
        if found is None:
            return 0
        parts = self.parts
        done = checkpoints.load(found, self.config, parts.model.module, parts.optimisers, parts.averages)
        LOG.info("continuing %s after step %d", found, done)
        return done

    def _save(self, done: int) -> None:
        parts = self.parts
        state = parts.model.module, parts.optimisers, parts.averages
        try:
            checkpoints.save(self.folder, done, self.config, *state, self.accelerator)
        except checkpoints.SaveFailed as error:
            if self.stopped or done == self.config.training.steps:
                raise
            LOG.error("%s. Training goes on, and the next checkpoint is tried when it is due", error)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._signals:
            raise KeyboardInterrupt  # Ctrl-C a second time: at once, without a checkpoint
        self._signals.add(number)


def split_rows(config: Config, process: int, processes: int) -> list[slice]:
    """The samples out of B that a process computes in each pass of a step.

    Raises ConfigError where the batch does not divide.
    """
    batch = config.training.batch
    share = batch // processes
    micro = config.training.micro_batch or share
    if batch % processes or not micro or share % micro:
        raise ConfigError(
            f"training.batch {batch} over {processes} processes in passes of {micro} does not come out even; expected "
            "batch = processes x micro_batch x a whole number"
        )
    start = process * share
    return [slice(first, first + micro) for first in range(start, start + share, micro)]


def count_elements(batch: LatentBatch, levels: Levels, weights: LossWeights, channels: int) -> Tensor:
    """(4,) elements of each of the losses' terms, known before the forward pass: those of modalities not given."""
    of_sample = batch.rgb[0, :channels].numel()
    if batch.depth is None:
        return torch.tensor([len(batch.rgb) * of_sample, 0.0, 0.0, 0.0], device=batch.rgb.device)
    rgb = (~levels.rgb_given).sum() * of_sample
    depth = (~batch.depth.isnan() & per_sample(~levels.depth_given, batch.depth)).sum()
    sloping = known_slopes(batch.depth, levels).sum() if weights.slope > 0 else torch.zeros_like(rgb)
    return torch.stack([rgb, depth, rgb * (weights.distill > 0), sloping]).float()


def _take(levels: Levels, rows: slice, device: torch.device) -> Levels:
    return Levels(**{field.name: getattr(levels, field.name)[rows].to(device) for field in fields(levels)})


def _catch_signals(handler: Any) -> dict[int, Any]:
    """Install the handler; returns what was there. Only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}


def _ignore_signals(worker: int) -> None:
    """Loader processes end when their trainer does; a signal to the whole group must not take them away before."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _restore_signals(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
