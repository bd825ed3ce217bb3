"""``run.py bench import``: how long ComfyUI takes to import this pack, beyond ComfyUI itself."""

import json
import statistics
import subprocess
import sys

from .. import HOST_VARIABLE, ROOT, named_path

ROUNDS = 5


def main(_arguments: list[str]) -> int:
    """Measure in fresh processes and print; returns the exit status."""
    script = ROOT / "tests" / "comfy" / "import_pack.py"
    command = [sys.executable, str(script), str(named_path(HOST_VARIABLE)), str(ROOT)]
    reports = []
    for _ in range(ROUNDS):
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        reports.append(json.loads(result.stdout.splitlines()[-1]))
    seconds = [report["seconds"] for report in reports]
    print(f"the pack's import: {statistics.median(seconds):.3f} s (median of {ROUNDS}, {min(seconds):.3f} at best)")
    print(f"packages that it brings in: {', '.join(reports[0]['new_modules'])}")
    return 0
