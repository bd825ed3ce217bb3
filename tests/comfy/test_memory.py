"""Costs and memory of the model on this host, by scripts of this folder that run in processes of their own."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from modality_forcing.tasks import HOST_VARIABLE, PYTHON_VARIABLE, named_path


def figures(script: str) -> dict:
    """What a script of this folder prints, run with the host's interpreter."""
    host, path = named_path(HOST_VARIABLE), Path(__file__).parent / script
    command = [str(named_path(PYTHON_VARIABLE)), str(path)]
    variables = {**os.environ, HOST_VARIABLE: str(host)}
    out = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


def test_reserved_memory_is_that_of_the_counted_activations_and_a_step_is_lean():
    found = figures("count_memory.py")
    step, ratios = found["step"], found["ratios"]
    most = (50, 600, 0.65) if step["fused"] else (65, 740, 0.65)  # core's FLUX.2: 57, 597, 0.68 and 84, 757, 0.72
    assert all(step[name] < limit for name, limit in zip(("traffic GB", "kernels", "live GiB"), most, strict=True))
    assert len(ratios) == 12
    assert {name: ratio for name, ratio in ratios.items() if not 1.0 <= ratio <= 1.25} == {}


def test_under_dynamic_vram_a_block_is_fetched_whole_before_it_runs():
    if not (named_path(HOST_VARIABLE) / "comfy" / "model_prefetch.py").is_file():
        pytest.skip("this ComfyUI does not fetch weights ahead")
    everything, a_part, depth_given = figures("run_prefetch.py")
    blocks = [f"double_blocks.{i}" for i in range(2)] + [f"single_blocks.{i}" for i in range(4)]
    decoder = [f"depth_decoder_blocks.{i}" for i in range(2)]
    for run, names in ((everything, blocks + decoder), (a_part, blocks + decoder), (depth_given, blocks)):
        assert run["patcher"] == "ModelPatcherDynamic"
        assert run["equal"]
        layers = [12 if name.startswith("double") else 2 for name in names]
        assert run["events"] == 2 * [[name, n, n, 0] for name, n in zip(names, layers, strict=True)]
        assert run["left"] == 0
    assert all(everything["kept"])
    assert set(a_part["kept"]) == {True, False}


def test_what_is_measured_on_a_gpu():
    found = figures("run_bench_gpu.py")
    rows = {(row["what"], row["precision"]): row["seconds"] for row in found["rows"]}
    empty = {key for key, seconds in rows.items() if seconds is None}
    uncompiled = {(what, precision) for what, precision in empty if what.startswith("ours, compiled: does not compile")}
    assert [(precision, "triton" in what) for what, precision in uncompiled] == [("fp8", True)]
    failed = {"ComfyUI's FLUX.2: out of memory", "ours, of 16 GB: out of memory", "late: no time left"}
    assert empty - uncompiled == {(what, "bf16") for what in failed}
    limits = {f"ours, of {limit} GB" for limit in (24, 16, 12, 8)}
    knows_int8 = "int8_tensorwise" in (named_path(HOST_VARIABLE) / "comfy" / "quant_ops.py").read_text(encoding="utf-8")
    names = {
        "bf16": {"ours", "ours, compiled", *limits} - {"ours, of 16 GB"},
        "fp8": {"ours"},
        "int8": {"ours", "ours, compiled", *limits} if knows_int8 else set(),
    }
    assert set(rows) - empty == {(what, precision) for precision, whats in names.items() for what in whats}
    assert all(rows[key] > 0 for key in set(rows) - empty)
    assert found["fractions"] == [0.3, 1.0, 0.2, 1.0, 0.15, 1.0, 0.1, 1.0] * (1 + knows_int8)
