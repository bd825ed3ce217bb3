"""Quantised files: what they hold, how far they are from their source, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from modality_forcing.model.network import quantise as module_of_quantise
from modality_forcing.model.network.checkpoint import CheckpointError, load_transformer, read_header, save_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.quantise import NOTES, QUANTISED, file_bytes, quantise
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.tasks import quantise as command
from safetensors.torch import load_file, save_file

CONFIG = TransformerConfig(128, 4, double_blocks=1, single_blocks=1, decoder_blocks=1, mlp_size=384, text_width=48)
# Relative error of a Gaussian weight: half a step of the format, more or less.
ERRORS = {"int8": 0.01, "fp8": 0.03, "mxfp8": 0.03, "nvfp4": 0.1, "int4": 0.08}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    module = ModalityForcingTransformer(CONFIG)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    path = tmp_path_factory.mktemp("source") / "model.safetensors"
    save_transformer(module.bfloat16(), path)
    return path


@pytest.mark.parametrize("name", NOTES)
def test_a_format(source, tmp_path, name):
    if name != "fp8":
        pytest.importorskip("comfy_kitchen")
    path = quantise(source, tmp_path / "new.safetensors", name)
    header = read_header(path)
    assert {note["format"] for note in header.layers.values()} == {NOTES[name]["format"]}
    assert {f"{layer}.weight" for layer in header.layers} == {key for key in header.entries if QUANTISED.fullmatch(key)}
    weights, want = load_transformer(path).state_dict(), load_transformer(source).state_dict()
    for key, value in want.items():
        if key.removesuffix(".weight") in header.layers:
            assert (weights[key] - value).norm() / value.norm() < ERRORS[name], key
        else:
            assert torch.equal(weights[key], value), key
    notes = {f"{layer}.weight": note for layer, note in header.layers.items()}
    stored = sum(tensor.nbytes for tensor in load_file(path).values())
    assert file_bytes(read_header(source), notes) == pytest.approx(stored, abs=64 * len(notes))  # codebooks


def test_what_cannot_be_quantised(source, tmp_path):
    fp8 = quantise(source, tmp_path / "fp8.safetensors", "fp8")
    with pytest.raises(CheckpointError, match="quantised already .float8_e4m3fn in 16 layers.*bf16 or fp32"):
        quantise(fp8, tmp_path / "twice.safetensors", "fp8")
    cast = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in load_file(source).items()}
    save_file(cast, tmp_path / "cast.safetensors")
    with pytest.raises(CheckpointError, match="rounded to 8 bits already"):
        quantise(tmp_path / "cast.safetensors", tmp_path / "twice.safetensors", "fp8")
    save_file({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="another model"):
        quantise(tmp_path / "other.safetensors", tmp_path / "twice.safetensors", "fp8")
    with pytest.raises(FileExistsError, match="fp8.safetensors exists already"):
        quantise(source, fp8, "fp8")
    for target, name, message in (
        (tmp_path / "x.gguf", "fp8", "ends in .safetensors"),
        (tmp_path / "no" / "x.safetensors", "fp8", "no such folder"),
        (tmp_path / "x.safetensors", "int3", "'int3'; expected one of int8"),
    ):
        with pytest.raises(ValueError, match=message):
            quantise(source, target, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cast.safetensors",
        "fp8.safetensors",
        "other.safetensors",
    ]


def test_too_little_space_is_said_first(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(ValueError, match="0.0 GB left, and the file takes"):
        quantise(source, tmp_path / "x.safetensors", "fp8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_nothing_is_left_of_a_file_that_was_not_finished(source, tmp_path, stop):
    def progress(index, count):
        if index > count // 2:
            raise stop

    with pytest.raises(type(stop)):
        quantise(source, tmp_path / "x.safetensors", "fp8", progress)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_was_wrong_and_leaves_nothing(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "import_as_package", lambda: None)
    monkeypatch.setattr(command, "end_on_terminate", lambda: None)
    fp8, other = quantise(source, tmp_path / "fp8.safetensors", "fp8"), tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(3, 3)}, other)
    target = tmp_path / "new" / "x.safetensors"
    target.parent.mkdir()

    def run(file: Path) -> tuple[int, str]:
        status = command.main([str(file), str(target), "--format", "fp8"])
        assert list(target.parent.iterdir()) == []
        return status, capsys.readouterr().err

    for file, message in (
        (fp8, "quantised already"),
        (other, "another model"),
        (tmp_path / "no.safetensors", "no.safetensors"),
    ):
        status, said = run(file)
        assert status == 1 and message in said and "Traceback" not in said

    def stopped(index: int, count: int) -> None:
        if index > count // 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "progress_line", lambda: stopped)
        status, said = run(source)
    assert status == 130 and "x.safetensors was not written" in said

    resource = pytest.importorskip("resource", reason="file size limits stand in for a full disk on Unix only")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        status, said = run(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1 and "could not write" in said and "x.safetensors" in said


def test_memory_is_that_of_a_tensor(source, tmp_path, monkeypatch):
    """Tensors are read one at a time, and none is held."""
    import weakref

    alive = weakref.WeakSet()
    most = 0

    def read(*args):
        nonlocal most
        most = max(most, len(alive))
        tensor = original(*args)
        alive.add(tensor)
        return tensor

    original = module_of_quantise.read_tensor
    monkeypatch.setattr(module_of_quantise, "read_tensor", read)
    quantise(source, tmp_path / "x.safetensors", "fp8")
    assert most <= 3  # the last one, and two gates of one number, written at the end
