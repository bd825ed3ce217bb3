"""Adapters (LoRA, arXiv 2106.09685, by peft) beside frozen weights: training on one GPU.

The frozen weights are kept in float32, bfloat16 or, in the blocks, in 8 bits (torchao's weights with a scale for each
row), on the card or in host memory. What a text-to-image model has nothing of (depth's input, decoder, head) is trained
whole where training starts from one. The result is a LoRA that ComfyUI's own loader takes, or a whole checkpoint.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..network.checkpoint import CheckpointError, load_transformer, save_atomically, save_transformer
from ..network.config import BLOCKS
from ..network.transformer import ModalityForcingTransformer
from .config import LoraSection
from .lora_layers import is_adapted, is_fresh

INSTALL = "adapters need peft: pip install peft"
PREFIX = "diffusion_model."  # what ComfyUI calls the transformer
DOWN, UP, SCALE = ".lora_A.weight", ".lora_B.weight", ".alpha"
BASE = ".base_layer.weight"


def add_adapters(
    module: nn.Module, section: LoraSection, *, fresh: bool, device: Any, seed: int = 0
) -> dict[str, nn.Parameter]:
    """Freeze a module and put adapters beside its blocks' layers; returns what is trained, in float32, by name.

    Args:
        fresh: train the modules whole that no text-to-image model has, instead of putting adapters beside them.
        seed: of the adapters' start, drawn on the CPU.
        device: where the module is moved to; blocks' frozen weights stay where they are with `section.offload`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(INSTALL) from error
    module.requires_grad_(False)
    whole = [name for name, _ in module.named_parameters() if fresh and is_fresh(name)]
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and is_adapted(name)]
    layers = [name for name in layers if f"{name}.weight" not in whole]
    settings = LoraConfig(r=section.rank, lora_alpha=section.alpha or section.rank, target_modules=layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, module)
    trained = {name: p for name, p in module.named_parameters() if ".lora_" in name or name in whole}
    for parameter in trained.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    if section.base == "int8":
        _quantise(module)
    if section.offload:
        _offload(module, torch.device(device))
    else:
        module.to(device)
    return trained


def frozen_dtype(section: LoraSection) -> torch.dtype:
    """In which a module is loaded before it gets its adapters."""
    return torch.float32 if section.base == "float32" else torch.bfloat16


class OwnTeacher:
    """The text-to-image model that training started from: the module without its adapters and without depth."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, rgb: Tensor, depth: None, context: Tensor, t_rgb: Tensor) -> tuple[Tensor, None]:
        with without_adapters(self.module):
            return self.module(rgb, None, context, t_rgb)


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """The module computes as it did before it got adapters."""
    layers = [layer for layer in module.modules() if hasattr(layer, "enable_adapters")]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def save_lora(module: nn.Module, section: LoraSection, path: Path) -> None:
    """Write the adapters by the names of ComfyUI's layers."""
    tensors, alpha = {}, float(section.alpha or section.rank)
    for name, (down, up) in _adapters(module).items():
        tensors |= {f"{PREFIX}{name}{DOWN}": down, f"{PREFIX}{name}{UP}": up}
        tensors[f"{PREFIX}{name}{SCALE}"] = torch.tensor(alpha)
    save_atomically({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)


def save_merged(module: nn.Module, base: ModalityForcingTransformer, section: LoraSection, path: Path) -> None:
    """Write a whole checkpoint: the adapters added to the weights that training began from, and what was trained whole.

    `base`: the module as it was at the start, in the type to be stored.
    """
    scale = (section.alpha or section.rank) / section.rank
    adapted = {name: (down, up, scale) for name, (down, up) in _adapters(module).items()}
    whole = {name: p for name, p in module.named_parameters() if p.requires_grad and ".lora_" not in name}
    _add(base, adapted)
    with torch.no_grad():
        for name, parameter in whole.items():
            base.get_parameter(name).copy_(parameter)
    save_transformer(base, path, {"stage": "post_train"})


def merge(checkpoint: str | Path, lora: str | Path, out: str | Path, dtype: torch.dtype = torch.bfloat16) -> int:
    """Add a LoRA to a checkpoint; returns the number of layers that it changes.

    Raises:
        CheckpointError: the LoRA is damaged, or of another model.
    """
    try:
        tensors = load_file(lora)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{lora} cannot be read as a LoRA: {error}") from error
    base = load_transformer(checkpoint, dtype)
    names = {key.removesuffix(DOWN).removeprefix(PREFIX) for key in tensors if key.endswith(DOWN)}
    layers = dict(base.named_modules())
    unknown = sorted(name for name in names if not isinstance(layers.get(name), nn.Linear))
    if unknown or not names:
        raise CheckpointError(
            f"{lora} does not belong to {checkpoint}: "
            + (f"there is no layer {unknown[0]}" if unknown else f"expected keys like {PREFIX}<layer>{DOWN}")
        )
    adapted = {}
    for name in names:
        down, up = (tensors.get(f"{PREFIX}{name}{end}") for end in (DOWN, UP))
        shape = layers[name].weight.shape
        if up is None or (up.shape[0], down.shape[-1]) != shape or up.shape[1] != down.shape[0]:
            raise CheckpointError(f"{lora}: {name} does not fit a layer of {tuple(shape)}")
        alpha = tensors.get(f"{PREFIX}{name}{SCALE}")
        adapted[name] = (down, up, 1.0 if alpha is None else float(alpha) / down.shape[0])
    _add(base, adapted)
    save_transformer(base, Path(out))
    return len(adapted)


def _adapters(module: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """(rank,inputs) and (outputs,rank) of each adapted layer, float32."""
    found = {}
    for name, layer in module.named_modules():
        if hasattr(layer, "lora_A"):
            found[name] = tuple(part["default"].weight.detach().float() for part in (layer.lora_A, layer.lora_B))
    return found


@torch.no_grad()
def _add(base: nn.Module, adapted: dict[str, tuple[Tensor, Tensor, float]]) -> None:
    for name, (down, up, scale) in adapted.items():
        weight = base.get_parameter(f"{name}.weight")
        change = scale * up.float().to(weight.device) @ down.float().to(weight.device)
        weight.copy_(weight.float() + change)


def _quantise(module: nn.Module) -> None:
    """Frozen layers beside adapters in 8 bits."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ImportError("weights in 8 bits need torchao: pip install torchao") from error
    quantize_(module, Int8WeightOnlyConfig(), filter_fn=lambda _, name: name.endswith("base_layer"))
    for name, layer in module.named_modules():
        if name.endswith("base_layer"):  # autocast does not know the type, and would leave inputs in float32
            layer.register_forward_pre_hook(lambda _, args: (args[0].to(torch.bfloat16),))


def _offload(module: nn.Module, device: torch.device) -> None:
    """Keep blocks' frozen weights in host memory; they come to the device for the block's own computation.

    With gradient checkpointing that is once forward and once backward; nothing else holds the copies.
    """
    blocks = [block for name in BLOCKS for block in getattr(module, name, ())]
    inside = {id(p) for block in blocks for p in block.parameters() if not p.requires_grad}
    for parameter in module.parameters():
        if id(parameter) not in inside:
            parameter.data = parameter.data.to(device)
        elif device.type == "cuda":
            parameter.data = parameter.data.pin_memory()
    for block in blocks:
        block.forward = _fetching(block, device)


def _fetching(block: nn.Module, device: torch.device) -> Any:
    frozen = {name: p for name, p in block.named_parameters() if not p.requires_grad}
    compute = type(block).forward

    class Plain(nn.Module):
        """Calls the block's own forward where its weights have been exchanged."""

        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, *args: Any) -> Any:
            return compute(self.block, *args)

    plain = Plain()

    def forward(*args: Any) -> Any:
        fetched = {f"block.{name}": p.to(device, non_blocking=True) for name, p in frozen.items()}
        return torch.func.functional_call(plain, fetched, args)

    return forward
