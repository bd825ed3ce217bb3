"""Tasks of this repository: ``python run.py demo | serve | test | bench | ...``. Needs only Python 3.10 or newer.

Makes sure of a ComfyUI and of an environment for it (in .run/, unless COMFYUI_PATH or COMFYUI_PYTHON name yours)
and starts the task in that environment.
"""

import argparse
import signal
import subprocess
import sys


def main() -> int:
    """Read the command line, prepare the environment, run the task in it; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    demo = tasks.add_parser("demo", help="run the shipped workflows and show where the results are")
    demo.add_argument("then", nargs="?", choices=["serve"], help="leave the server open afterwards")
    serve = tasks.add_parser(
        "serve", help="a ComfyUI with this pack at a local address; further arguments go to ComfyUI", allow_abbrev=False
    )
    serve.add_argument("--port", default="8188", help="8188 unless given")
    tasks.add_parser("test", help="all checks; further arguments go to pytest", add_help=False)
    for room, what in (
        ("bench", "a measurement"),
        ("pictures", "what makes the pictures of docs and workflows"),
        ("workflows", "what writes the shipped workflows"),
        ("small_model", "the bundled model's figures and files"),
    ):
        named = tasks.add_parser(room, help=f"{what}; further arguments go to it", add_help=False)
        named.add_argument("name", nargs="?")
    tasks.add_parser("quantise", help="IN OUT --format ...: a checkpoint in fewer bits", add_help=False)
    options, rest = parser.parse_known_args()
    if rest and options.task == "demo":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return start(options.task, sys.argv[2:])


def start(task: str, arguments: list) -> int:
    """Run ``python -m tasks.<task>`` in the prepared environment."""
    from tasks import ROOT, TaskError, child_environment
    from tasks.host.environment import prepare

    try:
        environment = prepare(for_checks=task not in ("demo", "serve"))
    except TaskError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command again goes on where this one was", file=sys.stderr)
        return 130
    command = [str(environment.python), "-m", f"tasks.{task}", *arguments]
    variables = child_environment(environment.host.path, environment.python)
    process = subprocess.Popen(command, cwd=ROOT, env=variables)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            _let_end(process)


def _let_end(process: subprocess.Popen) -> None:
    """After Ctrl-C, which a terminal sends to the task as well: let it end in its own time, then tell it to."""
    try:
        process.wait(15.0)
    except subprocess.TimeoutExpired:
        process.terminate()


if __name__ == "__main__":
    sys.exit(main())
