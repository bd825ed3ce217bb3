"""Commands of the training recipe: `python -m model.training COMMAND --help`, run in the repository's root.

Several processes: `accelerate launch -m model.training train CONFIG`, or torchrun.
"""

import argparse
import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from ..diffusion.sampling import SOLVERS
from ..network.checkpoint import CheckpointError
from . import config as configuration
from . import plan
from .checkpoints import DamagedCheckpoint
from .config import Config, ConfigError
from .config_preparing import CodecConfig, EncodeConfig
from .data import DataError, Problems

BENCHMARK_SETS = "nyu, kitti, eth3d, scannet or diode with its folder; or 'folder', for depth -> image"
KINDS = {"train": Config, "encode": EncodeConfig, "codec": CodecConfig}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status. Mistakes in files and settings are one message, without a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if arguments[:1] == ["plan"]:
            plan.main(arguments[1:])
            return 0
        options = _parser().parse_args(arguments)
        return options.run(options)
    except (ConfigError, DataError, DamagedCheckpoint, CheckpointError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.training", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, text: str, config: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        if config:
            added.add_argument("config", help="a TOML file")
            added.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE", help="change a setting")
        return added

    command("train", _train, "train, or continue where the output folder's last checkpoint stands")
    command("codec", _codec, "train the small image codec on procedural scenes")
    encode = command("encode", _encode, "encode pictures and captions once, to train from latents")
    encode.add_argument("--device", default="cpu", help="cpu, cuda, cuda:0 ...")
    encode.add_argument("--part", default="0/1", help="I/N: do every Nth file, starting with the Ith (0/1: all)")
    write = command("scenes", _scenes, "write procedural scenes in the trainer's file formats", config=False)
    write.add_argument("--out", required=True, help="a folder")
    write.add_argument("--format", choices=["folder", "shards"], default="folder")
    write.add_argument("--count", type=int, default=100)
    write.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("HEIGHT", "WIDTH"))
    write.add_argument("--sparse", choices=get_args(configuration.Sparse), default="dense")
    write.add_argument("--difficulty", choices=get_args(configuration.Difficulty), default="full")
    write.add_argument("--held-out", action="store_true", help="from the held-out seeds")
    evaluate = command("evaluate", _evaluate, "image -> depth errors of a checkpoint on held-out data")
    evaluate.add_argument("checkpoint", help="a .safetensors file in the released layout")
    evaluate.add_argument("--runs", type=int, default=1, help="samples per picture; above 1 their mean as well")
    evaluate.add_argument("--sheet", action="store_true", help="write a sample sheet too")
    bench = command("bench", _bench, "the trainer's throughput and memory beside a plain loop")
    bench.add_argument("--steps", type=int, default=4, help="of each turn")
    bench.add_argument("--turns", type=int, default=15)
    measure = command("benchmark", _benchmark, "a model on depth data sets, by the paper's protocol", config=False)
    measure.add_argument("--model", required=True, help="a .safetensors file in the released layout")
    measure.add_argument(
        "--flux2", help="a diffusers folder of FLUX.2-klein; without it, a small model's parts beside it"
    )
    measure.add_argument("--data", nargs=2, required=True, metavar=("SET", "PATH"), help=BENCHMARK_SETS)
    measure.add_argument("--pairs", help="a list of files, lines 'picture depth', instead of the set's own")
    measure.add_argument("--count", type=int, default=0, help="the first so many pictures; 0: all")
    measure.add_argument("--runs", type=int, default=10, help="samples of a picture, merged (published: 10)")
    measure.add_argument("--steps", type=int, default=50)
    measure.add_argument("--solver", choices=SOLVERS, default=SOLVERS[0], help="heun costs twice as much")
    measure.add_argument("--max-side", type=int, default=512, help="pixels that pictures are brought to")
    measure.add_argument("--tile", type=int, default=0, help="pixels; above 0: at full size, in tiles")
    measure.add_argument("--crop", action="store_true", help="compare the usual part of NYU's and KITTI's pictures")
    measure.add_argument("--fid-weights", help="with SET 'folder': pictures from depth; Inception's weights")
    measure.add_argument("--device", default="cpu")
    merge = command("merge", _merge, "add a LoRA to a checkpoint", config=False)
    merge.add_argument("checkpoint", help="a .safetensors file in the released layout")
    merge.add_argument("lora", help="what a run with lora.rank wrote")
    merge.add_argument("out", help="the file to write")
    merge.add_argument("--float32", action="store_true", help="store float32 instead of bfloat16")
    schema = command("schema", _schema, "the JSON schema of a configuration, for editors", config=False)
    schema.add_argument("kind", nargs="?", choices=KINDS, default="train", help="of `train` unless named")
    commands.add_parser("plan", help="memory and time from the shapes alone; see plan --help")
    return parser


def _benchmark(options: argparse.Namespace) -> int:
    from ..pipeline import Pipeline
    from . import benchmark
    from .benchmark_data import SETS, samples

    kind, path = options.data
    if kind not in (*SETS, "folder"):
        raise ConfigError(f"got --data {kind}; expected one of {', '.join(SETS)}, or folder")
    if options.flux2:
        pipeline = Pipeline.flux2(options.model, options.flux2, options.device)
    else:
        pipeline = Pipeline.small(options.model, options.device)
    if kind == "folder":
        print(_from_depth(options, pipeline, path))
        return 0
    settings = benchmark.Settings(options.runs, options.steps, options.max_side, options.tile)
    settings = replace(settings, usual_crop=options.crop, solver=options.solver)
    result = benchmark.image_to_depth(pipeline, kind, samples(kind, path, options.pairs, options.count), settings)
    print(benchmark.table(kind, result, settings, Path(options.model).name))
    return 0


def _from_depth(options: argparse.Namespace, pipeline: Any, path: str) -> str:
    """Depth -> image on a folder in the trainer's format."""
    import torch

    from . import benchmark
    from .data import UnusableSample
    from .files import FileSource

    if not options.fid_weights:
        raise ConfigError("--data folder measures depth -> image; expected --fid-weights, a file with Inception's")
    side = options.max_side
    source = FileSource(path, "folder", [(side, side)])
    items = range(min(source.counts[0], options.count or source.counts[0]))

    def batches():
        for item in items:
            [sample] = source.load(0, [item])
            if not isinstance(sample, UnusableSample):
                yield sample.rgb.permute(1, 2, 0)[None] / 255, sample.depth[None], [sample.caption]

    with torch.inference_mode():
        found = benchmark.depth_to_image(pipeline, batches(), options.fid_weights, steps=options.steps)
    return benchmark.image_table(*found, Path(options.model).name)


def _merge(options: argparse.Namespace) -> int:
    import torch

    from .lora import merge

    if Path(options.out).exists():
        raise FileExistsError(f"{options.out} is there already; choose another name")
    dtype = torch.float32 if options.float32 else torch.bfloat16
    print(f"{merge(options.checkpoint, options.lora, options.out, dtype)} layers changed in {options.out}")
    return 0


def _schema(options: argparse.Namespace) -> int:
    print(json.dumps(configuration.schema(KINDS[options.kind]), indent=1))
    return 0


def _train(options: argparse.Namespace) -> int:
    config: Config = configuration.load(options.config, options.set)
    from .parallel import close, open_accelerator
    from .trainer import Trainer

    accelerator = open_accelerator(config.training)
    if not accelerator.is_main_process:
        logging.getLogger().setLevel(logging.ERROR)
    trainer = Trainer(config, accelerator)
    trainer.run()
    close(accelerator)
    return 0


def _codec(options: argparse.Namespace) -> int:
    config: CodecConfig = configuration.load(options.config, options.set, CodecConfig)
    import torch

    from .codec_training import train_codec

    figures = train_codec(config, "cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"held-out PSNR: linear {figures['linear']:.2f} dB, codec {figures['codec']:.2f} dB, "
        f"with latent noise {config.latent_noise:g}: {figures['codec, noise']:.2f} dB; "
        f"seams {figures['seams']:.2f} (1 is none)"
    )
    return 0


def _encode(options: argparse.Namespace) -> int:
    config: EncodeConfig = configuration.load(options.config, options.set, EncodeConfig)
    from .assembly import open_source
    from .codecs import open_codecs
    from .latent_store import encode_to_store

    part, of = (int(number) for number in options.part.split("/"))
    started, done = time.monotonic(), 0

    def report(samples: int) -> None:
        nonlocal done
        done += samples
        print(f"{done} samples, {done / (time.monotonic() - started):.1f} a second", file=sys.stderr)

    problems = Problems()
    problems.add(
        encode_to_store(
            open_source(config.data, options.device),
            open_codecs(config.codec, options.device),
            config.output,
            count=config.count,
            far_code=config.data.far_code,
            mirror=config.data.mirror,
            part_size=config.part_size,
            batch=config.batch,
            process=part,
            processes=of,
            workers=config.data.workers,
            report=report,
        )
    )
    print(problems.report() or "no unusable samples")
    return 0


def _scenes(options: argparse.Namespace) -> int:
    from .scene_source import SceneSource, write_files

    source = SceneSource(
        tuple(options.size), sparse=options.sparse, difficulty=options.difficulty, heldout=options.held_out
    )
    write_files(source, options.out, options.count, kind=options.format)
    print(f"{options.count} scenes in {Path(options.out).resolve()}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    config: Config = configuration.load(options.config, options.set)
    from .checkpoint_evaluation import evaluate_checkpoint

    print(evaluate_checkpoint(config, options.checkpoint, runs=options.runs, sheet=options.sheet))
    return 0


def _bench(options: argparse.Namespace) -> int:
    config: Config = configuration.load(options.config, options.set)
    from .bench import bench

    print(bench(config, steps=options.steps, turns=options.turns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
