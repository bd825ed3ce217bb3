"""Files of every kind through ComfyUI's own loading: the result is that of the plain module on the same file."""

import json
from dataclasses import replace

import pytest
import torch
from graphs import Graph, relative_error
from modality_forcing.model.network.checkpoint import load_transformer, save_transformer
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.model.training.from_text_to_image import initialise, trainable_parameters
from modality_forcing.model.training.level_sampling import TaskMixture, draw_levels
from modality_forcing.model.training.losses import LatentBatch, LossWeights, joint_loss
from modality_forcing.tasks.host.server import GraphError
from safetensors.torch import save_file

KEPT = ("norm", "cross_alpha", "img_in", "depth_in", "txt_in")


@pytest.fixture
def case(make_case):
    return make_case("v2")


def quantised(state, scale_name):
    """fp8 weights with a scale each, the depth head too, but for what recipes keep; returns tensors and layer names."""
    tensors, layers = {}, []
    for name, value in state.items():
        if value.ndim < 2 or any(part in name for part in KEPT):
            tensors[name] = value
            continue
        scale = value.abs().max() / 448
        layers.append(name.removesuffix(".weight"))
        tensors[name] = (value / scale).to(torch.float8_e4m3fn)
        tensors[f"{layers[-1]}.{scale_name}"] = scale
    return tensors, layers


def old_style(state):
    tensors, _ = quantised(state, "scale_weight")
    return {**tensors, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, None


def by_metadata(state):
    tensors, layers = quantised(state, "weight_scale")
    names = {f"dit.{layer}": {"format": "float8_e4m3fn"} for layer in layers}
    return tensors, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": names})}


def by_layer(state):
    tensors, layers = quantised(state, "weight_scale")
    note = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    return {**tensors, **{f"{layer}.comfy_quant": note.clone() for layer in layers}}, None


def by_scales(state):
    """Nothing says that the layers are quantised but their scales."""
    return quantised(state, "weight_scale")[0], None


def sample_file(case, loader, path):
    """Four joint steps by a file of models/diffusion_models."""
    graph = Graph()
    name = {"ModalityForcingLoadModel": "model_name", "UNETLoader": "unet_name"}[loader]
    model = graph.add(loader, **{name: path.name}, weight_dtype="default")
    schedule = graph.add("ModalityForcingSchedule", model=model, steps=4, shift=1.1, log2_alpha=5.0)
    return case.run(graph, case.custom_sampler(graph, schedule, schedule[1], case.texts(graph), 4.0))


@pytest.mark.parametrize("kind", [old_style, by_metadata, by_layer, by_scales])
def test_quantised_file(case, kind):
    """By our loader and by core's, which knows no prefix `dit.`; on 0.3.75 core itself reads metadata alone."""
    state, metadata = kind(case.module.state_dict())
    folder = case.server.models / "diffusion_models"
    path, core = folder / f"{kind.__name__}.safetensors", folder / f"{kind.__name__}_core.safetensors"
    save_file({f"dit.{name}": value.contiguous() for name, value in state.items()}, path, metadata)
    if metadata:
        metadata = {key: text.replace("dit.", "") for key, text in metadata.items()}
    save_file({name: value.contiguous() for name, value in state.items()}, core, metadata)
    case.module = load_transformer(path)
    want = case.reference("joint", 5.0, 4.0, 4)
    ours = sample_file(case, "ModalityForcingLoadModel", path)
    for got, expected in zip(ours, want, strict=True):
        # ComfyUI multiplies in bfloat16 or in fp8, the plain module in float32.
        assert relative_error(got, expected) < 0.1
    for got, expected in zip(sample_file(case, "UNETLoader", core), ours, strict=True):
        assert torch.equal(got, expected)


def test_broken_weights_are_refused_by_both_loaders(case):
    folder = case.server.models / "diffusion_models"
    for kind, value in (("NaN", torch.full((64, 64), float("nan"))), ("I32", torch.ones(64, 64, dtype=torch.int32))):
        path = folder / f"broken_{kind}.safetensors"
        save_file({**case.module.state_dict(), "double_blocks.0.img_attn.proj.weight": value}, path)
        for loader in ("ModalityForcingLoadModel", "UNETLoader"):
            with pytest.raises(GraphError, match=f"double_blocks.0.img_attn.proj.weight .*{kind}") as error:
                sample_file(case, loader, path)
            assert (path.name in error.value.message) == (loader != "UNETLoader")  # core tells no name


def test_a_network_without_decoder_blocks(case):
    plain = ModalityForcingTransformer(replace(case.module.config, decoder_blocks=0))
    plain.load_state_dict({k: v for k, v in case.module.state_dict().items() if k in plain.state_dict()})
    path = case.server.models / "diffusion_models" / "no_decoder.safetensors"
    save_transformer(plain, path)
    case.module = load_transformer(path)
    got = sample_file(case, "ModalityForcingLoadModel", path)
    for mine, expected in zip(got, case.reference("joint", 5.0, 4.0, 4), strict=True):
        assert relative_error(mine, expected) < 1e-4


def test_post_trained_model_loads_at_once(case):
    """A joint model made from a text-to-image file, one training step old, in the layout that the trainer writes."""
    plain = ModalityForcingTransformer(replace(case.module.config, depth_channels=0, decoder_blocks=0))
    plain.load_state_dict({k: v for k, v in case.module.state_dict().items() if k in plain.state_dict()})
    source = case.folder / "text_to_image.safetensors"
    save_transformer(plain, source)
    module = initialise(source, decoder_blocks=1, seed=0)
    batch = LatentBatch(case.tensors["rgb"], case.tensors["depth"], case.tensors["context"])
    levels = draw_levels(1, TaskMixture(0.0, 0.0), torch.manual_seed(0))
    noise = case.tensors["noise"].split([128, 256], dim=1)
    optimiser = torch.optim.AdamW(trainable_parameters(module).values(), lr=1e-2)
    joint_loss(module, batch, levels, *noise, LossWeights()).total.backward()
    optimiser.step()
    path = case.server.models / "diffusion_models" / "post_trained.safetensors"
    save_transformer(module, path)
    case.module = load_transformer(path)
    got = sample_file(case, "ModalityForcingLoadModel", path)
    for mine, expected in zip(got, case.reference("joint", 5.0, 4.0, 4), strict=True):
        assert relative_error(mine, expected) < 1e-4


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_prefixes(case, prefix):
    path = case.server.models / "diffusion_models" / f"prefix_{len(prefix)}.safetensors"
    save_file({prefix + name: value for name, value in case.module.state_dict().items()}, path)
    got = sample_file(case, "ModalityForcingLoadModel", path)
    for mine, expected in zip(got, case.reference("joint", 5.0, 4.0, 4), strict=True):
        assert relative_error(mine, expected) < 1e-4
