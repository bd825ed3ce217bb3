"""Checkpoints of every accepted kind load; every broken kind says what is wrong."""

import os
import pickle
from dataclasses import replace

import pytest
import torch
from modality_forcing.model.network import transformer
from modality_forcing.model.network.checkpoint import (
    CheckpointError,
    load_transformer,
    read_header,
    save_transformer,
)
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.layers import SingleBlock
from modality_forcing.model.network.quantised import renamed
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


LAYER = "single_blocks.0.linear2"  # 32 x 80


def stored_fp8(state, **more):
    """The layer in fp8 with a scale, and what else lies beside it."""
    scale = state[f"{LAYER}.weight"].abs().max() / 448
    state[f"{LAYER}.weight"] = (state[f"{LAYER}.weight"] / scale).to(torch.float8_e4m3fn)
    state[f"{LAYER}.weight_scale"] = scale
    state.update({f"{LAYER}.{name}": tensor for name, tensor in more.items()})


def note(text):
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


@pytest.mark.parametrize("described", ["metadata", "notes", "nothing"])
def test_fp8_layers_however_they_are_described(module, write, described):
    state = dict(module.state_dict())
    stored_fp8(state, input_scale=torch.tensor(0.5))
    text = '{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}'
    metadata = {"_quantization_metadata": f'{{"layers": {{"{LAYER}": {text}}}}}'} if described == "metadata" else None
    if described == "notes":
        state[f"{LAYER}.comfy_quant"] = note(text)
    path = write(state, metadata=metadata)
    want = state[f"{LAYER}.weight"].float() * state[f"{LAYER}.weight_scale"]
    assert torch.equal(load_transformer(path).state_dict()[f"{LAYER}.weight"], want)
    full = {} if described == "nothing" else {"full_precision_matrix_mult": True}
    assert read_header(path).layers == {LAYER: {"format": "float8_e4m3fn", **full}}


def test_input_scales_keep_their_place_under_todays_name():
    tensors = {"a.weight": torch.ones(1), "a.scale_weight": torch.ones(1), "a.scale_input": torch.tensor(0.5)}
    assert set(renamed({**tensors, "scaled_fp8": torch.ones(2)})) == {"a.weight", "a.weight_scale", "a.input_scale"}
    assert set(renamed({**tensors, "a.scale_input": torch.ones(())})) == {"a.weight", "a.weight_scale"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({f"{LAYER}.weight_scale": torch.ones(1)}), "a scale and a weight of F32, and nothing says"),
        (lambda s: stored_fp8(s, weight_scale=torch.ones(32)), "32 numbers .*expected 1 for a weight of 32 x 80"),
        (lambda s: stored_fp8(s, weight_scale_2=torch.ones(1)), "weight_scale_2 does not belong to float8_e4m3fn"),
        (lambda s: s.update({"extra.weight_scale": torch.ones(1)}), "extra.weight_scale is a scale .* no quantised"),
        (lambda s: s.update({f"{LAYER}.comfy_quant": note("{")}), "comfy_quant is not readable JSON"),
        (lambda s: s.update({f"{LAYER}.comfy_quant": note("[]")}), "comfy_quant holds list instead of a JSON object"),
        (lambda s: s.update({f"{LAYER}.comfy_quant": note('{"format": "int3"}')}), "unknown format 'int3'"),
        (lambda s: s.update({f"{LAYER}.comfy_quant": torch.zeros(9000, dtype=torch.uint8)}), "9000 long"),
        (
            lambda s: s.update({f"{LAYER}.comfy_quant": note('{"format": "float8_e4m3fn"}')}),
            "weight is F32 of shape .*as float8_e4m3fn it must be F8_E4M3",
        ),
        (
            lambda s: s.update({f"{LAYER}.weight": s[f"{LAYER}.weight"].int()}),
            r"linear2.weight \(I32\) hold no numbers",
        ),
        (lambda s: s.update({"cross_alpha_img": torch.ones(1, dtype=torch.bool)}), r"cross_alpha_img \(BOOL\) hold no"),
        (lambda s: s[f"{LAYER}.weight"].__setitem__((3, 4), float("nan")), "linear2.weight holds NaN"),
        (lambda s: s["cross_alpha_depth"].fill_(float("inf")), "cross_alpha_depth holds NaN or infinite"),
        (
            lambda s: s.update({"img_in.weight": torch.zeros(32)}),
            r"img_in.weight has the shape \(32,\); expected 2 dim",
        ),
        (lambda s: s.update({"txt_in.weight": torch.zeros(())}), r"txt_in.weight has the shape \(\); expected 2 dim"),
        (lambda s: s.update({"img_in.weight": torch.zeros(0, 128)}), "hidden_size is 0; expected at least 1"),
        (lambda s: s.update({"single_blocks.100000.x": torch.zeros(1)}), "2 single_blocks should be numbered 0 to 1"),
        (lambda s: s.update({"double_blocks.01.x": torch.zeros(1)}), "found '01'"),
        (lambda s: s.update({"depth_in.weight": torch.zeros(32, 64)}), "128 channels of RGB and 64 of depth"),
    ],
)
def test_broken_files_are_refused_by_name(module, write, change, message):
    state = {name: value.clone() for name, value in module.state_dict().items()}
    change(state)
    with pytest.raises(CheckpointError, match=message) as error:
        load_transformer(write(state))
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "_quantization_metadata is not readable JSON"),
        ("[" * 100000, "_quantization_metadata is not readable JSON"),
        ('{"layers": [1]}', "holds no"),
        ('{"layers": {"a": 1}}', "holds no"),
        ('{"layers": {"a": {"format": "nvfp4"}}}', "a is described as nvfp4 but has no weight"),
        (f'{{"layers": {{"{LAYER}": {{"format": "mxfp8"}}}}}}', "as mxfp8 it must be F8_E4M3"),
    ],
)
def test_broken_descriptions_are_refused(module, write, text, message):
    path = write(module.state_dict(), metadata={"_quantization_metadata": text})
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


def test_a_layer_described_as_quantised_needs_its_scale(module, write):
    state = dict(module.state_dict())
    stored_fp8(state)
    del state[f"{LAYER}.weight_scale"]
    layers = f'{{"layers": {{"{LAYER}": {{"format": "float8_e4m3fn"}}}}}}'
    with pytest.raises(CheckpointError, match="described as float8_e4m3fn but has no weight_scale"):
        read_header(write(state, metadata={"_quantization_metadata": layers}))


def test_many_blocks_are_refused_without_building_them(module, write, monkeypatch):
    """A file with a tensor for each of 5000 blocks: what they lack is counted."""
    built = []

    def counted(*args, **kwargs):
        built.append(args)
        return SingleBlock(*args, **kwargs)

    monkeypatch.setattr(transformer, "SingleBlock", counted)
    state = dict(module.state_dict())
    state.update({f"single_blocks.{i}.x": torch.zeros(0) for i in range(1, 5000)})
    with pytest.raises(CheckpointError, match="19996 missing"):
        read_header(write(state))
    assert len(built) == 2  # one single block, one of the decoder


def test_a_network_without_decoder_blocks(write):
    plain = ModalityForcingTransformer(replace(TINY, decoder_blocks=0)).eval()
    state = plain.state_dict()
    assert "depth_decoder_modulation.lin.weight" not in state
    assert_same(load_transformer(write(state)), state)
    state["depth_decoder_modulation.lin.weight"] = torch.zeros(96, 32)  # as earlier versions wrote it
    assert read_header(write(state)).config == plain.config


def test_a_safetensors_file_under_another_name(module, write):
    with pytest.raises(CheckpointError, match="rename it to model.safetensors"):
        read_header(write(module.state_dict(), "model.pt"))
