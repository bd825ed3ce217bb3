"""What core reserves for a run follows what the network really holds."""

import json
import os
import subprocess
from pathlib import Path

from modality_forcing.tasks import HOST_VARIABLE, PYTHON_VARIABLE, named_path


def test_reserved_memory_is_that_of_the_counted_activations():
    script = Path(__file__).parent / "count_memory.py"
    variables = {**os.environ, HOST_VARIABLE: str(named_path(HOST_VARIABLE))}
    out = subprocess.run(
        [str(named_path(PYTHON_VARIABLE)), str(script)], env=variables, capture_output=True, text=True, timeout=300
    )
    assert out.returncode == 0, out.stderr
    ratios = json.loads(out.stdout.splitlines()[-1])
    assert len(ratios) == 12
    assert {name: ratio for name, ratio in ratios.items() if not 1.0 <= ratio <= 1.25} == {}
