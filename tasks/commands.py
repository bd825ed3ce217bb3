"""``run.py ROOM NAME``: run ``main(arguments)`` of ``tasks/ROOM/NAME.py`` with the pack importable."""

import importlib
import sys
import types

from . import ROOT

PACKAGE = "modality_forcing"


def import_as_package() -> None:
    """Make the repository importable as ``modality_forcing`` whatever its folder is called; its entry point is not run.

    The root leaves the import path: its ``nodes/`` and ``model/`` must not hide modules of those names.
    """
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(ROOT))]
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(ROOT)]
    sys.modules[PACKAGE] = package


def names_in(room: str) -> list[str]:
    """The files of a room that have a ``main``: its commands."""
    paths = sorted((ROOT / "tasks" / room).glob("[!_]*.py"))
    return [path.stem for path in paths if "\ndef main(" in path.read_text(encoding="utf-8")]


def run_from(room: str, arguments: list[str]) -> int:
    """Dispatch; returns the exit status."""
    names = names_in(room)
    if not arguments or arguments[0] not in names:
        print(f"run.py {room} NAME, where NAME is one of: {', '.join(names)}", file=sys.stderr)
        return 2
    import_as_package()
    # Of the package's copy of `tasks`, which is another one than this.
    task_error = importlib.import_module(f"{PACKAGE}.tasks").TaskError
    try:
        return importlib.import_module(f"{PACKAGE}.tasks.{room}.{arguments[0]}").main(arguments[1:]) or 0
    except task_error as error:
        print(error, file=sys.stderr)
        return 1
