"""Seeded hostile inputs: every case ends in the right value or in an error that names what is wrong.

`FUZZ_CASES=10000 python run.py test tests/fuzz -s` runs more of them for each target (FUZZ_SEED chooses others), and
of those for checkpoints.
A finding is run again by itself with `python tests/fuzz/worker.py TARGET SEED NUMBER 1`.
"""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from modality_forcing.tasks.host.hosts import find_host

HERE = Path(__file__).parent
CASES, SEED = int(os.environ.get("FUZZ_CASES", 300)), os.environ.get("FUZZ_SEED", "0")
LIMIT_S = 60.0  # for one case, on a busy machine
TARGETS = sorted(path.stem.removeprefix("target_") for path in HERE.glob("target_*.py"))


def results(target: str) -> list[dict]:
    """What each case ended in; "crash" and "hang" end the worker, and the next one goes on behind the case."""
    found: list[dict] = []
    first = 0
    while first < CASES:
        found += _work(target, first, CASES - first)
        first = found[-1]["case"] + 1
    return found


def _work(target: str, first: int, count: int) -> list[dict]:
    command = [sys.executable, str(HERE / "worker.py"), target, SEED, str(first), str(count)]
    environment = os.environ | {"COMFYUI_PATH": str(find_host().path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE, env=environment)
    found, running, hung = [], None, False

    def end() -> None:
        nonlocal hung
        hung = True
        process.kill()

    timer = threading.Timer(LIMIT_S, end)
    timer.start()
    for line in process.stdout:
        if not line.startswith('{"'):  # what decoders in C have to say
            continue
        entry = json.loads(line)
        timer.cancel()
        timer = threading.Timer(LIMIT_S, end)
        timer.start()
        if "start" in entry:
            running = entry["start"]
        else:
            found.append(entry)
    timer.cancel()
    if process.wait() != 0 or len(found) < count:
        assert running is not None, f"{target} could not be started: {' '.join(command)}"
        outcome = "hang" if hung else "crash"
        found.append({"case": running, "outcome": outcome, "text": f"exit status {process.returncode}"})
    return found


@pytest.mark.timeout(0)
@pytest.mark.parametrize("target", TARGETS)
def test_no_case_is_a_finding(target):
    found = results(target)
    count = Counter(entry["outcome"] for entry in found)
    print(f"\n{target}: {len(found)} cases, seed {SEED}: {dict(count)}")  # noqa: T201
    findings = [entry for entry in found if entry["outcome"] not in ("right", "refused")]
    assert not findings, "\n".join(f"{f['case']} {f['outcome']}: {f['text']}" for f in findings[:40])
    assert count["right"] > CASES // 20 and count["refused"] > CASES // 20  # the cases reach both ends
