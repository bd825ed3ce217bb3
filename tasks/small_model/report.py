"""The figures of the small models, from their files: `python -m tasks.small_model report` prints them as Markdown.

All are on held-out procedural scenes. The family is measured at the size that it was trained at, the shipped model, as
it lies in the pack, at its own.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ...model.demo import CODEC_FILE, WORDS_FILE
from ...model.diffusion.schedule import DEFAULT_MU
from ...model.network.checkpoint import load_transformer
from ...model.training import config as configuration
from ...model.training.assembly import open_encoding, open_source
from ...model.training.config import Config
from ...model.training.evaluation import (
    Row,
    depth_to_image_consistency,
    evaluate_image_to_depth,
    image_drift,
    joint_consistency,
    own_estimator,
    table,
)
from ...model.training.samples import HeldOut
from .. import SMALL_MODEL
from ..workflows.settings import DEPTH_GUIDANCE, DEPTH_STEPS, GUIDANCE, IMAGE_GUIDANCE, SIDE
from ..workflows.settings import STEPS as SAMPLING_STEPS
from .family import COMPARED, CONFIGS, HEADS, runs

LOG2_ALPHAS = (5.0, 0.0, -2.0)  # the orders that "Which Comes First" offers
STEPS, RUNS = (2, DEPTH_STEPS), 4
HELD_OUT, GENERATED = 128, 24  # scenes; those of them that are made for the consistency tables
SHIPPED = f"small_post_{SIDE}.toml"  # its last step
CARD = SMALL_MODEL.parent / "README.md"
BEGIN, END = "<!-- python run.py small_model report shipped -->", "<!-- end of the report -->"
REPORTS = ("family", "shipped")
BASELINES = ("constant", "plane in depth", "plane in space")


class Bench:
    """The held-out scenes of a configuration, and what is measured on them."""

    def __init__(self, config: Config) -> None:
        config = replace(config, log=replace(config.log, evaluate_every=1, samples_every=0))
        source = open_source(config.data, "cpu")
        self.encoding = open_encoding(config, source, torch.device("cpu"))
        self.held_out = HeldOut(config, self.encoding, source.sizes, None)
        self.config = config

    def image_to_depth(
        self, file: Path, steps: Sequence[int] = (2, 10), runs: int = 1, baselines: bool = False
    ) -> list[Row]:
        """AbsRel and delta_1 with the empty prompt."""
        empty = [replace(b, context=self.encoding.null_text.expand(len(b.rgb), -1, -1)) for b in self.held_out.batches]
        cap = self.config.evaluation.max_code
        options = {"runs": runs, "max_code": cap, "baselines": baselines}
        return evaluate_image_to_depth(load_transformer(file), empty, steps, **options)

    def drift(self, file: Path, source: Path) -> float:
        """Of the RGB prediction from the source's, as a share of its power."""
        teacher = load_transformer(source, text_to_image=True)
        return image_drift(
            load_transformer(file), teacher, self.held_out.batches, channels=self.encoding.codecs.channels
        )

    def joint(self, file: Path) -> list[Row]:
        """Of joint samples over log2_alpha."""
        given, options = self._sampling(file)
        options |= {"cfg": IMAGE_GUIDANCE, "depth_cfg": DEPTH_GUIDANCE, "max_code": self.config.evaluation.max_code}
        return joint_consistency(*given, LOG2_ALPHAS, **options)

    def depth_to_image(self, file: Path) -> list[Row]:
        given, options = self._sampling(file)
        return depth_to_image_consistency(*given, cfg=GUIDANCE, **options)

    def _sampling(self, file: Path) -> tuple[tuple, dict]:
        """What both measures take: the model, samples to make, its own image -> depth; and options."""
        module = load_transformer(file)
        estimator = own_estimator(module, STEPS[0], max_code=self.config.evaluation.max_code)
        options = {"steps": SAMPLING_STEPS, "null_context": self.encoding.null_text}
        return (module, self._some(GENERATED), estimator), options

    def _some(self, count: int) -> list:
        """The first samples, with depth capped as the model knows it."""
        chosen, cap = [], self.encoding.far_code
        for batch in self.held_out.batches:
            taken = min(count - sum(len(b.rgb) for b in chosen), len(batch.rgb))
            if taken > 0:
                kept = type(batch)(*(x[:taken] for x in vars(batch).values()))
                chosen.append(replace(kept, depth=kept.depth.clamp(max=cap)))
        return chosen


def family(bench: Bench) -> str:
    """Sizes and variants of the recipe."""
    made = {run.name: run.file for run in runs()}
    first = bench.image_to_depth(made[f"post_{COMPARED}"], (1,), baselines=True)
    lines = [_cells(row.name, "", [row]) for row in first if row.name in BASELINES]
    for width in HEADS:
        for kind in ("post", "scratch"):
            file = made[f"{kind}_{width}"]
            lines.append(_cells(f"width {width}, {_KINDS[kind]}", _millions(file), bench.image_to_depth(file)))
    sizes = _markdown(("", "M parameters", "2 steps", "10 steps"), lines)
    lines = []
    for kind in ("post", "sparse", "distill"):
        file = made[f"{kind}_{COMPARED}"]
        row = _cells(_KINDS[kind], _millions(file), bench.image_to_depth(file))
        lines.append([*row, f"{100 * bench.drift(file, made[f't2i_{COMPARED}']):.2f} %"])
    variants = _markdown(("", "M parameters", "2 steps", "10 steps", "drift of RGB"), lines)
    return (
        f"## Sizes, with and without text-to-image pre-training\n\n{sizes}\n\n"
        f"## Variants, width {COMPARED}\n\n{variants}\n\n"
        "One seed each, and all of them near the best plane: differences of this size show nothing yet."
    )


def shipped(bench: Bench, file: Path) -> str:
    """What the shipped model does, at the settings of the workflows."""
    depth = table(bench.image_to_depth(file, STEPS, runs=RUNS, baselines=True))
    height, width = bench.held_out.sizes[0]
    how = f"{GENERATED} captions, {SAMPLING_STEPS} Euler steps, mu {DEFAULT_MU}"
    return (
        f"### {width} x {height}\n\nImage -> depth, empty prompt:\n\n{depth}\n\n"
        f"Joint: the generated depth against image -> depth ({STEPS[0]} steps) on the generated image; {how}, guidance "
        f"{IMAGE_GUIDANCE:g} of the image and {DEPTH_GUIDANCE:g} of depth:\n\n{table(bench.joint(file))}\n\n"
        f"Depth -> image: image -> depth on the result; {how}, guidance {GUIDANCE:g}:\n\n"
        f"{table(bench.depth_to_image(file))}"
    )


def report(part: str) -> str:
    """Markdown of a part: family or shipped."""
    config = shipped_config() if part == "shipped" else configuration.load(CONFIGS / "small_post.toml")
    bench = Bench(config)
    about = (
        f"{sum(len(b.rgb) for b in bench.held_out.batches)} held-out scenes; AbsRel % / delta_1 %, scale and shift "
        f"fitted; codes capped at {config.evaluation.max_code:g}; blocks: mean step of the depth codes across the "
        "borders of patches over the mean step elsewhere."
    )
    return f"{about}\n\n{family(bench) if part == 'family' else shipped(bench, SMALL_MODEL)}"


def shipped_config() -> Config:
    """The last step of the shipped model's training, on held-out scenes and with the files that lie in the pack."""
    changes = {
        "model.start": SMALL_MODEL.as_posix(),
        "codec.image": (SMALL_MODEL.parent / CODEC_FILE).as_posix(),
        "codec.text": (SMALL_MODEL.parent / WORDS_FILE).as_posix(),
        "data.kind": "scenes",
        "data.path": "",
        "data.sizes": f"[[{SIDE}, {SIDE}]]",
        "data.far_code": "1.75",
        "evaluation.count": HELD_OUT,
    }
    return configuration.load(CONFIGS / SHIPPED, [f"{key}={value}" for key, value in changes.items()])


_KINDS = {
    "post": "text-to-image first",
    "scratch": "from scratch",
    "sparse": "sparse depth",
    "distill": "self-distillation",
}


def _cells(name: str, size: str, rows: list[Row]) -> list[str]:
    return [name, size, *(f"{100 * row.abs_rel:.2f} / {100 * row.delta1:.1f}" for row in rows)]


def _millions(file: Path) -> str:
    return f"{_count(load_transformer(file)) / 1e6:.2f}"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [[*line, *[""] * (len(head) - len(line))] for line in lines]
    body = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(body)


def put_into_card(text: str, card: Path = CARD) -> None:
    """Replace what the model's card has between its two marks. Raises ValueError where it lacks one."""
    parts = re.split(f"({BEGIN}\n|{END})", card.read_text(encoding="utf-8"))
    if len(parts) != 5:
        raise ValueError(f"{card} has {len(parts) // 2} marks; expected {BEGIN} and {END}, once each")
    parts[2] = f"\n{text}\n\n"
    card.write_text("".join(parts), encoding="utf-8", newline="\n")


def main(arguments: list[str]) -> int:
    """Print the parts, and put the shipped model's figures into its card; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.small_model report", description=__doc__)
    parser.add_argument("part", nargs="?", choices=REPORTS, help="all of them if none is named")
    part = parser.parse_args(arguments).part
    for each in [part] if part else REPORTS:
        text = report(each)
        print(text)
        if each == "shipped":
            put_into_card(text)
    return 0
