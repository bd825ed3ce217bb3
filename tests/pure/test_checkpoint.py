"""Checkpoints of every accepted kind load; every broken kind says what is wrong."""

import os
import pickle

import pytest
import torch
from modality_forcing.model.network.checkpoint import (
    CheckpointError,
    load_transformer,
    read_header,
    save_transformer,
)
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from safetensors.torch import load_file, save_file

TINY = TransformerConfig(32, 2, double_blocks=1, single_blocks=1, decoder_blocks=1, mlp_size=48, text_width=8)


@pytest.fixture(scope="module")
def module() -> ModalityForcingTransformer:
    torch.manual_seed(0)
    return ModalityForcingTransformer(TINY).eval()


@pytest.fixture
def write(tmp_path):
    """Writes a state dict and returns the file's path."""

    def write(state, name="model.safetensors", metadata=None):
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / name, metadata)
        return tmp_path / name

    return write


def assert_same(loaded, state, atol=0.0):
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value.float(), state[name].float(), atol=atol, rtol=0)


@pytest.mark.parametrize("prefix", ["dit.", "model.diffusion_model.", "diffusion_model.", ""])
def test_every_prefix(module, write, prefix):
    path = write({prefix + name: value for name, value in module.state_dict().items()})
    assert read_header(path).prefix == prefix
    assert read_header(path).config == TINY
    assert_same(load_transformer(path), module.state_dict())


def test_save_and_load(module, tmp_path):
    path = tmp_path / "new folder" / "model.safetensors"
    save_transformer(module, path, {"note": "x"})
    assert all(name.startswith("dit.") for name in load_file(path))
    assert_same(load_transformer(path), module.state_dict())
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_failed_save_leaves_the_old_file(module, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_transformer(module, path)
    before = path.read_bytes()

    def full_disk(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_transformer(module, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_bfloat16_file_in_either_type(module, write):
    path = write({name: value.bfloat16() for name, value in module.state_dict().items()})
    loaded = load_transformer(path, torch.bfloat16)
    assert loaded.img_in.weight.dtype == torch.bfloat16
    assert loaded.depth_final_layer.linear.weight.dtype == torch.float32
    assert_same(load_transformer(path), {k: v.bfloat16() for k, v in module.state_dict().items()})


@pytest.mark.parametrize("scale_name", ["weight_scale", "scale_weight", None])
def test_fp8_file_with_and_without_scales(module, write, scale_name):
    state, want = {}, {}
    for name, value in module.state_dict().items():
        if value.ndim < 2:
            state[name] = want[name] = value
            continue
        scale = value.abs().max() / 448 if scale_name else torch.tensor(1.0)
        state[name] = (value / scale).to(torch.float8_e4m3fn)
        want[name] = state[name].float() * scale
        if scale_name:
            state[f"{name.removesuffix('.weight')}.{scale_name}"] = scale
    state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    assert_same(load_transformer(write(state)), want, atol=1e-6)


def test_text_to_image_file_only_where_asked_for(write):
    plain = ModalityForcingTransformer(TransformerConfig(**{**TINY.__dict__, "depth_channels": 0, "decoder_blocks": 0}))
    path = write(plain.state_dict())
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a plain FLUX\.2 model.*depth_in\.weight"):
        load_transformer(path)
    assert not load_transformer(path, text_to_image=True).config.has_depth


def broken(module, change):
    state = dict(module.state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("single_blocks.0.linear2.weight"), "1 missing: single_blocks.0.linear2.weight"),
        (lambda s: s.pop("img_in.weight"), "img_in.weight is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda s: s.update({"txt_in.weight": torch.zeros(31, 8)}),
            r"1 misshapen: txt_in.weight \(31, 8\) instead of \(32, 8\)",
        ),
        (lambda s: s.update({"img_in.bias": torch.zeros(32)}), "1 unexpected: img_in.bias"),
        (lambda s: [s.update({k: v.half()}) for k, v in list(s.items())[:3]], "float16, in which this model overflows"),
        (lambda s: [s.pop(k) for k in list(s) if "cross_alpha_depth" in k], "1 missing: cross_alpha_depth"),
    ],
)
def test_wrong_tensors_are_named(module, write, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_transformer(write(broken(module, change)))
    assert "model.safetensors" in str(error.value)


def test_many_wrong_tensors_are_counted(module, write):
    state = broken(module, lambda s: s.update({f"junk{i:02}": torch.zeros(1) for i in range(20)}))
    with pytest.raises(CheckpointError, match="20 unexpected: junk00, junk01, junk02, junk03, junk04 and 15 more"):
        load_transformer(write(state))


def test_tensors_beside_the_prefix_are_refused(module, write):
    state = {f"dit.{name}": value for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointError, match="1 tensors lie outside.*vae.weight"):
        load_transformer(write({**state, "vae.weight": torch.zeros(1)}))


def test_another_model(write):
    with pytest.raises(CheckpointError, match="another model.*conv.weight"):
        load_transformer(write({"conv.weight": torch.zeros(3, 3)}))


def test_truncated_file(module, write):
    path = write(module.state_dict())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated.*Download it again"):
        load_transformer(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_is_refused_unopened(module, tmp_path, zipped):
    path = tmp_path / "model.safetensors"
    if zipped:
        torch.save(module.state_dict(), path)
    else:
        path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="pickle"):
        load_transformer(path)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_transformer(tmp_path / "nothing.safetensors")


def test_float16_is_refused(module, write):
    with pytest.raises(ValueError, match="float16.*bfloat16 or float32"):
        load_transformer(write(module.state_dict()), torch.float16)


def test_packed_quantisation_needs_comfyui(module, write):
    state = dict(module.state_dict())
    layer = "single_blocks.0.linear2"
    state[f"{layer}.weight"] = torch.zeros(32, 40, dtype=torch.uint8)
    state[f"{layer}.weight_scale"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="linear2.weight holds packed numbers.*Load the file with the nodes"):
        load_transformer(write(state))
