"""Runs fuzz cases in a process of its own and prints a JSON line for each: python worker.py TARGET SEED FIRST COUNT.

A case is a function of a random generator and a folder. It ends by returning ("right"), by raising ValueError, OSError
or ImportError with a message a user can act on ("refused"), or it is a finding: `Silent`, another exception, or a
message that says too little ("unclear"). The parent sees crashes and hangs.
"""

import importlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 6 << 30
# What libraries say when something was handed to them unchecked.
RAW = re.compile(
    r"size of tensor|shapes? cannot be|must match|expected scalar type|not implemented for|could not broadcast|"
    r"out of bounds|invalid literal|not iterable|unhashable|object has no attribute|index \d+ is out|invalid shape|"
    r"Expected .* to have|mat1 and mat2|could not convert|not enough values|too many values|unsupported operand"
)


def run(case: Callable, seed: str, folder: Path) -> tuple[str, str]:
    """Outcome of one case and what was said."""
    from hostile import Silent

    try:
        case(random.Random(seed), folder)
        return "right", ""
    except Silent as finding:
        return "silent", str(finding)
    except (ValueError, OSError, ImportError) as error:
        text = str(error)
        plain = isinstance(error, UnicodeError) or len(text) < 20 or RAW.search(text)
        plain = plain or isinstance(error, ImportError) and "pip install" not in text
        return ("unclear" if plain else "refused"), f"{type(error).__name__}: {text[:300]}"
    except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
        return "unclear", f"{type(error).__name__}: {str(error)[:300]}"


def prepare() -> None:
    """The repository as `modality_forcing`, a limit on memory, quiet libraries."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    package = types.ModuleType("modality_forcing")
    package.__path__ = [str(ROOT)]
    sys.modules["modality_forcing"] = package
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    if os.name != "nt":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def quiet() -> None:
    """From here on nothing goes to standard error: decoders in C write about each damaged file."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def main(target: str, seed: str, first: str, count: str) -> None:
    prepare()
    case = importlib.import_module(f"target_{target}").case
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(int(first), int(first) + int(count)):
            print(json.dumps({"start": number}), flush=True)  # noqa: T201
            place = Path(folder) / str(number)
            place.mkdir()
            outcome, text = run(case, f"{target} {seed} {number}", place)
            print(json.dumps({"case": number, "outcome": outcome, "text": text}), flush=True)  # noqa: T201
            shutil.rmtree(place)


if __name__ == "__main__":
    main(*sys.argv[1:5])
