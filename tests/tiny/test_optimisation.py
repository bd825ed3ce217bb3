"""Muon takes the matrices of the blocks, and moves each linear map in them as far as any other."""

import torch
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.model.training.config import OptimiserSection
from modality_forcing.model.training.optimisation import build_optimisers

RATE = 1e-2


def test_each_linear_map_moves_orthogonally_and_as_far():
    torch.manual_seed(0)
    config = TransformerConfig(32, 2, double_blocks=1, single_blocks=1, decoder_blocks=1, mlp_size=48, text_width=8)
    parameters = dict(ModalityForcingTransformer(config).named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimisers = build_optimisers(parameters, OptimiserSection(kind="muon", learning_rate=RATE, weight_decay=0.0))
    seen = [id(p) for each in optimisers for group in each.param_groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in parameters.values())
    for p in parameters.values():  # later rows have far larger gradients: query, key and value differ so in training
        p.grad = torch.randn_like(p) * torch.logspace(-3, 0, len(p)).view(-1, *[1] * (p.ndim - 1))
    for each in optimisers:
        each.step()
    moved = {name: before[name] - p.detach() for name, p in parameters.items()}
    maps = {
        "double_blocks.0.img_attn.qkv.weight": (32, 32, 32),
        "double_blocks.0.depth_mlp.0.weight": (48, 48),
        "double_blocks.0.txt_mlp.2.weight": (32,),
        "single_blocks.0.linear1.weight": (32, 32, 32, 48, 48),
        "depth_decoder_blocks.0.linear2.weight": (32,),
    }
    for name, rows in maps.items():
        for each in moved[name].split(rows):
            assert 0.14 * RATE < each.square().mean().sqrt() < 0.25 * RATE, name  # AdamW's steps: about 0.2 of the rate
            lengths = torch.linalg.svdvals(each) / (0.2 * RATE * max(each.shape) ** 0.5)
            assert lengths.median() > 0.6 and lengths.max() < 1.3, name
    for name in ("img_in.weight", "double_stream_modulation_img.lin.weight", "depth_final_layer.linear.weight"):
        torch.testing.assert_close(moved[name].abs(), torch.full_like(moved[name], RATE), rtol=0.1, atol=0)
