"""Run by test_memory.py in a process of its own: what `run.py bench gpu` measures where there is a GPU, as JSON.

On a tiny model; what torch asks of a card has answers of an 80 GB one. Two measurements run out of memory, fp8 cannot
be compiled, and for the last row there is no time left.
"""

import json
import sys
import types
from pathlib import Path

import torch
import torch._inductor.exc

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # in the place of this folder

from tasks.commands import import_as_package  # noqa: E402

import_as_package()

from modality_forcing.tasks.bench import gpu  # noqa: E402

OUT_OF_MEMORY = (1, 5)  # measurements


def no_triton(_module, _inputs):
    raise torch._inductor.exc.TritonMissing(None)


def main() -> None:
    gpu.import_host()
    gpu.ROUNDS = 1
    bench, fractions, count = gpu.Bench(), [], 0
    bench.gpu = True
    measured, compiled = bench.measure, torch.compile

    def measure(*args):
        nonlocal count
        count += 1
        if count in OUT_OF_MEMORY:
            raise torch.cuda.OutOfMemoryError("no memory")
        return measured(*args)

    bench.measure = measure
    backends = iter(("eager", no_triton, "eager"))
    torch.compile = lambda module, backend: compiled(module, backend=next(backends))
    answers = {
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "empty_cache": lambda: None,
        "max_memory_allocated": lambda: 2**30,
        "get_device_properties": lambda _index: types.SimpleNamespace(total_memory=int(80e9)),
        "set_per_process_memory_fraction": fractions.append,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    rows = gpu.run(bench)
    bench.started -= gpu.LAST_SECONDS
    bench.row("late", "bf16", bench.core, gpu.LAST_SECONDS)
    sys.stdout.write(json.dumps({"rows": rows, "fractions": fractions}) + "\n")


if __name__ == "__main__":
    main()
