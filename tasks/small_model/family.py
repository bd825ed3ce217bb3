"""The small models' family: every run behind docs/small_model/report.md, with what it changes in a configuration.

`python -m tasks.small_model family` does the runs that are missing, one after the other; an interrupted one goes on.
"""

import argparse
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...model.training.trainer import FINAL
from .. import ROOT

LOG = logging.getLogger(__name__)
CONFIGS = ROOT / "model" / "training" / "configs"
SMALL = Path(".run/training/small")  # from the repository's root, as the configurations have it
FAMILY = SMALL / "family"
HEADS = {64: 2, 96: 3, 128: 4}  # by the width of the network
BLOCKS = ("model.double_blocks=2", "model.single_blocks=4")  # as text-to-image has them, for runs without it
COMPARED = 96  # the width on which the variants of the recipe are compared
# Short runs, with the learning rate brought down to nothing in each, and no minute of compiling.
COMMON = ("optimiser.decay_share=0.4", "optimiser.final_share=0.02", "training.compile=false", "log.samples_every=0")
TEXT_TO_IMAGE = (*COMMON, "training.steps=500")
POST = (*COMMON, "training.steps=600", "log.evaluate_every=0")


@dataclass(frozen=True)
class Run:
    """One training run: a name, the configuration it starts from, and its changes."""

    name: str
    config: str
    changes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return FAMILY / self.name

    @property
    def file(self) -> Path:
        """The finished model."""
        return self.folder / FINAL

    @property
    def arguments(self) -> list[str]:
        """Of `python -m model.training`."""
        sets = [part for change in (f"output={self.folder.as_posix()}", *self.changes) for part in ("--set", change)]
        return ["train", str(CONFIGS / f"{self.config}.toml"), *sets]


def runs() -> Iterator[Run]:
    """All runs, each after those whose models it starts from."""
    for width, heads in HEADS.items():
        sizes = (f"model.hidden_size={width}", f"model.num_heads={heads}")
        yield Run(f"t2i_{width}", "small_t2i", (*TEXT_TO_IMAGE, *sizes))
        yield Run(f"post_{width}", "small_post", (*POST, _source(width)))
        yield Run(f"scratch_{width}", "small_post", (*POST, *sizes, *BLOCKS, "model.source="))
    sparse = f"data.path={(SMALL / 'latents_sparse').as_posix()}"
    yield Run(f"sparse_{COMPARED}", "small_post", (*POST, _source(COMPARED), sparse))
    yield Run(f"distill_{COMPARED}", "small_post", (*POST, _source(COMPARED), "recipe.distill_weight=1.0"))


def train_family(only: list[str] | None = None) -> None:
    """Do the missing runs, each in a process of its own. Raises CalledProcessError where one fails."""
    for run in runs():
        if (only and run.name not in only) or run.file.exists():
            continue
        LOG.info("%s: python -m model.training %s", run.name, " ".join(run.arguments))
        subprocess.run([sys.executable, "-m", "model.training", *run.arguments], cwd=ROOT, check=True)


def _source(width: int) -> str:
    return f"model.source={(FAMILY / f't2i_{width}' / FINAL).as_posix()}"


def main(arguments: list[str]) -> int:
    """Do the missing runs; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.small_model family", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="RUN", help="by name; all if none is given")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train_family(parser.parse_args(arguments).only)
    return 0
