"""The plan's counts against torch's own: parameters, operations of a real step, and what autograd really keeps."""

from dataclasses import replace

import pytest
import torch
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.model.training import config, plan
from modality_forcing.model.training.from_text_to_image import trainable_parameters
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

TINY = TransformerConfig(
    hidden_size=128, num_heads=4, double_blocks=2, single_blocks=3, decoder_blocks=2, mlp_size=384, text_width=48
)
SETUP = plan.Setup(TINY, 96, 128, text_tokens=40, batch=2, compute_bytes=4, checkpointing=False, teacher=False)


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
    p = plan.count_parameters(plan.build(TransformerConfig(), freeze_image=True))
    base = plan.count_parameters(plan.build(plan.text_to_image(TransformerConfig()), freeze_image=False))
    assert p.total / 1e9 == pytest.approx(11.99, abs=0.005)
    assert base.total / 1e9 == pytest.approx(9.08, abs=0.005)
    D = 4096
    frozen = 8 * (13 * D * D + 2 * 128)  # qkv, proj, MLP of 3 D, and the two norms, in 8 blocks
    assert p.total - p.trained == frozen
    assert p.largest_block == 3 * (13 * D * D + 2 * 128)  # a double block


@pytest.mark.parametrize("freeze_image", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_operations_are_those_torch_counts(freeze_image, checkpointing):
    setup = replace(SETUP, freeze_image=freeze_image, checkpointing=checkpointing)
    module, inputs = module_and_inputs(setup)
    cost = plan.count_operations(setup)
    with counter() as forward:
        loss = run(module, inputs)
    with counter() as backward:
        loss.backward()
    assert forward.get_total_flops() == setup.batch * cost.forward
    assert backward.get_total_flops() == pytest.approx(setup.batch * (cost.backward + cost.recomputed), rel=0.01)
    assert (cost.recomputed > 0.9 * cost.forward) == checkpointing


def test_operations_of_the_teacher():
    setup = replace(SETUP, teacher=True)
    module, inputs = module_and_inputs(replace(setup, transformer=plan.text_to_image(TINY)))
    with counter() as counted, torch.no_grad():
        run(module, inputs)
    assert plan.count_operations(setup).teacher * setup.batch == counted.get_total_flops()


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
    expected = plan.activation_bytes(more) - plan.activation_bytes(setup)
    assert expected == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("compute_bytes", [2, 4])
def test_all_activations_are_those_autograd_keeps(compute_bytes):
    """The whole network, without the backward pass's own gradients, to 8 %; frozen weights save a little more."""
    setup = replace(SETUP, compute_bytes=compute_bytes, freeze_image=False)
    D, M, tokens = TINY.hidden_size, TINY.mlp_size, sum(setup.tokens.values())
    gradients = 2 * (3 * D + 2 * M) * compute_bytes * tokens * setup.batch
    expected = plan.activation_bytes(setup) - gradients
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
    assert plan.activation_bytes(more) - plan.activation_bytes(setup) == 2 * tokens * 128 * 4


def test_states_by_hand():
    """AdamW and EMA in float32: 4 bytes of every weight, 16 of every trained one, 2 of the teacher's."""
    setup = replace(SETUP, compute_bytes=2, teacher=True)
    p = plan.count_parameters(plan.build(TINY, True))
    teacher = sum(t.numel() for t in ModalityForcingTransformer(plan.text_to_image(TINY), device="meta").parameters())
    one, eight = plan.plan_memory(setup, 1), plan.plan_memory(setup, 8)
    assert one.states == 4 * p.total + 16 * p.trained + 2 * teacher
    assert eight.states == one.states / 8 and eight.activations == one.activations
    assert one.gathered == 2 * p.total and eight.gathered == 2 * (p.outside_blocks + 3 * p.largest_block)
    assert plan.plan_memory(replace(setup, ema=False), 1).states == one.states - 4 * p.trained


def test_largest_batch_just_fits():
    setup = replace(SETUP, batch=1)
    memory = 2 * plan.plan_memory(setup, 2).total
    fits = plan.largest_batch(setup, 2, memory)
    assert fits >= 1
    assert plan.plan_memory(replace(setup, batch=fits), 2).total <= memory
    assert plan.plan_memory(replace(setup, batch=fits + 1), 2).total > memory
    assert plan.largest_batch(setup, 2, 1000) == 0


def test_command_line(capsys):
    plan.main(["--gpus", "1", "8", "--memory-gib", "141", "--double-blocks", "2", "--no-teacher", "--samples", "1e6"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("| 1 | ") and lines[-1].startswith("| 8 | ")
    assert "teacher 0.0" in lines[1] and "1024 depth" in lines[0]
    assert "| 1 | 1 | " in lines[-2]  # batch 1
    with pytest.raises(ValueError, match="multiples of 16"):
        plan.main(["--height-px", "500"])


def test_plan_of_a_configuration_file(tmp_path, capsys):
    """The file decides: sizes of its source, the largest picture, its share of the batch."""
    source = ModalityForcingTransformer(plan.text_to_image(TINY))
    save_file(source.state_dict(), tmp_path / "source.safetensors")
    (tmp_path / "latents").mkdir()
    path = tmp_path / "run.toml"
    path.write_text(
        f"""
        output = "out"
        model = {{ source = '{tmp_path / "source.safetensors"}', decoder_blocks = 2 }}
        data = {{ kind = "latents", path = '{tmp_path / "latents"}', sizes = [[96, 128], [64, 64]] }}
        recipe = {{ distill_weight = 0.5 }}
        training = {{ batch = 64, steps = 100, precision = "bfloat16" }}
        log = {{ samples_every = 0, evaluate_every = 0 }}
        """
    )
    setup = plan.setup_of(config.load(path), 8, text_tokens=40, text_width=1)
    assert setup == replace(SETUP, batch=8, compute_bytes=2, teacher=True)
    plan.main(["--config", str(path), "--gpus", "2", "4", "--text-tokens", "40"])
    lines = capsys.readouterr().out.splitlines()
    assert "hours for 6400 samples" in lines[-4]
    assert lines[-2].startswith("| 2 | 32 | ") and lines[-1].startswith("| 4 | 16 | ")
