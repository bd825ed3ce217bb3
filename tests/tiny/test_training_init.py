"""From text-to-image to joint: every source gives a model that is its source when the depth tokens are left out."""

import json
from dataclasses import replace

import pytest
import torch
from modality_forcing.model.network.checkpoint import CheckpointError, load_transformer, save_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer, position_ids, to_latent, to_tokens
from modality_forcing.model.training.assembly import ignore_channels
from modality_forcing.model.training.config import TrainingSection
from modality_forcing.model.training.from_text_to_image import (
    clone_of,
    fresh_text_to_image,
    initialise,
    load_text_to_image,
    trainable_parameters,
)
from modality_forcing.model.training.losses import LatentBatch, text_to_image_loss
from modality_forcing.model.training.parallel import ParallelModel, open_accelerator
from safetensors.torch import load_file, save_file

TINY = TransformerConfig(
    hidden_size=64,
    num_heads=2,
    double_blocks=2,
    single_blocks=2,
    decoder_blocks=0,
    mlp_size=192,
    text_width=48,
    depth_channels=0,
    cross_stream=False,
)


def randomise(module, seed=0):
    """No weight at a special value: a test must see each of them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            if name.endswith("scale") or "norm_" in name and parameter.ndim == 1:
                parameter += 1
    return module


def inputs(seed=1, batch=2, h=3, w=4):
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randn(batch, 128, h, w, generator=generator)
    context = torch.randn(batch, 5, 48, generator=generator)
    return rgb, context, torch.rand(batch, generator=generator)  # rgb, context, t


@pytest.fixture(scope="module")
def source():
    return randomise(ModalityForcingTransformer(TINY)).eval()


@pytest.fixture
def flux_file(source, tmp_path):
    """Black Forest Labs' layout: no prefix."""
    path = tmp_path / "flux.safetensors"
    save_file({key: tensor.clone() for key, tensor in source.state_dict().items()}, path)
    return path


def assert_is_its_source(module, expected):
    rgb, context, t = inputs()
    with torch.no_grad():
        velocity, depth = module(rgb, None, context, t)
    assert depth is None and torch.equal(velocity, expected)


@pytest.mark.parametrize("cross_stream", [True, False])
def test_without_depth_tokens_the_model_is_its_source(source, flux_file, cross_stream):
    rgb, context, t = inputs()
    with torch.no_grad():
        expected, _ = source(rgb, None, context, t)
    for given in (source, flux_file):
        module = initialise(given, decoder_blocks=2, cross_stream=cross_stream)
        assert_is_its_source(module, expected)
        assert module.config == replace(TINY, depth_channels=256, decoder_blocks=2, cross_stream=cross_stream)


@pytest.fixture(scope="module")
def diffusers_model():
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.Flux2Transformer2DModel(
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(8, 8, 8, 8),
        guidance_embeds=False,
    )
    return randomise(model, seed=2).eval()


def diffusers_forward(model, rgb, context, t):
    h, w = rgb.shape[-2:]
    ids = position_ids({"txt": context, "img": rgb}, h, w)
    with torch.no_grad():
        tokens = model(to_tokens(rgb), context, timestep=t, img_ids=ids["img"], txt_ids=ids["txt"], return_dict=False)[
            0
        ]
    return to_latent(tokens, h, w)


@pytest.mark.parametrize("shard_size", ["5GB", "100KB"])
@pytest.mark.parametrize("folder", [".", "transformer"])
def test_a_diffusers_folder_gives_the_same_velocity(diffusers_model, tmp_path, shard_size, folder):
    diffusers_model.save_pretrained(tmp_path / folder, max_shard_size=shard_size)
    assert (len(list((tmp_path / folder).glob("*.safetensors"))) == 1) == (shard_size == "5GB")
    expected = diffusers_forward(diffusers_model, *inputs())
    assert expected.std() > 0.1
    source = load_text_to_image(tmp_path)
    with torch.no_grad():
        rgb, context, t = inputs()
        velocity, _ = source(rgb, None, context, t)
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-5)
    assert_is_its_source(initialise(tmp_path), velocity)


def test_wrong_diffusers_folders_are_refused(diffusers_model, tmp_path):
    diffusers_model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())

    def refused(match, **changes):
        (tmp_path / "config.json").write_text(json.dumps({**settings, **changes}))
        with pytest.raises(CheckpointError, match=match):
            load_text_to_image(tmp_path)

    refused("guidance_embeds is True", guidance_embeds=True)
    refused("describes a UNet2DModel", _class_name="UNet2DModel")
    refused("missing: single_transformer_blocks.2", num_single_layers=3)
    refused("unexpected: transformer_blocks.1", num_layers=1)
    refused("belong to another model", joint_attention_dim=96)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused("truncated")
    weights.unlink()
    refused("no such file")
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_text_to_image(tmp_path)


def test_where_the_weights_come_from(source):
    state = initialise(source, decoder_blocks=2).state_dict()
    given = source.state_dict()
    for key, tensor in state.items():
        if key in given:
            assert torch.equal(tensor, given[key]), key
        elif clone_of(key):
            assert torch.equal(tensor, given[clone_of(key)]), key
    clones = {key for key in state if clone_of(key)}
    assert {key for key in clones if "blocks" in key} == {
        f"double_blocks.{i}.depth_{part}"
        for i in range(2)
        for part in (
            "attn.qkv.weight",
            "attn.proj.weight",
            "attn.norm.query_norm.scale",
            "attn.norm.key_norm.scale",
            "mlp.0.weight",
            "mlp.2.weight",
        )
    }
    zero = {key for key, tensor in state.items() if not tensor.any()}
    assert zero == {
        "cross_alpha_img",
        "cross_alpha_depth",
        "depth_decoder_modulation.lin.weight",
        "depth_final_layer.linear.weight",
        "depth_final_layer.adaLN_modulation.1.weight",
    }
    # Uniform with torch's own bound 1 / sqrt(inputs), so a standard deviation of 1 / sqrt(3 inputs).
    for key in ("depth_in.weight", "time_in_rgb_to_depth.out_layer.weight", "depth_decoder_blocks.1.linear2.weight"):
        assert state[key].std().item() == pytest.approx((3 * state[key].shape[1]) ** -0.5, rel=0.03)


def test_seeds_and_dtypes(source):
    first, same, other = (initialise(source, seed=seed).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["depth_in.weight"], other["depth_in.weight"])
    half = initialise(source, seed=4, dtype=torch.bfloat16).state_dict()
    full = {key for key, tensor in half.items() if tensor.dtype == torch.float32}
    assert {key.split(".")[0] for key in full} == {"cross_alpha_img", "cross_alpha_depth", "depth_final_layer"}
    assert torch.equal(half["depth_in.weight"], first["depth_in.weight"].bfloat16())


def test_weights_are_copied_unless_told_otherwise(source):
    def shared(**options):
        module = initialise(source, **options)
        ours = {parameter.data_ptr() for parameter in module.parameters()}
        return len(ours), sum(parameter.data_ptr() in ours for parameter in source.parameters())

    total = len(initialise(source).state_dict())
    assert shared() == (total, 0)
    assert shared(reuse_weights=True) == (total, len(source.state_dict()))  # and no clone shares with its original


def test_gradients_reach_everything_but_frozen_image_weights_and_shut_mixers(source):
    module = initialise(source, decoder_blocks=1)
    names = set(trainable_parameters(module))
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in source.state_dict() if ".img_attn." in name or ".img_mlp." in name}
    assert names | frozen == set(module.state_dict()) and not names & frozen

    def reached():
        rgb, context, t = inputs()
        depth = torch.randn(2, 256, *rgb.shape[-2:], generator=torch.Generator().manual_seed(5))
        velocity, clean = module(rgb, depth, context, t, t.flip(0))
        module.zero_grad()
        (velocity.square().sum() + (clean - depth).square().sum()).backward()
        return {name for name in names if module.get_parameter(name).grad.abs().max() > 0}

    first = reached()
    assert {"cross_alpha_img", "depth_final_layer.linear.weight", "depth_in.weight"} <= first
    assert not any(name.startswith("time_in_depth_to_img") for name in first)  # behind a gate that is zero
    optimizer = torch.optim.SGD([module.get_parameter(name) for name in names], lr=1e-3)
    for _ in range(3):  # gates, head, decoder modulation and decoder open one after the other
        optimizer.step()
        second = reached()
    assert second == names
    assert set(trainable_parameters(module, freeze_image=False)) == names | frozen


def test_released_layout(source, tmp_path):
    module = initialise(source)
    save_transformer(module, tmp_path / "joint.safetensors")
    loaded = load_transformer(tmp_path / "joint.safetensors")
    assert loaded.config == module.config
    assert all(name.startswith("dit.") for name in load_file(tmp_path / "joint.safetensors"))
    for joint in (module, tmp_path / "joint.safetensors"):
        with pytest.raises(ValueError, match="already has a depth stream"):
            initialise(joint)


def test_gradient_checkpointing_changes_no_gradient(source):
    module = initialise(randomise(ModalityForcingTransformer(TINY)), decoder_blocks=1)
    randomise(module, seed=3)
    rgb, context, t = inputs()
    gradients = []
    for module.gradient_checkpointing in (False, True):
        module.zero_grad()
        velocity, clean = module(rgb, torch.ones(2, 256, *rgb.shape[-2:]), context, t, t)
        (velocity.square().sum() + clean.square().sum()).backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_fresh_text_to_image_starts_as_zero_velocity_and_learns():
    module = fresh_text_to_image(TINY, seed=1)
    rgb, context, t = inputs()
    assert not module(rgb, None, context, t)[0].any()
    assert all(
        torch.equal(a, b) for a, b in zip(fresh_text_to_image(TINY, 1).parameters(), module.parameters(), strict=True)
    )
    optimizer, costs = torch.optim.Adam(module.parameters(), lr=3e-3), []
    for _ in range(8):
        cost = (module(rgb, None, context, t)[0] - rgb).square().mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < 0.9 * costs[0]
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


def test_channels_that_carry_nothing_are_neither_read_nor_written():
    used = 8
    module = fresh_text_to_image(TINY)
    ignore_channels(module, used)
    model = ParallelModel(module, TrainingSection(), open_accelerator(TrainingSection()))
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-2)
    rgb, context, t = inputs()
    for seed in range(3):
        noise = torch.randn(rgb.shape, generator=torch.Generator().manual_seed(seed))
        text_to_image_loss(module, LatentBatch(rgb, None, context), t, noise, channels=used).total.backward()
        model.drop_unread(used)
        optimiser.step()
        optimiser.zero_grad()
    with torch.no_grad():
        velocity, _ = module(rgb, None, context, t)
        changed = rgb.clone()
        changed[:, used:] += 5
        torch.testing.assert_close(module(changed, None, context, t)[0], velocity, rtol=0, atol=0)
    assert velocity[:, :used].abs().max() > 0 and not velocity[:, used:].any()
