"""The plan's counts against torch's own: parameters, operations of a real step, and what autograd really keeps."""

from dataclasses import replace

import pytest
import torch
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.model.training import config, plan, plan_counts
from modality_forcing.model.training.from_text_to_image import trainable_parameters
from modality_forcing.model.training.sizes import SIZES
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

TINY = TransformerConfig(
    hidden_size=128, num_heads=4, double_blocks=2, single_blocks=3, decoder_blocks=2, mlp_size=384, text_width=48
)
SETUP = plan_counts.Setup(
    TINY, 96, 128, text_tokens=40, batch=2, compute_bytes=4, checkpointing=False, teacher=False, sharded=False
)


def module_and_inputs(setup):
    dtype = torch.float32 if setup.compute_bytes == 4 else torch.bfloat16
    module = ModalityForcingTransformer(setup.transformer, dtype=dtype)
    trainable_parameters(module, setup.freeze_image)
    module.gradient_checkpointing = setup.checkpointing
    h, w = setup.height_px // 16, setup.width_px // 16
    t = torch.rand(setup.batch)
    rgb = torch.randn(setup.batch, 128, h, w, dtype=dtype)
    depth = torch.randn(setup.batch, 256, h, w, dtype=dtype) if setup.transformer.has_depth else None
    return module, (rgb, depth, torch.randn(setup.batch, setup.text_tokens, 48, dtype=dtype), t, t)


def counter():
    """torch's counter, told that the CPU's attention kernel counts as those of GPUs do."""
    aten = torch.ops.aten

    def attention(q, k, v, *args, out_shape=None, **kwargs):
        return sdpa_flop_count(q, k, v)

    def attention_backward(gradient, q, k, v, *args, out_shape=None, **kwargs):
        return sdpa_backward_flop_count(gradient, q, k, v)

    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


def run(module, inputs):
    velocity, clean = module(*inputs)
    return velocity.float().square().sum() + (0 if clean is None else clean.square().sum())


def test_the_released_models_sizes():
    """SPEC: 11.99 B parameters, 9.08 B of them the base."""
    p = plan_counts.count_parameters(plan_counts.Setup())
    base = plan_counts.Setup(plan_counts.text_to_image(TransformerConfig()), freeze_image=False)
    assert p.total / 1e9 == pytest.approx(11.99, abs=0.005)
    assert plan_counts.count_parameters(base).total / 1e9 == pytest.approx(9.08, abs=0.005)
    D = 4096
    frozen = 8 * (13 * D * D + 2 * 128)  # qkv, proj, MLP of 3 D, and the two norms, in 8 blocks
    assert p.frozen == p.total - p.trained == frozen
    assert p.largest_block == 3 * (13 * D * D + 2 * 128)  # a double block


def test_the_rows_of_sizes():
    """FLUX.2-klein's, and the paper's family within 2.2 % of its published counts."""
    counts = {name: plan_counts.count_parameters(plan_counts.Setup(row)).total for name, row in SIZES.items()}
    assert counts["flux2_klein_9b"] / 1e9 == pytest.approx(9.08, abs=0.005)
    assert counts["flux2_klein_4b"] / 1e9 == pytest.approx(3.88, abs=0.01)  # its file: 7.75 GB in bfloat16
    published = {"paper_370m": 370e6, "paper_800m": 800e6, "paper_3b": 3.3e9}
    assert {name: counts[name] for name in published} == pytest.approx(published, rel=0.022)
    assert {SIZES[name].double_blocks + SIZES[name].single_blocks for name in published} == {30}


@pytest.mark.parametrize("freeze_image", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_operations_are_those_torch_counts(freeze_image, checkpointing):
    setup = replace(SETUP, freeze_image=freeze_image, checkpointing=checkpointing)
    module, inputs = module_and_inputs(setup)
    cost = plan_counts.count_operations(setup)
    with counter() as forward:
        loss = run(module, inputs)
    with counter() as backward:
        loss.backward()
    assert forward.get_total_flops() == setup.batch * cost.forward
    assert backward.get_total_flops() == pytest.approx(setup.batch * (cost.backward + cost.recomputed), rel=0.01)
    assert (cost.recomputed > 0.9 * cost.forward) == checkpointing


def test_operations_of_the_teacher():
    setup = replace(SETUP, teacher=True)
    module, inputs = module_and_inputs(replace(setup, transformer=plan_counts.text_to_image(TINY)))
    with counter() as counted, torch.no_grad():
        run(module, inputs)
    assert plan_counts.count_operations(setup).teacher * setup.batch == counted.get_total_flops()


def kept_bytes(module, inputs):
    """Storage that autograd keeps alive between the passes, weights and inputs left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *inputs) if tensor is not None}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run(module, inputs)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("compute_bytes", [2, 4])
@pytest.mark.parametrize("part", ["double_blocks", "single_blocks", "decoder_blocks"])
def test_a_blocks_activations_are_those_autograd_keeps(compute_bytes, part):
    """One block more keeps what the formula says, to 3 %."""
    setup = replace(SETUP, compute_bytes=compute_bytes, freeze_image=False)
    more = replace(setup, transformer=replace(TINY, **{part: getattr(TINY, part) + 1}))
    measured = kept_bytes(*module_and_inputs(more)) - kept_bytes(*module_and_inputs(setup))
    expected = plan_counts.activation_bytes(more) - plan_counts.activation_bytes(setup)
    assert expected == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("compute_bytes", [2, 4])
def test_all_activations_are_those_autograd_keeps(compute_bytes):
    """The whole network, without the backward pass's own gradients, to 8 %; frozen weights save a little more."""
    setup = replace(SETUP, compute_bytes=compute_bytes, freeze_image=False)
    D, M, tokens = TINY.hidden_size, TINY.mlp_size, sum(setup.tokens.values())
    gradients = 2 * (3 * D + 2 * M) * compute_bytes * tokens * setup.batch
    expected = plan_counts.activation_bytes(setup) - gradients
    assert expected == pytest.approx(kept_bytes(*module_and_inputs(setup)), rel=0.08)
    frozen = kept_bytes(*module_and_inputs(replace(setup, freeze_image=True)))
    assert 0.9 * expected < frozen < expected


@pytest.mark.parametrize("part, stream", [("single_blocks", ("txt", "img", "depth")), ("decoder_blocks", ("depth",))])
def test_checkpointing_keeps_nothing_inside_a_block(part, stream):
    """The plan counts a block's input, D values a token, which the recomputation holds, out of the hooks' sight."""
    setup = replace(SETUP, checkpointing=True)
    more = replace(setup, transformer=replace(TINY, **{part: getattr(TINY, part) + 1}))
    measured = kept_bytes(*module_and_inputs(more)) - kept_bytes(*module_and_inputs(setup))
    tokens = sum(setup.tokens[name] for name in stream)
    assert measured == 0
    assert plan_counts.activation_bytes(more) - plan_counts.activation_bytes(setup) == 2 * tokens * 128 * 4


def test_states_by_hand():
    """AdamW and averages in float32: 4 bytes of every weight, 16 of every trained one, 2 of the teacher's."""
    setup = replace(SETUP, compute_bytes=2, teacher=True, sharded=True)
    p = plan_counts.count_parameters(setup)
    teacher = sum(
        t.numel() for t in ModalityForcingTransformer(plan_counts.text_to_image(TINY), device="meta").parameters()
    )
    one, eight = plan_counts.plan_memory(replace(setup, sharded=False), 1), plan_counts.plan_memory(setup, 8)
    assert one.states == 4 * p.total + 16 * p.trained + 2 * teacher
    assert eight.states == one.states / 8 and eight.activations == one.activations
    assert one.gathered == 2 * p.total
    blocks = 2 * (p.outside_blocks + 3 * p.largest_block) + 4 * p.largest_block * 9 / 8
    assert eight.gathered == max(blocks, (2 * 2 + 4 * 9 / 8) * p.outside_blocks)
    copies = plan_counts.plan_memory(replace(setup, sharded=False), 8)
    assert copies.states == one.states  # one copy for each process


def test_adapters_by_hand():
    """Rank 4 beside a single block's two layers and norms; the depth decoder is whole where it is fresh."""
    setup = replace(SETUP, lora_rank=4, frozen_bytes=2, moment_bytes=2, fresh_depth=False)
    parts = {part.name: part for part in plan_counts.parts(setup)}
    D, M = TINY.hidden_size, TINY.mlp_size
    weights = D * (3 * D + 2 * M) + D * (D + M) + 2 * TINY.head_size
    adapter = 4 * (D + 3 * D + 2 * M) + 4 * (D + D + M)
    assert vars(parts["single_blocks.0"]) == {
        "name": "single_blocks.0", "total": weights + adapter, "trained": adapter, "frozen": weights
    }  # fmt: skip
    assert parts["outside"].trained == 0
    p = plan_counts.count_parameters(setup)
    assert plan_counts.plan_memory(setup, 1).states == 2 * p.frozen + (4 + 4 + 2 + 4) * p.trained
    offloaded = plan_counts.plan_memory(replace(setup, offload=True), 1).states
    largest = max(part.frozen for part in parts.values() if part.name != "outside")
    assert offloaded == 2 * (parts["outside"].frozen + 2 * largest) + 14 * p.trained
    fresh = {part.name: part for part in plan_counts.parts(replace(setup, fresh_depth=True))}
    assert fresh["depth_decoder_blocks.0"].trained == weights and fresh["outside"].trained > 0
    assert fresh["double_blocks.0"] == parts["double_blocks.0"]


def test_largest_batch_just_fits():
    setup = replace(SETUP, batch=1, sharded=True)
    memory = 2 * plan_counts.plan_memory(setup, 2).total
    fits = plan_counts.largest_batch(setup, 2, memory)
    assert fits >= 1
    assert plan_counts.plan_memory(replace(setup, batch=fits), 2).total <= memory
    assert plan_counts.plan_memory(replace(setup, batch=fits + 1), 2).total > memory
    assert plan_counts.largest_batch(setup, 2, 1000) == 0


def row(lines: list[str], gpus: int) -> list[str]:
    [found] = [line for line in lines if line.startswith(f"| {gpus} | ") and " x " in line]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_plan_before_anything_is_there(capsys):
    """The shipped configuration names sizes of files that nobody has downloaded yet, and its own held-out work."""
    plan.main(["--gpus", "8", "16", "--memory", "141"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("11.99 B parameters") and "1024 depth" in lines[0]
    assert row(lines, 8)[1] == "8 x 4" and row(lines, 16)[1] == "8 x 2"
    setup = plan.setup_of(config.load(plan.DEFAULT_CONFIG, files=False), 8)
    # 20 evaluations of 256 samples in 10 and in 50 steps, 20 sheets of 4 samples in 50 steps of 5 passes.
    passes = 20 * (256 * 60 + 4 * 50 * 5)
    expected = passes * plan_counts.count_operations(setup).forward / (8 * 790e12 * 0.4) / 3600
    assert float(row(lines, 8)[-1]) == pytest.approx(expected, rel=0.05)
    with pytest.raises(config.ConfigError, match="name its sizes by model.variant"):
        plan.main(["--set", "model.variant="])
    plan.main(["--gpus", "1", "--set", "training.sharding=none", "--set", "training.micro_batch=1"])
    assert "| 24 single_blocks | " in capsys.readouterr().out  # layer by layer


def test_plan_of_a_configuration_file(tmp_path, capsys):
    """The file decides: sizes of its source or start, the largest picture, its share of the batch."""
    source = ModalityForcingTransformer(plan_counts.text_to_image(TINY))
    save_file(source.state_dict(), tmp_path / "source.safetensors")
    path = tmp_path / "run.toml"
    path.write_text(
        f"""
        output = "out"
        model = {{ source = '{tmp_path / "source.safetensors"}', decoder_blocks = 2 }}
        codec = {{ text = '{tmp_path / "words.json"}' }}
        data = {{ kind = "latents", path = '{tmp_path / "latents"}', sizes = [[96, 128], [64, 64]] }}
        recipe = {{ distill_weight = 0.5 }}
        training = {{ batch = 64, steps = 100, precision = "bfloat16", micro_batch = 4 }}
        log = {{ samples_every = 0, evaluate_every = 0 }}
        """
    )
    setup = plan.setup_of(config.load(path, files=False), 8)
    assert setup == replace(SETUP, batch=4, passes=2, compute_bytes=2, teacher=True)
    plan.main(["--config", str(path), "--gpus", "2", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert row(lines, 2)[1] == "4 x 8" and row(lines, 4)[1] == "4 x 4" and row(lines, 4)[-1] == "0"
    smaller = ModalityForcingTransformer(replace(TINY, double_blocks=1))
    save_file(smaller.state_dict(), tmp_path / "start.safetensors")
    begun = config.load(path, [f"model.start={(tmp_path / 'start.safetensors').as_posix()}"], files=False)
    assert plan.setup_of(begun, 8).transformer.double_blocks == 1
