"""``run.py bench step``: one denoising step of our transformer beside diffusers' FLUX.2 transformer, in one run.

Both have the same width, blocks and sequence: text, and as many image tokens for diffusers as we have image and depth
tokens together. What ours does on top (depth's own weights in the double blocks cost nothing extra a token; the depth
decoder and two heads do) is counted in floating-point operations by torch.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...model.network.config import TransformerConfig
from ...model.network.transformer import ModalityForcingTransformer
from ..host.launch import keep_torchvision_importable


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py bench step", description=__doc__)
    parser.add_argument("--hidden", type=int, default=768, help="width (768)")
    parser.add_argument("--blocks", type=int, nargs=3, default=(2, 6, 1), help="double, single, decoder (2 6 1)")
    parser.add_argument("--side", type=int, default=256, help="picture size in pixels (256)")
    parser.add_argument("--text", type=int, default=64, help="text tokens (64)")
    parser.add_argument("--rounds", type=int, default=9, help="alternating rounds, the median counts (9)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kwargs = {"dtype": getattr(torch, options.dtype), "device": device}
    torch.manual_seed(0)
    calls = {"ours": _ours(options, kwargs), "diffusers": _diffusers(options, kwargs)}
    operations = {name: _count(call) for name, call in calls.items()}
    seconds = {name: [] for name in calls}
    for round_ in range(options.rounds + 1):
        for name, call in calls.items():
            taken = _time(call, device)
            if round_:  # the first round warms up
                seconds[name].append(taken)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    spread = {name: (max(values) - min(values)) / median[name] for name, values in seconds.items()}
    for name in calls:
        print(
            f"{name:10} {median[name] * 1e3:9.1f} ms (spread {spread[name]:.0%})  {operations[name] / 1e9:9.2f} GFLOP"
        )
    print(f"time ratio ours / diffusers        {median['ours'] / median['diffusers']:.2f}")
    print(f"operation ratio ours / diffusers   {operations['ours'] / operations['diffusers']:.2f}")
    print(f"torch {torch.__version__}, diffusers {version('diffusers')}, {device}, {options.dtype}")
    return 0


def _ours(options: argparse.Namespace, kwargs: dict) -> Callable[[], object]:
    double, single, decoder = options.blocks
    config = TransformerConfig(
        options.hidden, options.hidden // 64, double, single, decoder, 3 * options.hidden, text_width=1024
    )
    module = ModalityForcingTransformer(config, **kwargs).eval()
    grid = options.side // 16
    rgb, depth = (torch.randn(1, channels, grid, grid, **kwargs) for channels in (128, 256))
    text, level = torch.randn(1, options.text, 1024, **kwargs), torch.rand(1, device=kwargs["device"])
    return lambda: module(rgb, depth, text, level, level)


def _diffusers(options: argparse.Namespace, kwargs: dict) -> Callable[[], object]:
    keep_torchvision_importable()
    from diffusers import Flux2Transformer2DModel

    double, single, _ = options.blocks
    module = Flux2Transformer2DModel(
        in_channels=128,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=64,
        num_attention_heads=options.hidden // 64,
        joint_attention_dim=1024,
        mlp_ratio=3.0,
        axes_dims_rope=(16, 16, 16, 16),
        guidance_embeds=False,
    )
    module = module.to(**kwargs).eval()
    length = 2 * (options.side // 16) ** 2
    image, text = (torch.randn(1, n, c, **kwargs) for n, c in ((length, 128), (options.text, 1024)))
    ids = {"img_ids": torch.zeros(length, 4), "txt_ids": torch.zeros(options.text, 4)}
    ids = {name: value.to(kwargs["device"]) for name, value in ids.items()}
    level = torch.rand(1, device=kwargs["device"])
    return lambda: module(hidden_states=image, encoder_hidden_states=text, timestep=level, guidance=None, **ids)


@torch.inference_mode()
def _count(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@torch.inference_mode()
def _time(call: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
