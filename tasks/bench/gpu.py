"""``run.py bench gpu [--json FILE]``: a step of the released size on this machine's GPU, with random weights.

For bf16, fp8 and int8, plain and compiled, beside ComfyUI's own FLUX.2 of the same width, blocks and tokens, in one
process: seconds of one guided step (batch 2, 512 x 512, 512 text tokens), peak memory, and seconds of a whole picture
in the released setting (50 steps) and a fast one (10), which are that many steps. Then the step in bf16 and int8 with
the card limited to 24, 16, 12 and 8 GB, where ComfyUI offloads what does not fit. On a machine without a GPU it says so
and runs the same code on a tiny model, to show that it works; its figures mean nothing.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .cost import BATCH, TEXT, import_host

SIDE, ROUNDS = 512, 5  # pixels, and calls of which the median counts
STEPS = {"released": 50, "fast": 10}
LIMITS_GB = (24, 16, 12, 8)
PRECISIONS = ("bf16", "fp8", "int8")
TINY = {"hidden_size": 64, "num_heads": 2, "double_blocks": 1, "single_blocks": 1, "decoder_blocks": 1}
TINY_SIDE = 64


class Bench:
    """What is measured, on one device."""

    def __init__(self) -> None:
        from ...model.network.config import TransformerConfig

        self.gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.gpu else "cpu")
        sizes = {} if self.gpu else {**TINY, "mlp_size": 192, "text_width": 32}
        self.config = TransformerConfig(**sizes)
        self.grid = (SIDE if self.gpu else TINY_SIDE) // 16
        self.text = TEXT if self.gpu else 16
        self.dtype = torch.bfloat16

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """Joint latent, levels, text."""
        shapes = ((BATCH, 384, self.grid, self.grid), (BATCH, 2), (BATCH, self.text, self.config.text_width))
        joint, levels, text = (torch.rand(shape, device=self.device) for shape in shapes)
        return joint.to(self.dtype), levels, text.to(self.dtype)

    def patcher(self, precision: str) -> Any:
        """A model of random weights, loaded as ComfyUI loads a file of that precision."""
        import comfy.sd

        from ...model.network.checkpoint import expected_shapes
        from ...model.network.quantise import note_of, stored
        from ...model.network.quantised import METADATA_KEY, as_metadata

        state, layers = {}, {}
        for key, shape in expected_shapes(self.config).items():
            tensor = torch.randn(shape, device=self.device, dtype=self.dtype) * 0.02
            note = note_of(key, shape, precision) if precision != "bf16" else None
            if note is None:
                state[key] = tensor.cpu()
                continue
            layer = key.removesuffix(".weight")
            layers[layer] = note
            state.update({f"{layer}.{name}": part.cpu() for name, part in stored(tensor, note).items()})
        metadata = {METADATA_KEY: as_metadata(layers)} if layers else {}
        options = {"dtype": self.dtype} if precision == "bf16" else {}
        return comfy.sd.load_diffusion_model_state_dict(state, model_options=options, metadata=metadata)

    def core(self) -> dict[str, float]:
        """ComfyUI's FLUX.2, measured."""
        from .cost import core_model

        module = core_model(self.config, self.dtype, self.device)
        for parameter in module.parameters():
            parameter.data.normal_(std=0.02)
        joint, levels, text = self.inputs()
        image = torch.cat([joint[:, :128], joint[:, 128:256]], dim=2)
        return self.measure(module, image, levels[:, 0], text)

    def measure(self, call: Callable[..., Any], *inputs: torch.Tensor) -> dict[str, float]:
        """Median seconds of a call, and the most memory during it."""
        seconds = []
        with torch.inference_mode():
            for round_ in range(ROUNDS + 2):  # two to warm up, and to compile
                if self.gpu:
                    torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
                call(*inputs)
                if self.gpu:
                    torch.cuda.synchronize()
                if round_ >= 2:
                    seconds.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.gpu else 0.0
        return {"seconds": statistics.median(seconds), "peak_gib": peak}


def run(bench: Bench) -> list[dict[str, Any]]:
    """All measurements, one after the other; the models go as soon as they are measured."""
    import comfy.model_management as memory

    rows = [{"what": "ComfyUI's FLUX.2", "precision": "bf16", **bench.core()}]
    for precision in PRECISIONS:
        patcher = bench.patcher(precision)
        joint, levels, text = bench.inputs()
        memory.load_models_gpu([patcher], memory_required=patcher.model.memory_required(list(joint.shape)))
        module = patcher.model.diffusion_model
        compiled = torch.compile(module, backend="inductor" if bench.gpu else "eager")
        for what, call in (("ours", module), ("ours, compiled", compiled)):
            rows.append({"what": what, "precision": precision, **bench.measure(call, joint, levels, text)})
        if precision != "fp8" and bench.gpu:
            rows += limited(bench, patcher, precision)
        memory.unload_all_models()
        del patcher, module, compiled, call
        memory.soft_empty_cache(True)
    return rows


def limited(bench: Bench, patcher: Any, precision: str) -> list[dict[str, Any]]:
    """The step with the card's memory limited: the rest is reserved, as `--reserve-vram` does."""
    import comfy.model_management as memory

    rows, total, before = [], torch.cuda.get_device_properties(0).total_memory, memory.EXTRA_RESERVED_VRAM
    for limit in LIMITS_GB:
        if limit * 1e9 >= total:
            continue
        memory.unload_all_models()
        memory.EXTRA_RESERVED_VRAM = int(total - limit * 1e9)
        joint, levels, text = bench.inputs()
        memory.load_models_gpu([patcher], memory_required=patcher.model.memory_required(list(joint.shape)))
        found = bench.measure(patcher.model.diffusion_model, joint, levels, text)
        rows.append({"what": f"ours, of {limit} GB", "precision": precision, **found})
    memory.EXTRA_RESERVED_VRAM = before
    return rows


def main(arguments: list[str]) -> int:
    """Measure, print a table and write one JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py bench gpu", description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="file for the figures (gpu.json)")
    options = parser.parse_args(arguments)
    host = import_host(gpu=torch.cuda.is_available())
    bench = Bench()
    name = torch.cuda.get_device_name() if bench.gpu else "no GPU"
    if not bench.gpu:
        print(
            "This machine has no GPU that torch can use. The same code runs on a tiny model; the figures mean nothing."
        )
    rows = run(bench)
    print("| what | precision | ms a step | peak GiB | s, released (50) | s, fast (10) |\n|---|---|---|---|---|---|")
    for row in rows:
        whole = {kind: row["seconds"] * steps for kind, steps in STEPS.items()}
        row.update({f"{kind}_seconds": seconds for kind, seconds in whole.items()})
        print(
            f"| {row['what']} | {row['precision']} | {1e3 * row['seconds']:.1f} | {row['peak_gib']:.2f} "
            f"| {whole['released']:.1f} | {whole['fast']:.1f} |"
        )
    report = {"device": name, "comfyui": host, "torch": torch.__version__, "side": 16 * bench.grid, "rows": rows}
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{name}, ComfyUI {host}, torch {torch.__version__}; written to {options.json}")
    return 0
