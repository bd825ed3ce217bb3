"""``run.py quantise IN OUT --format int8|fp8|nvfp4|mxfp8|int4``: a checkpoint in fewer bits, for ComfyUI.

IN is the released file or one of ours, in bf16 or fp32; OUT a new .safetensors file, best in models/diffusion_models.
Written layer by layer; nothing is left of a file that was not finished. All but fp8 need comfy-kitchen, to write and to
run: ComfyUI 0.33 has it.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

from . import end_on_terminate
from .commands import PACKAGE, import_as_package

FORMATS = ("int8", "fp8", "nvfp4", "mxfp8", "int4")


def main(arguments: list[str]) -> int:
    """Quantise; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py quantise", description=__doc__)
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("target", metavar="OUT", type=Path)
    parser.add_argument("--format", choices=FORMATS, required=True)
    options = parser.parse_args(arguments)
    end_on_terminate()
    import_as_package()
    quantise = importlib.import_module(f"{PACKAGE}.model.network.quantise").quantise
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        quantise(options.source, options.target, options.format, progress_line(), device=device)
    except ImportError as error:
        print(f"{options.format} needs comfy-kitchen ({error}): pip install comfy-kitchen", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nstopped; {options.target} was not written", file=sys.stderr)
        return 130
    sizes = [path.stat().st_size / 1e9 for path in (options.source, options.target)]
    print(f"\r{options.target}: {sizes[1]:.3f} GB, of {sizes[0]:.3f}")
    return 0


def progress_line():
    """Writes the part that is done, and the minutes left."""
    started = time.monotonic()

    def show(index: int, count: int) -> None:
        left = (time.monotonic() - started) / max(index, 1) * (count - index) / 60
        print(f"\r{index} of {count} tensors, about {left:.0f} min left   ", end="", flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
