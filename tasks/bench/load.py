"""``run.py bench load``: peak memory of loading a checkpoint of some gigabytes, as a multiple of its size.

A file of random bfloat16 weights is generated, loaded by a fresh process in each way, and deleted. The process touches
every weight, as the first step of a sampler does, so that memory-mapped pages count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from ...model.network.checkpoint import load_transformer, save_transformer
from ...model.network.config import TransformerConfig
from ...model.network.transformer import ModalityForcingTransformer
from .. import ROOT


def main(arguments: list[str]) -> int:
    """Measure and print; with --child, load one file and report."""
    parser = argparse.ArgumentParser(prog="run.py bench load", description=__doc__)
    parser.add_argument("--blocks", type=int, default=9, help="single blocks of width 4096, 0.31 GiB each (9)")
    parser.add_argument("--child", nargs=2, metavar=("FILE", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(_load(options.child[0], getattr(torch, options.child[1]))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generated.safetensors"
        _generate(path, options.blocks)
        gibibytes = path.stat().st_size / 2**30
        print(f"file: {gibibytes:.2f} GiB of bfloat16")
        for dtype in ("bfloat16", "float32"):
            command = [sys.executable, "-m", "tasks.bench", "load", "--child", str(path), dtype]
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            report = json.loads(result.stdout.splitlines()[-1])
            peak, weights = report["peak"] / 2**30, report["weights"] / 2**30
            print(
                f"{dtype:9} weights {weights:5.2f} GiB, peak above the process before {peak:5.2f} GiB: "
                f"{peak / weights:.2f} copies, {report['seconds']:.1f} s"
            )
    return 0


def _generate(path: Path, blocks: int) -> None:
    config = TransformerConfig(double_blocks=1, single_blocks=blocks, decoder_blocks=1, text_width=1024)
    with torch.device("meta"):
        module = ModalityForcingTransformer(config, dtype=torch.bfloat16)
    module = module.to_empty(device="cpu")
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.01, 0.01)
    save_transformer(module, path)


def _load(path: str, dtype: torch.dtype) -> dict[str, float]:
    import psutil  # comes with ComfyUI

    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    module = load_transformer(path, dtype)
    for parameter in module.parameters():
        parameter.sum()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    return {"peak": peak - before, "weights": weights, "seconds": seconds}
