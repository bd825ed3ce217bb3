"""Names of LoRA layers: each convention means the weight, and the rows of it, that it should."""

import pytest
import torch
from modality_forcing.model.network.lora import check_sizes, depth_twin, layer_names, names_of, stream_of

QKV = "double_blocks.3.img_attn.qkv.weight"


@pytest.mark.parametrize(
    ("name", "key", "rows"),
    [
        ("dit.double_blocks.3.img_attn.qkv", QKV, None),
        ("diffusion_model.double_blocks.3.img_attn.qkv", QKV, None),
        ("lora_unet_double_blocks_3_img_attn_qkv", QKV, None),
        ("transformer.transformer_blocks.3.attn.to_k", QKV, slice(4, 8)),
        ("lycoris_transformer_blocks_3_attn_to_v", QKV, slice(8, 12)),
        ("transformer.transformer_blocks.3.ff_context.linear_out", "double_blocks.3.txt_mlp.2.weight", None),
        ("lora_transformer_single_transformer_blocks_7_attn_to_qkv_mlp_proj", "single_blocks.7.linear1.weight", None),
        ("dit.double_blocks.0.depth_mlp.0", "double_blocks.0.depth_mlp.0.weight", None),
    ],
)
def test_a_name_means_a_weight(name, key, rows):
    assert dict(names_of(key, (12, 4)))[name] == rows


def test_layers_of_a_file():
    keys = [
        "a.b.lora_A.weight",
        "a.b.lora_B.weight",
        "a.b.alpha",
        "c_d.lokr_w1",
        "e.hada_w1_a",
        "f.diff",
        "g.dora_scale",
    ]
    assert layer_names(keys) == {"a.b", "c_d", "e", "f", "g"}


def test_streams():
    names = {"text": "double_blocks.0.txt_mlp.0.weight", "depth": "depth_decoder_blocks.0.linear1.weight"}
    names["image"] = "single_blocks.0.linear1.weight"
    assert {stream: stream_of(f"diffusion_model.{key}") for stream, key in names.items()} == {s: s for s in names}
    assert stream_of("diffusion_model.double_stream_modulation_txt.lin.weight") == "text"
    assert stream_of("diffusion_model.txt_in.weight") == "text"
    assert depth_twin(QKV) == "double_blocks.3.depth_attn.qkv.weight"
    assert depth_twin("single_blocks.0.linear1.weight") is None


def test_a_lora_of_another_width():
    tensors = {"x.lora_up.weight": torch.zeros(9, 2), "x.lora_down.weight": torch.zeros(2, 4)}
    check_sizes("x", tensors, (9, 4), None)
    with pytest.raises(ValueError, match="9 x 4; this model's has 4 x 4"):
        check_sizes("x", tensors, (12, 4), slice(4, 8))
