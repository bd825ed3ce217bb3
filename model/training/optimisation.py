"""Learning rate, averaged weights, and gradients of exact means."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .config import OptimiserSection
from .muon import build_muon, is_orthogonalised


def learning_rate(step: int, steps: int, section: OptimiserSection) -> float:
    """Rate of step 0..steps-1: linear warm-up, hold, cosine to `final_share` in the last `decay_share` of the steps."""
    warmup = min(1.0, (step + 1) / max(1, section.warmup_steps))
    start = steps * (1 - section.decay_share)
    progress = min(1.0, max(0.0, (step - start) / max(1.0, steps - start)))
    fall = section.final_share + (1 - section.final_share) * (1 + math.cos(math.pi * progress)) / 2
    return section.learning_rate * warmup * fall


def build_optimisers(parameters: dict[str, nn.Parameter], section: OptimiserSection) -> list[torch.optim.Optimizer]:
    """AdamW (arXiv 1711.05101), and before it, where `kind` says so, Muon for the matrices of the blocks."""
    if section.kind != "muon":
        return [_adamw(list(parameters.values()), section)]
    matrices = {name: p for name, p in parameters.items() if is_orthogonalised(name, p)}
    others = [p for name, p in parameters.items() if name not in matrices]
    return [build_muon(matrices, section), _adamw(others, section)]


def _adamw(parameters: list[nn.Parameter], section: OptimiserSection) -> torch.optim.Optimizer:
    """Weight decay on matrices only, not on the scales of norms and gates."""
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": section.weight_decay}, {"params": others, "weight_decay": 0.0}]
    options = {"lr": section.learning_rate, "betas": (section.beta1, section.beta2)}
    if section.kind == "adamw8bit":
        try:
            from torchao.optim import AdamW8bit
        except ImportError as error:
            raise ImportError("optimiser.kind adamw8bit needs torchao: pip install torchao") from error
        return AdamW8bit([g for g in groups if g["params"]], **options)
    if parameters[0].device.type == "cuda":
        options["fused"] = True  # one kernel; on CPUs its rounding would differ from earlier runs'
    return torch.optim.AdamW([g for g in groups if g["params"]], **options)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step; some optimisers hold it as a tensor."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class AveragedWeights:
    """Exponential moving average of the trained weights, with torch's own update.

    The decay of update k is min(decay, (1 + k) / (10 + k)): early averages would otherwise be full of the start.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.averages = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(_locals(self.averages), _locals(self.parameters), None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside of this."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        pairs = zip(_locals(self.averages), _locals(self.parameters), strict=True)
        for average, weight in pairs:
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


def local(tensor: Tensor) -> Tensor:
    """This process' part of a tensor, the same memory."""
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor.detach()


def _locals(tensors: dict[str, Tensor]) -> list[Tensor]:
    return [local(tensor) for tensor in tensors.values()]
