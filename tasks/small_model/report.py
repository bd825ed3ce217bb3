"""The figures of the small models, from their files: `python -m tasks.small_model report` prints them as Markdown.

All are on held-out procedural scenes. The family is measured at the size that it was trained at, the shipped model, as
it lies in the pack, at its own.
"""

import argparse
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
from ..workflows.settings import GUIDANCE, SIDE
from ..workflows.settings import STEPS as SAMPLING_STEPS
from .family import COMPARED, CONFIGS, HEADS, runs

LOG2_ALPHAS = (-5.0, -2.0, 0.0, 2.0, 5.0)
GUIDED_ALPHAS, DEPTH_GUIDANCES = (5.0, 0.0, -2.0), (1.0, 2.0)
STRENGTHS = (0.1, 1.0)
STEPS = (2, 10)
GENERATED, GUIDED = 64, 24  # pictures that are made for the consistency tables
SHIPPED = "small_post_128.toml"  # its last step
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

    def consistency(self, file: Path) -> tuple[list[Row], list[Row]]:
        """Of joint samples over log2_alpha, and of depth -> image over strength."""
        module = load_transformer(file)
        options = {
            "steps": SAMPLING_STEPS,
            "cfg": GUIDANCE,
            "null_context": self.encoding.null_text,
        }
        cap, some = self.config.evaluation.max_code, self._some(GENERATED)
        estimator = own_estimator(module, max_code=cap)
        joint = joint_consistency(module, some, estimator, LOG2_ALPHAS, max_code=cap, **options)
        painted = []
        for strength in STRENGTHS:
            rows = depth_to_image_consistency(module, some, estimator, strength=strength, **options)
            named = {row.name: row for row in rows}
            painted.append(replace(named["against the given depth"], name=f"strength {strength:g}"))
        return joint, [*painted, named["other image"]]

    def guidance(self, file: Path) -> list[tuple[float, list[Row]]]:
        """Of joint samples: the guidance of depth, and a row for each log2_alpha. That of the image is GUIDANCE."""
        module, cap, some = load_transformer(file), self.config.evaluation.max_code, self._some(GUIDED)
        options = {"steps": SAMPLING_STEPS, "null_context": self.encoding.null_text, "max_code": cap, "cfg": GUIDANCE}
        estimator = own_estimator(module, max_code=cap)
        return [
            (cfg, joint_consistency(module, some, estimator, GUIDED_ALPHAS, depth_cfg=cfg, **options)[:-1])
            for cfg in DEPTH_GUIDANCES
        ]

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
    """What the shipped model does."""
    depth = table(bench.image_to_depth(file, STEPS, runs=4, baselines=True))
    joint, painted = (table(rows) for rows in bench.consistency(file))
    guided = [
        [f"{cfg:g}", *(f"{100 * row.abs_rel:.1f} / {row.blocks:.2f}" for row in rows)]
        for cfg, rows in bench.guidance(file)
    ]
    guided = _markdown(("guidance of depth", *(f"log2_alpha {a:g}" for a in GUIDED_ALPHAS)), guided)
    height, width = bench.held_out.sizes[0]
    return (
        f"## The shipped model, {width} x {height}\n\nImage -> depth, empty prompt:\n\n{depth}\n\n"
        f"Joint: the generated depth against image -> depth on the generated image, {GENERATED} captions, "
        f"{SAMPLING_STEPS} Euler steps, guidance {GUIDANCE:g}, mu {DEFAULT_MU}:\n\n{joint}\n\n"
        f"The same for {GUIDED} captions, AbsRel % / blocks, with another guidance of depth and {GUIDANCE:g} of the "
        f"image:\n\n{guided}\n\n"
        f"Depth -> image: image -> depth on the result against the given depth:\n\n{painted}"
    )


def report(parts: Iterable[str]) -> str:
    """Markdown of the parts asked for: family, shipped."""
    sections = []
    for part in parts:
        config = shipped_config() if part == "shipped" else configuration.load(CONFIGS / "small_post.toml")
        bench = Bench(config)
        about = (
            f"{sum(len(b.rgb) for b in bench.held_out.batches)} held-out scenes; AbsRel % / delta_1 %, scale and shift "
            f"fitted; codes capped at {config.evaluation.max_code:g}; blocks: mean step of the depth codes across the "
            "borders of patches over the mean step elsewhere."
        )
        sections += [about, family(bench) if part == "family" else shipped(bench, SMALL_MODEL)]
    return "\n\n".join(sections)


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


def main(arguments: list[str]) -> int:
    """Print the parts; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.small_model report", description=__doc__)
    parser.add_argument("part", nargs="?", choices=REPORTS, help="all of them if none is named")
    part = parser.parse_args(arguments).part
    print(report([part] if part else REPORTS))
    return 0
