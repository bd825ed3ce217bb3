"""``run.py bench cost [--sides 512 1024]``: what one forward pass of the released size costs, without a GPU or weights.

Counted on torch's meta device, for a batch of 2 (one guided step) with 512 text tokens in bfloat16:

TFLOP         of the matrix products and of attention
traffic GB    that all other operations read and write: each input once, each output once; broadcast inputs count their
              real elements, views nothing
copies GB     of these, but not in "traffic": casts, and reshapes that have to copy
kernels       operations that are neither matrix products nor attention nor views
live GiB      of activations alive at once, at most; weights do not count

for the plain module, for the module as this ComfyUI runs it, and for ComfyUI's own FLUX.2 of the same width and blocks
on as many tokens as our image and depth have together. A fused kernel counts as one that reads its inputs and writes
its outputs. The counts do not depend on the machine.
"""

import argparse
import sys
import weakref
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .. import HOST_VARIABLE, named_path
from ..host.launch import keep_torchvision_importable
from .tables import heading, show

BATCH, TEXT, PIXELS_PER_TOKEN = 2, 512, 16
MATRIX = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "_scaled_dot_product", "scaled_dot_product")
FREE = ("empty", "empty_like", "detach", "_unsafe_view", "view", "alias", "lift_fresh")


class Counter(TorchDispatchMode):
    """Bytes and kernels of what is no matrix product, and the most bytes alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.copied = self.kernels = self.now = self.peak = 0
        self.live: dict[int, int] = {}

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.name().split("::")[1].split(".")[0]
        read, made = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)] for tree in ((args, kwargs), out)
        )
        moved = sum(map(real_bytes, read + made))
        if func.is_view:
            sources = {tensor.untyped_storage()._cdata for tensor in read}
            self.copied += moved * any(tensor.untyped_storage()._cdata not in sources for tensor in made)
        elif name not in FREE and not name.startswith(MATRIX):
            self.bytes += moved
            self.kernels += 1
        for storage in [tensor.untyped_storage() for tensor in made]:
            if storage._cdata not in self.live:
                self.live[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage._cdata)
        return out

    def _freed(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def real_bytes(tensor: torch.Tensor) -> int:
    """Bytes of the elements that a tensor really has: broadcast axes count once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * tensor.element_size()


def count(call: Callable[[], Any]) -> dict[str, float]:
    """The counts of one call on meta tensors."""
    with torch.inference_mode(), Counter() as cost:
        call()
    with torch.inference_mode(), FlopCounterMode(display=False) as flops:
        call()
    return {
        "TFLOP": flops.get_total_flops() / 1e12,
        "traffic GB": cost.bytes / 1e9,
        "copies GB": cost.copied / 1e9,
        "kernels": cost.kernels,
        "live GiB": cost.peak / 2**30,
    }


def plain_call(side: int, wanted: tuple[str, ...] = ("rgb", "depth")) -> Callable[[], Any]:
    """The module alone."""
    from ...model.network.config import TransformerConfig
    from ...model.network.transformer import ModalityForcingTransformer

    with torch.device("meta"):
        module = ModalityForcingTransformer(TransformerConfig(), dtype=torch.bfloat16).eval()
        grid = side // PIXELS_PER_TOKEN
        rgb, depth = (torch.empty(BATCH, c, grid, grid, dtype=torch.bfloat16) for c in (128, 256))
        text, level = torch.empty(BATCH, TEXT, 12288, dtype=torch.bfloat16), torch.empty(BATCH)
    return lambda: module(rgb, depth, text, level, level, wanted=wanted)


def native_call(side: int) -> Callable[[], Any]:
    """The module with ComfyUI's kernels and layers."""
    import comfy.ops

    from ...model.network.config import TransformerConfig
    from ...nodes.native.transformer import NativeTransformer

    operations = comfy.ops.disable_weight_init
    with torch.device("meta"):
        module = NativeTransformer(TransformerConfig(), dtype=torch.bfloat16, device="meta", operations=operations)
        grid = side // PIXELS_PER_TOKEN
        joint = torch.empty(BATCH, 384, grid, grid, dtype=torch.bfloat16)
        text, levels = torch.empty(BATCH, TEXT, 12288, dtype=torch.bfloat16), torch.empty(BATCH, 2)
    return lambda: module(joint, levels, text)


def core_call(side: int) -> Callable[[], Any]:
    """ComfyUI's FLUX.2 of the same width and blocks, on as many tokens."""
    from ...model.network.config import TransformerConfig

    with torch.device("meta"):
        module = core_model(TransformerConfig(), torch.bfloat16, "meta")
        grid = side // PIXELS_PER_TOKEN
        image = torch.empty(BATCH, 128, 2 * grid, grid, dtype=torch.bfloat16)
        text, level = torch.empty(BATCH, TEXT, 12288, dtype=torch.bfloat16), torch.empty(BATCH)
    return lambda: module(image, level, text)


def core_model(config: Any, dtype: torch.dtype, device: Any) -> torch.nn.Module:
    """ComfyUI's FLUX.2 of our configuration's sizes, without weights."""
    import comfy.ldm.flux.model
    import comfy.ops

    settings = {
        **{"in_channels": 128, "out_channels": 128, "hidden_size": config.hidden_size, "num_heads": config.num_heads},
        **{"mlp_ratio": config.mlp_size / config.hidden_size, "context_in_dim": config.text_width},
        **{"depth": config.double_blocks, "depth_single_blocks": config.single_blocks, "theta": config.rope_theta},
        **{"axes_dim": [config.head_size // 4] * 4, "vec_in_dim": None, "patch_size": 1, "qkv_bias": False},
        **{"global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "guidance_embed": False},
        "txt_ids_dims": [3],
    }
    known = {field.name for field in fields(comfy.ldm.flux.model.FluxParams)}  # some came after 0.3.75
    settings = {name: value for name, value in settings.items() if name in known}
    operations = comfy.ops.disable_weight_init
    return comfy.ldm.flux.model.Flux(**settings, dtype=dtype, device=device, operations=operations)


def import_host(gpu: bool = False) -> str:
    """Make ComfyUI importable as its own start does, and the pack's model known to it; returns its version."""
    sys.path.insert(0, str(named_path(HOST_VARIABLE)))
    sys.argv = [sys.argv[0], *([] if gpu else ["--cpu"]), "--use-pytorch-cross-attention"]  # the attention of GPUs
    keep_torchvision_importable()
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfyui_version

    from ...nodes.native.detection import register

    register()
    return comfyui_version.__version__


def main(arguments: list[str]) -> int:
    """Count and print a table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py bench cost", description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024], help="picture sizes in pixels (512 1024)")
    options = parser.parse_args(arguments)
    host = import_host()
    calls = {
        "plain module": plain_call,
        "plain, depth given": lambda side: plain_call(side, ("rgb",)),
        "plain, RGB given": lambda side: plain_call(side, ("depth",)),
        f"in ComfyUI {host}": native_call,
        f"FLUX.2 of ComfyUI {host}": core_call,
    }
    figures = {"TFLOP": ".1f", "traffic GB": ".1f", "copies GB": ".1f", "kernels": "d", "live GiB": ".2f"}
    heading("side", "what", *figures)
    for side in options.sides:
        for name, make in calls.items():
            row = count(make(side))
            show(side, name, *(format(row[figure], form) for figure, form in figures.items()))
    return 0
