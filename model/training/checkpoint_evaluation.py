"""Image -> depth errors of a finished checkpoint, on the held-out data of a configuration."""

from dataclasses import replace
from pathlib import Path

import torch

from ..network.checkpoint import load_transformer
from .assembly import open_encoding, open_source
from .config import Config
from .evaluation import table
from .samples import SHEETS, HeldOut


def evaluate_checkpoint(config: Config, checkpoint: str | Path, *, runs: int = 1, sheet: bool = False) -> str:
    """A Markdown table, with the settings that it depends on; beside it a sample sheet if asked for.

    Args:
        checkpoint: a file in the released layout.
        runs: samples of each picture; above 1 their mean is compared as well.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = replace(config, log=replace(config.log, evaluate_every=1), data=replace(config.data, workers=0))
    source = open_source(config.data, device)
    folder = Path(checkpoint).parent
    held_out = HeldOut(config, open_encoding(config, source, device), source.sizes, folder)
    module = load_transformer(checkpoint, device=device)
    rows = held_out.evaluate(module, runs)
    section, (height, width) = config.evaluation, held_out.sizes[0]
    about = (
        f"{Path(checkpoint)}: image -> depth with the empty prompt on {held_out.count} "
        f"held-out pictures ({section.path or config.data.difficulty + ' scenes'}), {height} x {width}, codes capped "
        f"at {section.max_code:g}"
    )
    if sheet:
        held_out.sheet(module, 0)
        about += f"; sheet in {folder / SHEETS}"
    return f"{about}\n\n{table(rows)}"
