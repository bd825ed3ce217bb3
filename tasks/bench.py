"""``run.py bench NAME``: run ``main(arguments)`` of ``tasks/bench_NAME.py`` with the pack importable."""

import importlib
import sys
import types

from . import ROOT, TaskError

PACKAGE = "modality_forcing"


def import_as_package() -> None:
    """Make the repository importable as ``modality_forcing`` whatever its folder is called; its entry point is not run.

    The root leaves the import path: its ``nodes/`` and ``model/`` must not hide modules of those names.
    """
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(ROOT))]
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(ROOT)]
    sys.modules[PACKAGE] = package


def main(arguments: list[str]) -> int:
    """Dispatch; returns the exit status."""
    names = sorted(path.stem.removeprefix("bench_") for path in (ROOT / "tasks").glob("bench_*.py"))
    if not arguments or arguments[0] not in names:
        print(f"run.py bench NAME, where NAME is one of: {', '.join(names) or '(there is none yet)'}", file=sys.stderr)
        return 2
    import_as_package()
    try:
        return importlib.import_module(f"{PACKAGE}.tasks.bench_{arguments[0]}").main(arguments[1:]) or 0
    except TaskError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
