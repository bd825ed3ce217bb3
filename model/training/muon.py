"""Muon for the matrices of the blocks: steps that are orthogonal, each linear map by itself."""

from typing import Any

import torch
from torch import nn

from ..network.config import BLOCKS
from .config import OptimiserSection


def build_muon(matrices: dict[str, nn.Parameter], section: OptimiserSection) -> "Muon":
    """Muon for weights of blocks by their names. Its steps are as long as AdamW's: one learning rate fits both."""
    groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for name, matrix in matrices.items():
        groups.setdefault(linear_maps(name, matrix), []).append(matrix)
    return Muon(
        [{"params": members, "rows": rows} for rows, members in groups.items()],
        lr=section.learning_rate,
        weight_decay=section.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )


def is_orthogonalised(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix between hidden states: one of attention or of an MLP."""
    return name.split(".")[0] in BLOCKS and parameter.ndim == 2


def linear_maps(name: str, matrix: torch.Tensor) -> tuple[int, ...]:
    """The rows of each linear map in a weight of a block: query, key, value and the halves of an MLP lie in one.

    matrix: (rows, columns). The layouts are those of `network.layers`.
    """
    rows, width = matrix.shape
    if name.endswith("qkv.weight"):
        return (rows // 3,) * 3
    if name.endswith("linear1.weight"):
        return (width,) * 3 + ((rows - 3 * width) // 2,) * 2
    return (rows // 2,) * 2 if name.endswith("mlp.0.weight") else (rows,)


class Muon(torch.optim.Muon):
    """torch's Muon (K. Jordan 2024; length of the steps from arXiv 2502.16982, eq. 4), cut into linear maps.

    As a whole, a matrix that holds several maps would give each the share of the step that its gradient has.
    """

    def _init_group(self, group: dict[str, Any], params: list, grads: list, muon_momentum_bufs: list) -> bool:
        whole: tuple[list, list, list] = ([], [], [])
        is_complex = super()._init_group(group, *whole)
        for found, maps in zip(whole, (params, grads, muon_momentum_bufs), strict=True):
            maps.extend(part for matrix in found for part in matrix.split(group["rows"]))
        return is_complex
