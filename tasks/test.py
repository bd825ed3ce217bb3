"""``run.py test``: lint, the web tests, then pytest with the arguments given."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import PurePath

from . import ROOT, TaskError, end_on_terminate
from .host.browser import ensure_browser

NEEDED = ("pytest", "pytest_timeout", "xdist", "ruff", "playwright")
PURE_LIMIT_S = "10"


def main(arguments: list[str]) -> int:
    """Run all checks and return a failed one's exit status. pytest comes last, so its closing line ends the output."""
    end_on_terminate()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"The tests need {', '.join(missing)} in {sys.executable}, which is not ours to install in. "
            f"Run: {sys.executable} -m pip install -r {ROOT / 'tests' / 'requirements.txt'}",
            file=sys.stderr,
        )
        return 1
    try:
        ensure_browser()
    except TaskError as error:
        print(error)
    ruff = [sys.executable, "-m", "ruff"]
    statuses = [_call([*ruff, "check", "."]), _call([*ruff, "format", "--check", "."]), _web_tests()]
    statuses.append(_call([sys.executable, "-m", "pytest", "--pure-limit", PURE_LIMIT_S, "-n", "auto", *arguments]))
    if any(statuses[:-1]):
        print("run.py test: a check before pytest failed, see above", file=sys.stderr)
    return next((status for status in reversed(statuses) if status), 0)


def _web_tests() -> int:
    files = sorted((ROOT / "tests" / "web").glob("*.test.mjs"))
    if not files:
        return 0
    node = shutil.which("node")
    if node is None:
        print("the web tests are left out: there is no node on this machine")
        return 0
    return _call([node, "--test", *files])


def _call(command: list) -> int:
    print("$", *map(shown, command), flush=True)
    return subprocess.run([str(part) for part in command], cwd=ROOT).returncode


def shown(part: str | PurePath, root: PurePath = ROOT) -> str:
    """A part of a command as it is printed: paths in the repository from there, others (on other drives) whole."""
    path = type(root)(part)
    return str(path.relative_to(root)) if path.is_absolute() and path.is_relative_to(root) else str(part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
