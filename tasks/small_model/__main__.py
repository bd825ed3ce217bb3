"""``python -m tasks.small_model COMMAND``: how the bundled small model is compared, measured and packed.

Run it in the repository's root, in an environment that model/training/README.md describes.
"""

import argparse
import importlib
import logging
import sys

from ..bench import PACKAGE, import_as_package

REPORTS = ("family", "shipped")


def main(arguments: list[str]) -> int:
    """Run one command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.small_model", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    family = command("family", _family, "train the small models' family: the runs that are missing")
    family.add_argument("only", nargs="*", metavar="RUN", help="by name; all if none is given")
    report = command("report", _report, "the figures of the small models, from their files, as Markdown")
    report.add_argument("part", nargs="?", choices=REPORTS, help="all of them if none is named")
    bundle = command("bundle", _bundle, "a trained small model as the folder that Load Small Model takes")
    bundle.add_argument("model", help="the finished checkpoint")
    bundle.add_argument("--codec", required=True, help="the image codec it was trained with")
    bundle.add_argument("--data", required=True, help="the encoded samples it was trained on")
    bundle.add_argument("--out", required=True, help="the checkpoint to write; its codec and words go beside it")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return options.run(options)


def _room(name: str):
    """A module of this folder, inside the package whose relative imports reach model/."""
    if PACKAGE not in sys.modules:
        import_as_package()
    return importlib.import_module(f"{PACKAGE}.tasks.small_model.{name}")


def _family(options: argparse.Namespace) -> int:
    _room("family").train_family(options.only)
    return 0


def _report(options: argparse.Namespace) -> int:
    print(_room("report").report([options.part] if options.part else REPORTS))
    return 0


def _bundle(options: argparse.Namespace) -> int:
    for name, size in _room("bundle").bundle(options.model, options.codec, options.data, options.out).items():
        print(f"{size / 1e6:7.2f} MB  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
