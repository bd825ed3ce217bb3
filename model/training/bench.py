"""What the trainer's features cost: its throughput and peak memory beside a plain loop, in one run.

The plain loop computes the same losses with the same network and optimiser, and does nothing else: no averaged weights,
no clipping, no exact counts over processes, no seeds per sample, no logs. Both run in processes of their own, which
take short turns, so a machine that slows down slows both; the best turns compare the loops themselves.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from .config import Config

WARM_UP_STEPS = 3


@dataclass
class Figures:
    """Seconds of each turn, and the peak of memory in bytes."""

    seconds: list[float]
    memory: int


def bench(config: Config, *, steps: int = 4, turns: int = 15) -> str:
    """Measure; returns a table. `steps` in each of `turns` turns."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        quiet = replace(
            config.log, progress=False, tensorboard=False, checkpoint_every=0, samples_every=0, evaluate_every=0
        )
        longer = replace(config.training, steps=WARM_UP_STEPS + steps * turns)
        config = replace(config, output=folder, log=quiet, training=longer)
        loops = {"plain loop": _Loop(context, _plain, config), "trainer": _Loop(context, _trainer, config)}
        for loop in loops.values():
            loop.run(WARM_UP_STEPS)
        seconds = {name: [] for name in loops}
        for _ in range(turns):
            for name, loop in loops.items():
                seconds[name].append(loop.run(steps))
        figures = {name: Figures(seconds[name], loop.close()) for name, loop in loops.items()}
    return _table(figures, steps * config.training.batch)


class _Loop:
    """A training loop in another process."""

    def __init__(self, context: Any, function: Any, config: Config) -> None:
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=function, args=(config, end))
        self.process.start()

    def run(self, steps: int) -> float:
        """Seconds of this many steps."""
        self.pipe.send(steps)
        return self.pipe.recv()

    def close(self) -> int:
        """End it; its peak of memory in bytes."""
        self.pipe.send(0)
        memory = self.pipe.recv()
        self.process.join()
        return memory


def _trainer(config: Config, pipe: Connection) -> None:
    from .logs import RunLog
    from .parallel import open_accelerator
    from .trainer import Trainer

    trainer = Trainer(config, open_accelerator(config.training))
    log = RunLog(trainer.folder, config.log, 0, config.training.steps, True)
    batches, held_out = trainer.batches(0), trainer.open_held_out()
    _serve(lambda number: trainer.iterate(number, batches, log, held_out), pipe, trainer.accelerator.device)


def _plain(config: Config, pipe: Connection) -> None:
    from .assembly import build_model, open_encoding, open_source
    from .from_text_to_image import load_text_to_image, trainable_parameters
    from .level_sampling import TaskMixture, draw_levels
    from .losses import LossWeights, joint_loss, text_to_image_loss
    from .parallel import cast_inputs_to_weights

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = open_source(config.data, device)
    encoding = open_encoding(config, source, device)
    joint, recipe, size = config.stage == "post_train", config.recipe, config.training.batch
    module = build_model(config, encoding.null_text.shape[-1]).to(device)
    module.gradient_checkpointing = config.training.gradient_checkpointing
    trained = trainable_parameters(module, config.model.freeze_image and joint)
    optimiser = torch.optim.AdamW(trained.values(), lr=config.optimiser.learning_rate)
    dtype, teacher = getattr(torch, config.training.precision), None
    if recipe.distill_weight > 0:
        teacher = cast_inputs_to_weights(load_text_to_image(config.model.source, dtype, device).requires_grad_(False))
    weights = LossWeights(
        recipe.rgb_weight, recipe.depth_weight, recipe.distill_weight, recipe.distill_high, recipe.distill_low
    )
    mixture = TaskMixture(recipe.image_to_depth, recipe.depth_to_image, recipe.mu)

    def step(number: int) -> None:
        count = source.counts[0]
        first = number * size
        items = range(first, first + size) if count is None else torch.randint(count, (size,)).tolist()
        batch = encoding.to_latents(source.stack(source.load(0, items), [False] * size))
        levels = draw_levels(size, mixture, device=device)
        noise_rgb, noise_depth = torch.randn_like(batch.rgb), torch.randn_like(batch.depth)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            if joint:
                loss = joint_loss(module, batch, levels, noise_rgb, noise_depth, weights, teacher).total
            else:
                loss = text_to_image_loss(module, batch, levels.t_rgb, noise_rgb).total
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    _serve(step, pipe, device)


def _serve(step: Any, pipe: Connection, device: torch.device) -> None:
    """Run as many steps as the other end asks for, until it asks for none."""
    number = 0
    while count := pipe.recv():
        _wait(device)
        started = time.perf_counter()
        for _ in range(count):
            step(number)
            number += 1
        _wait(device)
        pipe.send(time.perf_counter() - started)
    if device.type == "cuda":
        pipe.send(torch.cuda.max_memory_allocated())
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _table(figures: dict[str, Figures], samples: int) -> str:
    lines = ["| | samples/s, median of turns | best turn | peak memory MiB |", "|---|---|---|---|"]
    rates = {name: sorted(samples / seconds for seconds in found.seconds) for name, found in figures.items()}
    for name, found in figures.items():
        median, best = rates[name][len(rates[name]) // 2], rates[name][-1]
        lines.append(f"| {name} | {median:.1f} | {best:.1f} | {found.memory / 2**20:.0f} |")
    plain, trainer = rates["plain loop"], rates["trainer"]
    middle = len(plain) // 2
    memory = figures["trainer"].memory / figures["plain loop"].memory
    lines.append(
        f"| trainer / plain | {trainer[middle] / plain[middle]:.3f} | {trainer[-1] / plain[-1]:.3f} | {memory:.3f} |"
    )
    return "\n".join(lines)
