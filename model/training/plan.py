"""Memory and time of a run before anything is rented, downloaded or encoded: `python -m model.training plan --help`."""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from ..demo.text import DEFAULT_LENGTH, TextEncoder
from ..flux2_codecs import QWEN_TOKENS
from ..network.checkpoint import read_header
from ..network.config import BLOCKS, TransformerConfig
from .config import Config, ConfigError, load
from .from_text_to_image import joint_config, source_config
from .plan_counts import (
    Setup,
    count_operations,
    count_parameters,
    largest_batch,
    parts,
    plan_memory,
    text_to_image,
    traffic_bytes,
)
from .sizes import SIZES, sizes_of

GIB = 2**30
MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2, "muon": 4}  # muon: of the matrices in blocks, which are nearly all
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "flux2_klein_9b.toml"


def setup_of(config: Config, gpus: int) -> Setup:
    """What a training configuration asks of each of `gpus` GPUs. The largest of its sizes counts.

    Raises ConfigError where the model is neither there nor named by its sizes.
    """
    training, recipe, lora = config.training, config.recipe, config.lora
    joint = config.stage == "post_train"
    height, width = max(config.data.sizes, key=math.prod)
    share = max(1, training.batch // gpus)
    batch = min(share, training.micro_batch or share)
    return Setup(
        _transformer(config),
        height_px=height,
        width_px=width,
        text_tokens=_text(config)[0],
        batch=batch,
        passes=share // batch,
        compute_bytes=2 if training.precision == "bfloat16" else 4,
        checkpointing=training.gradient_checkpointing,
        freeze_image=joint and config.model.freeze_image,
        teacher=recipe.distill_weight > 0,
        sharded=training.sharding == "fsdp",
        moment_bytes=MOMENT_BYTES[config.optimiser.kind],
        lora_rank=lora.rank,
        fresh_depth=not config.model.start,
        frozen_bytes={"float32": 4, "bfloat16": 2, "int8": 1}[lora.base] if lora.rank else 4,
        offload=lora.offload,
    )


def _transformer(config: Config) -> TransformerConfig:
    model, joint = config.model, config.stage == "post_train"
    if model.start and Path(model.start).exists():
        return read_header(model.start, text_to_image=not joint).config
    if model.source and Path(model.source).exists():
        base = source_config(model.source)
    elif model.variant or not (model.source or model.start):
        base = sizes_of(model, _text(config)[1])
    else:
        missing = model.start or model.source
        raise ConfigError(f"{missing} is not there yet: name its sizes by model.variant, one of {', '.join(SIZES)}")
    return joint_config(base, model.decoder_blocks) if joint else text_to_image(base)


def _text(config: Config) -> tuple[int, int | None]:
    """Tokens of a caption and width of their embedding, of an encoder that need not be there yet; None: the model's."""
    codec = config.codec
    if codec.kind == "flux2":
        return QWEN_TOKENS, None
    words = next((p for p in (Path(codec.text), Path(config.data.path) / "words.json") if p.is_file()), None)
    encoder = TextEncoder.load(words) if words else TextEncoder(tuple("abcdefghijklmn"), DEFAULT_LENGTH)
    return encoder.length, encoder.width


def report(
    config: Config, setups: Mapping[int, Setup], *, memory_gib: float, peak_tflops: float, utilisation: float
) -> str:
    """The plan as text: sizes, operations, a row for each number of GPUs, and one card layer by layer."""
    setup, samples = next(iter(setups.values())), config.training.steps * config.training.batch
    p, cost = count_parameters(setup), count_operations(setup)
    per_gpu = peak_tflops * 1e12 * utilisation / cost.total  # samples/s
    shares = ", ".join(f"{name} {value / 1e12:.3g}" for name, value in asdict(cost).items())
    lines = [
        f"{p.total / 1e9:.2f} B parameters, {p.trained / 1e9:.3g} B trained; {setup.width_px} x {setup.height_px} px, "
        f"tokens {' + '.join(f'{count} {name}' for name, count in setup.tokens.items())}",
        f"{cost.total / 1e12:.3g} TFLOP a sample ({shares}); {per_gpu:.3g} samples/s on a GPU of "
        f"{peak_tflops:g} TFLOP/s at {100 * utilisation:g} % (an assumption: measure, and set --utilisation)",
        "Memory in GiB on each GPU; batch and traffic in GiB are each GPU's; a tenth of memory is in reserve",
        "",
        f"| GPUs | batch x passes | states | gathered | activations | total | largest batch in {memory_gib:g} "
        f"| traffic a step | samples/s | hours for {samples:g} samples | + held-out hours |",
        "|---" * 11 + "|",
    ]
    for gpus, each in setups.items():
        memory = plan_memory(each, gpus)
        shown = (memory.states, memory.gathered, memory.activations, memory.total)
        fits = largest_batch(each, gpus, memory_gib * GIB) or "none"
        held_out = held_out_operations(config, each) / (gpus * peak_tflops * 1e12 * utilisation) / 3600
        lines.append(
            f"| {gpus} | {each.batch} x {each.passes} | {' | '.join(f'{value / GIB:.3g}' for value in shown)} | {fits} "
            f"| {traffic_bytes(each, gpus) / GIB:.3g} | {gpus * per_gpu:.3g} "
            f"| {samples / (gpus * per_gpu) / 3600:.3g} | {held_out:.2g} |"
        )
    return "\n".join([*lines, *_by_layer(setup)]) + "\n"


def held_out_operations(config: Config, setup: Setup) -> float:
    """Of all evaluations, whose samples the GPUs share, and of all sheets, as if the GPUs shared those too."""
    forward, section, log = count_operations(setup).forward, config.evaluation, config.log
    steps = config.training.steps
    times = [-(-steps // every) if every else 0 for every in (log.evaluate_every, log.samples_every)]
    if config.stage != "post_train":
        return times[1] * section.sheet_columns * 2 * section.sheet_steps * forward
    # A sheet is image -> depth, and depth -> image and joint with guidance.
    sheet = section.sheet_columns * section.sheet_steps * (1 + 2 + 2)
    return (times[0] * section.count * sum(section.steps) + times[1] * sheet) * forward


def _by_layer(setup: Setup) -> list[str]:
    """What the states of each kind of layer take on one card, where there is only one copy of them."""
    if setup.sharded:
        return []
    trained_bytes = 4 + 4 + setup.moment_bytes + 4
    lines = ["", "| layers | parameters M | frozen GiB | trained, with gradients, moments and averages, GiB |"]
    lines += ["|---|---|---|---|"]
    for kind, members in groupby(parts(setup), key=lambda part: part.name.split(".")[0]):
        found = list(members)
        total, trained, frozen = (sum(getattr(p, name) for p in found) for name in ("total", "trained", "frozen"))
        held = frozen if not (setup.offload and kind in BLOCKS) else 0
        each = setup.frozen_bytes if kind in BLOCKS else max(2, setup.frozen_bytes)
        lines.append(
            f"| {len(found)} {kind} | {total / 1e6:.4g} | {each * held / GIB:.3g} "
            f"| {trained_bytes * trained / GIB:.3g} |"
        )
    if setup.offload:
        lines.append("")
        lines.append("Frozen weights of blocks lie in host memory; two blocks' are on the card at a time.")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Write the plan for the command line's settings to standard output.

    Raises:
        ConfigError: the configuration file is wrong.
    """
    args = _parser().parse_args(argv)
    config = load(args.config, args.set, files=False)
    setups = {gpus: setup_of(config, gpus) for gpus in args.gpus}
    options = {name: getattr(args, name) for name in ("memory_gib", "peak_tflops", "utilisation")}
    sys.stdout.write(report(config, setups, **options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.training plan", description=__doc__)
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="a run's TOML file (default: FLUX.2-klein-9B's)")
    parser.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE", help="change a setting")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument(
        "--memory", dest="memory_gib", type=float, default=80, metavar="GIB", help="of one GPU (default 80)"
    )
    parser.add_argument("--peak-tflops", type=float, default=790, help="of one GPU, bfloat16, dense (H200: about 790)")
    parser.add_argument(
        "--utilisation", type=float, default=0.4, help="share of the peak that is reached (default 0.4)"
    )
    return parser
