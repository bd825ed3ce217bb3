"""The transformer against facts of its own: golden outputs, shapes, streams, hooks, gradients."""

import pytest
import torch
from modality_forcing.model.network.config import VARIANTS, TransformerConfig, config_from_shapes
from modality_forcing.model.network.kernels import Kernels, rotate
from modality_forcing.model.network.layers import timestep_embedding
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from safetensors.torch import load_file

TINY = TransformerConfig(64, 2, double_blocks=2, single_blocks=2, decoder_blocks=1, mlp_size=96, text_width=24)


def tiny(config: TransformerConfig = TINY) -> ModalityForcingTransformer:
    torch.manual_seed(0)
    return ModalityForcingTransformer(config).eval()


def inputs(batch: int = 2, h: int = 3, w: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.manual_seed(1)
    return {
        "rgb": torch.randn(batch, 128, h, w, generator=generator),
        "depth": torch.randn(batch, 256, h, w, generator=generator),
        "context": torch.randn(batch, 7, 24, generator=generator),
        "t_rgb": torch.rand(batch, generator=generator),
        "t_depth": torch.rand(batch, generator=generator),
    }


def test_released_size():
    """11.99 B parameters: 9.08 B of FLUX.2-klein and 2.91 B for depth (arXiv 2606.13676)."""

    def count(config):
        with torch.device("meta"):
            return sum(p.numel() for p in ModalityForcingTransformer(config).parameters())

    whole = count(VARIANTS["flux_rgbd_9b_v2"])
    base = count(TransformerConfig(depth_channels=0))
    assert round(whole / 1e9, 2) == 11.99
    assert round(base / 1e9, 2) == 9.08
    assert round((whole - base) / 1e9, 2) == 2.91


def test_sizes_are_read_off_the_shapes():
    for config in (TINY, TransformerConfig(64, 2, 1, 3, 2, 128, 40, cross_stream=False), VARIANTS["flux_rgbd_9b_v2"]):
        with torch.device("meta"):
            shapes = {k: tuple(v.shape) for k, v in ModalityForcingTransformer(config).state_dict().items()}
        assert config_from_shapes(shapes) == config


def test_impossible_heads_are_refused():
    with pytest.raises(ValueError, match="heads of 21.3333"):
        TransformerConfig(hidden_size=64, num_heads=3)
    with pytest.raises(ValueError, match="multiple of 8"):
        TransformerConfig(hidden_size=64, num_heads=16)


@torch.no_grad()
def test_batch_equals_single():
    module, batch = tiny(), inputs()
    both = module(**batch)
    for i in range(2):
        alone = module(**{name: value[i : i + 1] for name, value in batch.items()})
        for whole, part in zip(both, alone, strict=True):
            torch.testing.assert_close(whole[i : i + 1], part, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_each_level_reaches_both_modalities_only_through_their_own_paths():
    """With the cross-stream gates at zero t_depth moves RGB through attention alone, and without depth not at all."""
    module, batch = tiny(), inputs()
    rgb, depth = module(**batch)
    moved_rgb, moved_depth = module(**{**batch, "t_depth": 1 - batch["t_depth"]})
    assert (rgb - moved_rgb).abs().max() > 1e-6
    assert (depth - moved_depth).abs().max() > 1e-4
    alone, none = module(batch["rgb"], None, batch["context"], batch["t_rgb"])
    plain = tiny(TransformerConfig(**{**TINY.__dict__, "depth_channels": 0, "decoder_blocks": 0}))
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if k in plain.state_dict()})
    assert none is None
    torch.testing.assert_close(alone, plain(batch["rgb"], None, batch["context"], batch["t_rgb"])[0])


@torch.no_grad()
def test_bfloat16_body_keeps_a_float32_depth_head():
    module = ModalityForcingTransformer(TINY, dtype=torch.bfloat16)
    assert module.depth_final_layer.linear.weight.dtype == torch.float32
    batch = inputs()
    half = {name: value.bfloat16() for name, value in batch.items() if name in ("rgb", "depth", "context")}
    rgb, depth = module(**{**batch, **half})
    assert (rgb.dtype, depth.dtype) == (torch.bfloat16, torch.float32)
    assert len(depth.unique()) > 0.9 * depth.numel()  # bfloat16 would leave a few hundred values


@torch.no_grad()
def test_a_replaced_block_sees_the_streams():
    """ComfyUI's patches_replace: skipping every block leaves the embeddings, calling the original changes nothing."""
    module, batch = tiny(), inputs()
    seen = []

    def original(args, extra):
        seen.append((args["transformer_options"]["block_type"], args["transformer_options"]["block_index"]))
        return extra["original_block"](args)

    keys = [("double_block", 0), ("double_block", 1), ("single_block", 0), ("single_block", 1)]
    options = {"patches_replace": {"dit": dict.fromkeys(keys, original)}}
    for got, want in zip(module(**batch, transformer_options=options), module(**batch), strict=True):
        assert torch.equal(got, want)
    assert seen == [("double", 0), ("double", 1), ("single", 0), ("single", 1)]
    skip = {"patches_replace": {"dit": {key: lambda args, _extra: args for key in keys}}}
    assert not torch.equal(module(**batch, transformer_options=skip)[0], module(**batch)[0])


class EarlyRotation(Kernels):
    """Rotates with the norms, as hosts with a kernel for both do."""

    def rotates_early(self, options):
        return True


@torch.no_grad()
def test_rotation_with_the_norms_is_the_same():
    module, batch = tiny(), inputs()
    want = module(**batch)
    module.kernels = EarlyRotation()
    for got, expected in zip(module(**batch), want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wanted", ["rgb", "depth"])
@torch.no_grad()
def test_what_is_not_wanted_is_not_computed(wanted):
    """The prediction that is wanted stays; the other's head, depth's decoder and the last block's other part go."""
    module, batch = tiny(), inputs()
    both = dict(zip(("rgb", "depth"), module(**batch), strict=True))
    other = {"rgb": (module.depth_final_layer, *module.depth_decoder_blocks), "depth": (module.final_layer,)}
    for layer in other[wanted]:
        layer.forward = None
    seen = []
    module.single_blocks[-1].linear2.register_forward_hook(lambda _layer, args, _out: seen.append(args[0].shape[1]))
    got = dict(zip(("rgb", "depth"), module(**batch, wanted=[wanted]), strict=True))
    assert seen == [7 + 15 if wanted == "rgb" else 15]
    torch.testing.assert_close(got.pop(wanted), both[wanted], atol=1e-5, rtol=1e-5)
    assert list(got.values()) == [None]


@torch.no_grad()
def test_control_residuals_move_the_image_tokens():
    module, batch = tiny(), inputs()
    none = module(**batch, control={"input": [None], "output": []})
    residual = torch.randn(2, 15, 64, generator=torch.manual_seed(2))
    some = module(**batch, control={"input": [residual], "output": [None, residual]})
    assert torch.equal(none[0], module(**batch)[0])
    assert (some[0] - none[0]).abs().max() > 1e-3


def test_every_parameter_gets_a_gradient():
    module, batch = tiny().train(), inputs()
    torch.nn.init.constant_(module.cross_alpha_img, 0.1)
    torch.nn.init.constant_(module.cross_alpha_depth, 0.1)
    sum(output.square().mean() for output in module(**batch)).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_timestep_embedding_by_hand():
    embedding = timestep_embedding(torch.tensor([0.0, 0.001]), width=4)
    want = torch.tensor([[1, 1, 0, 0], [0.540302, 0.99995, 0.841471, 0.0099998]])
    torch.testing.assert_close(embedding, want, atol=1e-5, rtol=0)


def test_rotary_by_hand():
    """Position 1 on the second of four axes turns that axis's first pair by 1 radian, and keeps all lengths."""
    table = Kernels().rotary(torch.tensor([[0, 1, 0, 0]]), head_size=8, theta=2000)
    x = torch.zeros(1, 1, 1, 8)
    x[..., 2] = 1.0
    want = torch.zeros(8)
    want[2:4] = torch.tensor([0.540302, 0.841471])
    torch.testing.assert_close(rotate(x, table)[0, 0, 0], want, atol=1e-6, rtol=0)


def test_head_norms_by_hand():
    q, k = torch.tensor([3.0, 4.0]).expand(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    q, k = Kernels().norm(q, k, torch.ones(2), torch.tensor([2.0, 3.0]), None)
    torch.testing.assert_close(q[0, 0, 0], torch.tensor([3.0, 4.0]) / 12.5**0.5)
    torch.testing.assert_close(k[0, 0, 0], torch.tensor([2.0, 3.0]))


@pytest.mark.parametrize("variant", ["v1", "v2"])
@torch.no_grad()
def test_golden_forward(golden, variant):
    from modality_forcing.model.network.checkpoint import load_transformer

    module = load_transformer(golden / f"{variant}_tiny.checkpoint.safetensors")
    case = load_file(golden / f"{variant}_tiny.case.safetensors")
    rgb, depth = module(case["rgb"], case["depth"], case["context"], case["t_rgb"], case["t_depth"])
    for got, name in ((rgb, "forward.rgb_velocity"), (depth, "forward.depth_x0")):
        assert (got - case[name]).abs().max() < 1e-5 * case[name].abs().max()
