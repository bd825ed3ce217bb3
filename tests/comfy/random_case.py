"""A tiny model of random weights with inputs to sample it on, laid out as the golden files are."""

import json
from pathlib import Path

import torch
from modality_forcing.model.network.checkpoint import save_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from safetensors.torch import save_file

TEXT_WIDTH = 48
SIZES = {
    "v1": {"double_blocks": 1, "single_blocks": 2, "decoder_blocks": 1, "cross_stream": False},
    "v2": {"double_blocks": 2, "single_blocks": 3, "decoder_blocks": 2, "cross_stream": True},
}


def write(folder: Path, variant: str) -> str:
    """Write checkpoint and case of a variant ("v1" or "v2") into `folder`; returns the stem of their names."""
    stem = f"{variant}_random"
    generator = torch.Generator().manual_seed(len(variant) + int(variant[1:]))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    sizes = {"hidden_size": 64, "num_heads": 2, "mlp_size": 192, "text_width": TEXT_WIDTH}
    module = ModalityForcingTransformer(TransformerConfig(**sizes, **SIZES[variant]))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("cross_alpha"):
                parameter.fill_(0.5)
            elif parameter.ndim == 1:
                parameter.copy_(1 + 0.1 * normal(*parameter.shape))
            else:
                parameter.copy_(normal(*parameter.shape) * parameter.shape[1] ** -0.5)
    save_transformer(module, folder / f"{stem}.checkpoint.safetensors")
    tensors = {"rgb": normal(1, 128, 4, 4), "depth": normal(1, 256, 4, 4)}
    tensors.update({name: normal(1, 8, TEXT_WIDTH) for name in ("context", "null_context")})
    settings = {"steps": 4, "cfg": 4.0, "log2_alpha": 5.0, "mu": 1.1}
    save_file(tensors, folder / f"{stem}.case.safetensors", {"case": json.dumps(settings)})
    return stem
