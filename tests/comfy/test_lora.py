"""LoRA for RGB-D: the same as merging into the plain module, by every convention of names and for each stream."""

import pytest
import torch
from graphs import Graph, relative_error
from modality_forcing.model.network.checkpoint import load_transformer
from modality_forcing.model.network.quantise import NOTES, quantise
from modality_forcing.tasks.host.server import GraphError
from safetensors.torch import save_file

# name in the file -> (parameter, rows, strength's stream); of every convention one
LAYERS = {
    "dit.double_blocks.0.img_attn.qkv": ("double_blocks.0.img_attn.qkv.weight", slice(None), "image"),
    "lora_unet_single_blocks_1_linear2": ("single_blocks.1.linear2.weight", slice(None), "image"),
    "transformer.transformer_blocks.1.attn.add_k_proj": ("double_blocks.1.txt_attn.qkv.weight", slice(64, 128), "text"),
    "lycoris_double_blocks_1_depth_mlp_0": ("double_blocks.1.depth_mlp.0.weight", slice(None), "depth"),
    "transformer.transformer_blocks.1.attn.to_out.0": ("double_blocks.1.img_attn.proj.weight", slice(None), "image"),
}
STRENGTHS = {"image": 0.5, "text": 0.25, "depth": 0.75}


@pytest.fixture
def case(make_case):
    return make_case("v2")


def run(case, tensors, name, image_part_on_depth):
    folder = case.server.models / "loras"
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    graph = Graph()
    model = graph.add(
        "ModalityForcingLora",
        model=case.model(graph),
        lora_name=name,
        image_part_on_depth=image_part_on_depth,
        **{f"strength_{stream}": value for stream, value in STRENGTHS.items()},
    )
    schedule = graph.add("ModalityForcingSchedule", model=model, steps=4, shift=1.1, log2_alpha=5.0)
    return case.run(graph, case.custom_sampler(graph, schedule, schedule[1], case.texts(graph), 4.0))


def merged(case, image_part_on_depth):
    """A LoRA of every convention, merged into the case's module here; returns its tensors."""
    generator, state, tensors = torch.manual_seed(0), case.module.state_dict(), {}
    for name, (parameter, rows, stream) in LAYERS.items():
        shape = state[parameter][rows].shape
        down, up = (0.2 * torch.randn(size, generator=generator) for size in ((2, shape[1]), (shape[0], 2)))
        ends = ("lora_down", "lora_up") if name.startswith(("lora_unet", "lycoris")) else ("lora_A", "lora_B")
        tensors.update({f"{name}.{ends[0]}.weight": down, f"{name}.{ends[1]}.weight": up})
        state[parameter][rows] += STRENGTHS[stream] * up @ down
        if image_part_on_depth and ".img_" in parameter:
            state[parameter.replace(".img_", ".depth_")][rows] += STRENGTHS["depth"] * up @ down
    return tensors


@pytest.mark.parametrize("image_part_on_depth", [False, True])
def test_as_merged(case, image_part_on_depth):
    tensors = merged(case, image_part_on_depth)
    tensors["nonsense.lora_A.weight"] = torch.zeros(1, 1)
    got = run(case, tensors, f"streams_{image_part_on_depth}.safetensors", image_part_on_depth)
    for mine, want in zip(got, case.reference("joint", 5.0, 4.0, 4), strict=True):
        assert relative_error(mine, want) < 1e-4
    copied = ", 2 of the image also on depth" if image_part_on_depth else ""
    report = f"layers matched: 3 image, 1 text, 1 depth{copied}. Without a match: nonsense"
    assert report in case.server.log_tail(60)


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_on_a_quantised_base(case, name):
    """As far from the LoRA merged into the same rounded weights as rounded products are; without it, farther."""
    known = (case.server.host / "comfy" / "quant_ops.py").read_text(encoding="utf-8")
    if NOTES[name]["format"] not in known:
        pytest.skip(f"this ComfyUI does not run {name}")
    folder = case.server.models / "diffusion_models"
    case.checkpoint = quantise(case.checkpoint, folder / f"lora_base_{name}.safetensors", name)
    case.module = load_transformer(case.checkpoint)
    without = case.reference("joint", 5.0, 4.0, 4)
    got = run(case, merged(case, True), f"on_{name}.safetensors", True)
    for mine, want, other in zip(got, case.reference("joint", 5.0, 4.0, 4), without, strict=True):
        assert relative_error(mine, want) < 0.1 < relative_error(mine, other)


def test_loras_of_other_models_are_refused(case):
    other = {"transformer.blocks.0.attn.lora_A.weight": torch.zeros(2, 4)}
    with pytest.raises(GraphError, match=r"nothing in other.safetensors fits this model.*transformer.blocks.0.attn"):
        run(case, other, "other.safetensors", False)
    wide = {"dit.single_blocks.0.linear2.lora_A.weight": torch.zeros(2, 999)}
    wide["dit.single_blocks.0.linear2.lora_B.weight"] = torch.zeros(64, 2)
    with pytest.raises(GraphError, match="64 x 999; this model's has 64 x"):
        run(case, wide, "wide.safetensors", False)
