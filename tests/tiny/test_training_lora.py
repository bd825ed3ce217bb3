"""Adapters beside frozen weights: what they change, what they leave, how they are stored, continued and merged."""

from pathlib import Path

import pytest
import torch
from live_memory import peak_of_a_step
from modality_forcing.model.network.checkpoint import CheckpointError, load_transformer, save_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.model.training.__main__ import main
from modality_forcing.model.training.assembly import FINAL, LORA
from modality_forcing.model.training.checkpoints import list_checkpoints
from modality_forcing.model.training.config import Config, ConfigError, load
from modality_forcing.model.training.from_text_to_image import initialise
from modality_forcing.model.training.logs import RunLog, read_curve
from modality_forcing.model.training.lora import without_adapters
from modality_forcing.model.training.parallel import open_accelerator
from modality_forcing.model.training.plan import setup_of
from modality_forcing.model.training.plan_counts import plan_memory
from modality_forcing.model.training.trainer import Trainer
from safetensors.torch import load_file, save_file

TEXT_WIDTH = 16
IN_FLOAT32 = ["lora.base=float32", "lora.rank=4", "lora.alpha=8", "optimiser.learning_rate=1e-3"]


@pytest.fixture(autouse=True)
def needs_peft():
    pytest.importorskip("peft")


@pytest.fixture
def source(tmp_path) -> Path:
    """A text-to-image model of random weights."""
    config = TransformerConfig(32, 2, 1, 1, 0, 96, TEXT_WIDTH, depth_channels=0, cross_stream=False)
    save_transformer(_random(ModalityForcingTransformer(config), 1), tmp_path / "source.safetensors")
    return tmp_path / "source.safetensors"


@pytest.fixture
def start(tmp_path, source) -> Path:
    """A joint model of random weights."""
    save_transformer(_random(initialise(source, decoder_blocks=1), 2), tmp_path / "start.safetensors")
    return tmp_path / "start.safetensors"


@torch.no_grad()
def _random(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(drawn * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1 + 0.1 * drawn)
    return module


def inputs():
    generator = torch.Generator().manual_seed(3)
    shapes = (2, 128, 2, 2), (2, 256, 2, 2), (2, 6, TEXT_WIDTH), (2,), (2,)
    return [torch.rand(shape, generator=generator) for shape in shapes]


@torch.no_grad()
def outputs(module):
    return torch.cat(module(*inputs()), dim=1)


def test_adapters_change_what_they_should_and_merge(path, train, tmp_path, start, capsys):
    config = train(f"model.start={start.as_posix()}", *IN_FLOAT32)
    folder = Path(config.output)
    assert not (folder / FINAL).exists()  # the base is as it was
    tensors = load_file(folder / LORA)
    layers = {key.rsplit(".lora_", 1)[0] for key in tensors if ".lora_" in key}
    base = load_transformer(start)
    blocks = ("double_blocks", "single_blocks", "depth_decoder_blocks")
    linear = {n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear) and n.startswith(blocks)}
    assert layers == {f"diffusion_model.{name}" for name in linear} and len(linear) == 12 + 2 + 2
    assert all(tensors[f"{name}.lora_A.weight"].shape[0] == 4 and tensors[f"{name}.alpha"] == 8 for name in layers)
    assert all(tensors[f"{name}.lora_B.weight"].any() for name in layers)

    assert main(["merge", str(start), str(folder / LORA), str(tmp_path / "merged.safetensors"), "--float32"]) == 0
    assert "16 layers changed" in capsys.readouterr().out
    merged = load_transformer(tmp_path / "merged.safetensors")
    for name in linear:
        down, up = (tensors[f"diffusion_model.{name}.lora_{x}.weight"] for x in "AB")
        wanted = base.get_parameter(f"{name}.weight") + 8 / 4 * up @ down
        torch.testing.assert_close(merged.get_parameter(f"{name}.weight").data, wanted)
    others = {name for name, _ in base.named_parameters() if name.removesuffix(".weight") not in linear}
    assert all(torch.equal(merged.get_parameter(name), base.get_parameter(name)) for name in others)

    trainer = Trainer(load(path, [f"model.start={start.as_posix()}", *IN_FLOAT32]), open_accelerator(config.training))
    assert trainer._resume() == config.training.steps
    with trainer.parts.model.averaged(trainer.parts.averages):
        torch.testing.assert_close(outputs(trainer.parts.model.module), outputs(merged), rtol=1e-4, atol=1e-4)
        with without_adapters(trainer.parts.model.module):
            torch.testing.assert_close(outputs(trainer.parts.model.module), outputs(base))
    assert (outputs(merged) - outputs(base)).abs().max() > 1e-3
    assert main(["merge", str(start), str(folder / LORA), str(start)]) == 2  # not over a file that is there


def test_from_a_text_to_image_model_what_is_new_is_trained_whole_and_the_rest_can_teach(train, source):
    """The frozen base without its adapters is the teacher; the result is a whole checkpoint."""
    config = train(f"model.source={source.as_posix()}", *IN_FLOAT32, "recipe.distill_weight=1", "seed=5")
    entries = [entry for entry in read_curve(config.output) if "distill" in entry]
    assert entries[0]["distill"] == pytest.approx(0, abs=1e-5) or entries[0]["distill"] > 0
    made = load_transformer(Path(config.output) / FINAL)
    began = initialise(source, decoder_blocks=1, seed=5)
    base = load_transformer(source, text_to_image=True)
    same = {name for name, p in made.named_parameters() if torch.equal(p, began.get_parameter(name))}
    assert same >= {"img_in.weight", "txt_in.weight", "final_layer.linear.weight", "time_in.in_layer.weight"}
    changed = {name for name, _ in made.named_parameters()} - same
    assert {"depth_in.weight", "depth_final_layer.linear.weight", "time_in_depth.in_layer.weight"} <= changed
    assert {"double_blocks.0.img_attn.qkv.weight", "double_blocks.0.depth_attn.qkv.weight"} <= changed
    moved = made.single_blocks[0].linear1.weight - base.single_blocks[0].linear1.weight
    assert torch.linalg.matrix_rank(moved, atol=1e-5) <= 4


@pytest.mark.parametrize("change", ["lora.offload=true", "lora.base=int8", "optimiser.kind=adamw8bit"])
def test_a_small_card_trains_the_same(train, tmp_path, start, change):
    """Offload changes nothing; weights in 8 bits and 8-bit moments little."""
    if "8" in change:
        pytest.importorskip("torchao")
    common = [f"model.start={start.as_posix()}", "lora.rank=4", "training.steps=3", "training.precision=bfloat16"]
    common += ["training.gradient_checkpointing=true", "log.checkpoint_every=2", "optimiser.learning_rate=1e-3"]
    plain = train(*common)
    other = train(*common, change, f"output={(tmp_path / 'other').as_posix()}")
    exact = change == "lora.offload=true"
    for a, b in zip(read_curve(plain.output), read_curve(other.output), strict=True):
        assert (a["rgb"], a["depth"]) == pytest.approx((b["rgb"], b["depth"]), rel=1e-6 if exact else 0.03)
    found, wanted = (load_file(Path(config.output) / LORA) for config in (other, plain))
    if exact:
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    (Path(other.output) / LORA).unlink()
    assert len(list_checkpoints(Path(other.output))) == 2
    train(*common, change, f"output={(tmp_path / 'other').as_posix()}")  # from the last checkpoint
    again = load_file(Path(other.output) / LORA)
    assert all(torch.equal(found[name], tensor) for name, tensor in again.items())


def test_checkpoints_hold_no_frozen_weights(train, tmp_path, start):
    config = train(f"model.start={start.as_posix()}", *IN_FLOAT32, "lora.rank=1", "training.steps=1")
    [saved] = list_checkpoints(Path(config.output))
    size = sum(file.stat().st_size for file in saved.iterdir())
    assert size < 0.6 * start.stat().st_size  # weights, averages, two moments of the adapters, and names


@pytest.mark.parametrize("change", ["lora.offload=false", "lora.base=int8"])
def test_plan_is_what_a_card_holds(path, tmp_path, change):
    """To 10 %; frozen weights, adapters with gradients, moments and averages, and what autograd keeps."""
    if "int8" in change:
        pytest.importorskip("torchao")
    large = TransformerConfig(256, 8, 2, 4, 2, 768, TEXT_WIDTH)
    save_transformer(_random(ModalityForcingTransformer(large), 3), tmp_path / "large.safetensors")
    settings = ["lora.rank=16", "training.precision=bfloat16", "training.gradient_checkpointing=true", change]
    settings += [f"model.start={(tmp_path / 'large.safetensors').as_posix()}", "training.micro_batch=4"]
    config = load(path, [*settings, "data.sizes=[[32, 32]]"])
    trainer = Trainer(config, open_accelerator(config.training))
    peak = peak_of_a_step(trainer, RunLog(trainer.folder, config.log, 0, 3, False))
    assert plan_memory(setup_of(config, 1), 1).peak == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.sharding=fsdp"], "training.sharding is 'fsdp' with lora.rank above 0"),
        (["lora.base=bfloat16"], "expected float32 for both"),
        (["lora.offload=true"], "lora.offload is true without training.gradient_checkpointing"),
        (["model.start="], "expected stage post_train and a model.source or model.start"),
        (["lora.rank=0", "lora.offload=true"], "lora.offload is true without lora.rank"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(path, start, changes, message):
    with pytest.raises(ConfigError, match=message):
        load(path, [f"model.start={start.as_posix()}", *IN_FLOAT32, *changes])


def test_another_models_lora_is_refused(tmp_path, start):
    from modality_forcing.model.training.lora import merge

    lora = tmp_path / "other.safetensors"
    down, up = torch.zeros(2, 32), torch.zeros(96, 2)
    for tensors, message in (
        ({"x.lora_A.weight": down, "x.lora_B.weight": up}, "there is no layer x"),
        ({"something": down}, "expected keys like"),
        ({"diffusion_model.single_blocks.0.linear1.lora_A.weight": down}, "does not fit"),
    ):
        save_file(tensors, lora)
        with pytest.raises(CheckpointError, match=message):
            merge(start, lora, tmp_path / "out.safetensors")
    lora.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be read as a LoRA"):
        merge(start, lora, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists() and Config(output="").lora.rank == 0
