"""``run.py bench gpu [--json FILE]``: a step of the released size on this machine's GPU, with random weights.

For bf16, fp8 and int8, plain and compiled, beside ComfyUI's own FLUX.2 of the same width, blocks and tokens, in one
process: seconds of one guided step (batch 2, 512 x 512, 512 text tokens), peak memory, and seconds of a whole picture
in the released setting (50 steps) and the fast one (10), which are that many steps. Then the step in bf16 and int8 with
the card limited to 24, 16, 12 and 8 GB, where ComfyUI offloads what does not fit (as it does without dynamic VRAM,
which only its server starts). It takes about 26 GB of the machine's own memory. What the card has too little memory for
and what cannot be compiled is said in its row; nothing is compiled after five minutes, and nothing is begun after
seven. Without a CUDA or ROCm GPU it says so and runs the same code on a tiny model, to show that it works; its figures
mean nothing.
"""

import argparse
import gc
import json
import math
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo.exc

from ...model.diffusion.settings import AS_RELEASED, FAST, SAMPLINGS
from .. import TaskError
from .cost import BATCH, TEXT, import_host
from .tables import heading, show

SIDE, ROUNDS = 512, 5  # pixels, and calls of which the median counts
STEPS = {"released": SAMPLINGS[AS_RELEASED].steps, "fast": SAMPLINGS[FAST].steps}
# From the start, so that all ends within eight minutes: what comes later is not begun.
COMPILE_SECONDS, LAST_SECONDS = 300, 420
ENOUGH_SECONDS = 15  # of calls, where one takes seconds
LIMITS_GB = (24, 16, 12, 8)
PRECISIONS = ("bf16", "fp8", "int8")
TINY = {"hidden_size": 64, "num_heads": 2, "double_blocks": 1, "single_blocks": 1, "decoder_blocks": 1}
TINY_SIDE = 64


class Bench:
    """What is measured, on one device."""

    def __init__(self) -> None:
        from ...model.network.config import TransformerConfig

        self.started, self.rows = time.monotonic(), []
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

        state, layers, shapes = {}, {}, expected_shapes(self.config)
        # Parts of one: ComfyUI copies them into the model, and twice the model may be more than the machine has.
        weights = torch.randn(max(map(math.prod, shapes.values())), dtype=self.dtype) * 0.02
        for key, shape in shapes.items():
            tensor = weights[: math.prod(shape)].view(shape)
            note = note_of(key, shape, precision) if precision != "bf16" else None
            if note is None:
                state[key] = tensor
                continue
            layer = key.removesuffix(".weight")
            layers[layer] = note
            parts = stored(tensor.to(self.device), note)
            state.update({f"{layer}.{name}": part.cpu() for name, part in parts.items()})
        metadata = {METADATA_KEY: as_metadata(layers)} if layers else {}
        options = {"dtype": self.dtype} if precision == "bf16" else {}
        return comfy.sd.load_diffusion_model_state_dict(state, model_options=options, metadata=metadata)

    def row(self, what: str, precision: str, measured: Callable[[], dict[str, float]], until: int) -> None:
        """Measure and print a row of the table; without figures where the card or the time does not suffice."""
        row: dict[str, Any] = {"what": what, "precision": precision, "seconds": None, "peak_gib": None}
        if time.monotonic() - self.started > until:
            row["what"] += ": no time left"
        else:
            try:
                row.update(measured())
            except torch.cuda.OutOfMemoryError:
                row["what"] += ": out of memory"
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = re.split(r"\n|\. ", str(getattr(error, "inner_exception", error)))[0]
                row["what"] += f": does not compile here ({reason})"
                torch._dynamo.reset()
                gc.collect()  # or weights stay held, which ComfyUI 0.3 then cannot move
        if self.gpu:
            torch.cuda.empty_cache()
        self.rows.append(row)
        figures = [""] * (2 + len(STEPS))
        if row["seconds"] is not None:
            whole = {kind: row["seconds"] * steps for kind, steps in STEPS.items()}
            row.update({f"{kind}_seconds": seconds for kind, seconds in whole.items()})
            figures = [f"{1e3 * row['seconds']:.1f}", f"{row['peak_gib']:.2f}", *(f"{s:.1f}" for s in whole.values())]
        show(row["what"], precision, *figures)

    def step(self, patcher: Any, call: Callable[..., Any]) -> dict[str, float]:
        """A call of the model or its compiled form, measured, after it is loaded as ComfyUI does: as much as fits."""
        import comfy.model_management as memory

        joint, levels, text = self.inputs()
        memory.load_models_gpu([patcher], memory_required=patcher.model.memory_required(list(joint.shape)))
        return self.measure(call, joint, levels, text)

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
                if sum(seconds) > ENOUGH_SECONDS:
                    break
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.gpu else 0.0
        return {"seconds": statistics.median(seconds), "peak_gib": peak}


def run(bench: Bench) -> list[dict[str, Any]]:
    """All measurements, one after the other; the models go as soon as they are measured."""
    import comfy.model_management as memory
    import comfy.quant_ops

    from ...model.network.quantise import NOTES

    known = [p for p in PRECISIONS if p == "bf16" or NOTES[p]["format"] in comfy.quant_ops.QUANT_ALGOS]
    if left_out := [p for p in PRECISIONS if p not in known]:
        print(f"This ComfyUI does not run {', '.join(left_out)}.")
    heading("what", "precision", "ms a step", "peak GiB", *(f"s, {kind} ({n})" for kind, n in STEPS.items()))
    bench.row("ComfyUI's FLUX.2", "bf16", bench.core, LAST_SECONDS)
    for precision in known:
        patcher = bench.patcher(precision)
        module = patcher.model.diffusion_model
        bench.row("ours", precision, partial(bench.step, patcher, module), LAST_SECONDS)
        compiled = torch.compile(module, backend="inductor" if bench.gpu else "eager")
        bench.row("ours, compiled", precision, partial(bench.step, patcher, compiled), COMPILE_SECONDS)
        del compiled
        if precision != "fp8" and bench.gpu:
            limited(bench, patcher, precision)
        memory.unload_all_models()
        del patcher, module
        memory.soft_empty_cache(True)
    return bench.rows


def limited(bench: Bench, patcher: Any, precision: str) -> None:
    """The step with the card's memory limited: the rest is reserved, as `--reserve-vram` does."""
    import comfy.model_management as memory

    total, before = torch.cuda.get_device_properties(0).total_memory, memory.EXTRA_RESERVED_VRAM
    step = partial(bench.step, patcher, patcher.model.diffusion_model)
    for limit in LIMITS_GB:
        if limit * 1e9 >= total:
            continue
        memory.unload_all_models()
        torch.cuda.empty_cache()
        memory.EXTRA_RESERVED_VRAM = int(total - limit * 1e9) + before
        torch.cuda.set_per_process_memory_fraction(limit * 1e9 / total)  # what goes beyond it fails
        try:
            bench.row(f"ours, of {limit} GB", precision, step, LAST_SECONDS)
        finally:
            memory.EXTRA_RESERVED_VRAM = before
            torch.cuda.set_per_process_memory_fraction(1.0)


def main(arguments: list[str]) -> int:
    """Measure, print a table and write one JSON; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py bench gpu", description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="new file for the figures (gpu.json)")
    options = parser.parse_args(arguments)
    if options.json.exists() or not options.json.parent.is_dir():
        raise TaskError(f"got --json {options.json}: expected the name of a new file in a folder that exists.")
    host = import_host(gpu=torch.cuda.is_available())
    bench = Bench()
    name = torch.cuda.get_device_name() if bench.gpu else "no GPU"
    if not bench.gpu:
        print("torch finds no CUDA or ROCm GPU here. The same code runs on a tiny model; the figures mean nothing.")
    rows = run(bench)
    report = {"device": name, "comfyui": host, "torch": torch.__version__, "side": 16 * bench.grid, "rows": rows}
    with options.json.open("x", encoding="utf-8") as file:
        file.write(json.dumps(report, indent=1) + "\n")
    print(f"\n{name}, ComfyUI {host}, torch {torch.__version__}; written to {options.json}")
    return 0
