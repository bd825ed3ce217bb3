"""What a run writes while it goes on: curve.jsonl, TensorBoard events, a progress bar, and the program's log."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from .config import LogSection
from .evaluation import Row

LOG = logging.getLogger(__name__)
CURVE = "curve.jsonl"


class RunLog:
    """Writes to a run's folder; on other processes than the main one it does nothing.

    Args:
        first: step the run starts at; lines of later steps, from a run that was killed, are taken out of the curve.
    """

    def __init__(self, folder: Path, section: LogSection, first: int, steps: int, main: bool) -> None:
        self.main, self._writer, self._bar = main, None, None
        self._started, self._samples, self._done = time.monotonic(), 0, first
        if not main:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._curve = folder / CURVE
        _forget_after(self._curve, first)
        if section.tensorboard:
            self._writer = _tensorboard(folder / "tensorboard", first)
        if section.progress:
            self._bar = _progress_bar(first, steps)

    def step(self, samples: int) -> None:
        """One step with this many samples is done."""
        self._samples += samples
        self._done += 1
        if self._bar is not None:
            self._bar.update(1)

    def losses(self, step: int, values: dict[str, float]) -> None:
        """Mean losses since the last call, with the throughput since then."""
        if not self.main:
            return
        now = time.monotonic()
        values = {**values, "samples_per_s": self._samples / max(1e-9, now - self._started)}
        self._started, self._samples = now, 0
        self._write({"step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}})
        for name, value in values.items():
            if self._writer is not None:
                self._writer.add_scalar(f"train/{name}", value, step)
        if self._bar is not None:
            shown = ("rgb", "depth", "distill", "samples_per_s")
            self._bar.set_postfix({name: f"{values[name]:.3g}" for name in shown if values.get(name)}, refresh=False)

    def evaluation(self, step: int, rows: list[Row]) -> None:
        """Image -> depth errors on held-out pictures."""
        if not self.main:
            return
        table = {row.name: {"abs_rel": round(row.abs_rel, 5), "delta1": round(row.delta1, 5)} for row in rows}
        self._write({"step": step, "image_to_depth": table})
        for row in rows:
            LOG.info("step %d, %s: AbsRel %.2f %%, δ1 %.1f %%", step, row.name, 100 * row.abs_rel, 100 * row.delta1)
            if self._writer is not None:
                self._writer.add_scalar(f"abs_rel/{row.name}", row.abs_rel, step)
                self._writer.add_scalar(f"delta1/{row.name}", row.delta1, step)

    def sheet(self, step: int, picture: Tensor) -> None:
        """A sample sheet (3,H,W) in 0..1."""
        if self._writer is not None:
            self._writer.add_image("samples", picture.numpy(), step)

    def unusable(self, found: list[tuple[str, str]]) -> None:
        """Samples that were skipped, by name."""
        for name, reason in found:
            LOG.warning("skipped %s: %s", name, reason)

    def skipped(self, counts: dict[str, int]) -> None:
        """How many samples were skipped in the whole run, by reason."""
        if self.main:
            self._write({"step": self._done, "skipped": counts})

    def pause(self) -> None:
        """What follows (saving, sampling) is not training time."""
        self._paused = time.monotonic()

    def go_on(self) -> None:
        """Training continues after `pause`."""
        self._started += time.monotonic() - self._paused

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._bar is not None:
            self._bar.close()

    def _write(self, entry: dict[str, Any]) -> None:
        with self._curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read_curve(folder: str | Path) -> list[dict[str, Any]]:
    """The entries of a run's curve.jsonl, in order. Lines that are damaged are left out, and the log says how many."""
    path = Path(folder) / CURVE
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = [entry for entry in map(_entry, lines) if entry is not None]
    if len(entries) < len(lines):
        LOG.warning("%s: left out %d damaged lines of %d", path, len(lines) - len(entries), len(lines))
    return entries


def _entry(line: str) -> dict[str, Any] | None:
    """A line of the curve, or None where it is none: cut short when a run was killed, or damaged since."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and type(entry.get("step")) is int else None


def _forget_after(curve: Path, step: int) -> None:
    """Drop what a killed run wrote after its last checkpoint: it is about to be written again."""
    if not curve.exists():
        return
    kept = [entry for entry in read_curve(curve.parent) if entry["step"] <= step]
    part = curve.with_suffix(".part")
    part.write_text("".join(f"{json.dumps(entry)}\n" for entry in kept), encoding="utf-8")
    part.replace(curve)


def _tensorboard(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("logging needs tensorboard: pip install tensorboard, or log.tensorboard = false") from error
    return SummaryWriter(str(folder), purge_step=first)


def _progress_bar(first: int, steps: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("the progress bar needs tqdm: pip install tqdm, or log.progress = false") from error
    return tqdm(total=steps, initial=first, unit="step", dynamic_ncols=True, mininterval=1.0)
