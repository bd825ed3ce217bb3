"""What breaks around a run (checkpoints, data files, the disk, the log) costs as little as it can, and is said."""

import io
import json
import os
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from modality_forcing.model.training import checkpoints
from modality_forcing.model.training.__main__ import main
from modality_forcing.model.training.checkpoint_files import CONTENTS
from modality_forcing.model.training.data import DataError, RawSample, UnusableSample
from modality_forcing.model.training.files import FileSource
from modality_forcing.model.training.latent_store import LatentStore
from modality_forcing.model.training.logs import read_curve
from modality_forcing.model.training.trainer import FINAL
from PIL import Image
from safetensors.torch import load_file, save_file


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


DAMAGES = {
    "__0_0.distcp": [flip_a_bit, cut_short],
    CONTENTS: [Path.unlink],
    checkpoints.NOTES: [lambda file: file.write_text("null")],
}


@pytest.mark.parametrize(("name", "damage"), [(name, damage) for name, each in DAMAGES.items() for damage in each])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(train, tmp_path, caplog, name, damage):
    whole = train("training.steps=4", "log.checkpoint_every=1")
    wanted = load_file(tmp_path / "run" / FINAL)
    damage(tmp_path / "run" / "step-00000004" / name)
    (tmp_path / "run" / FINAL).unlink()
    with caplog.at_level("WARNING"):
        train("training.steps=4", "log.checkpoint_every=1")
    assert "step-00000004 is damaged (" in caplog.text
    assert "step-00000003. It is kept as damaged-step-00000004" in caplog.text.replace(str(tmp_path), "")
    assert (tmp_path / "run" / "damaged-step-00000004").is_dir()
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in load_file(tmp_path / "run" / FINAL).items())
    assert [entry["step"] for entry in read_curve(whole.output)] == [1, 2, 3, 4]


def test_a_run_whose_checkpoints_are_all_damaged_says_so_and_touches_none(path, train, tmp_path, capsys):
    train("training.steps=2", "log.checkpoint_every=1")
    for step in (1, 2):
        flip_a_bit(tmp_path / "run" / f"step-0000000{step}" / "__0_0.distcp")
    for _ in range(2):
        settings = ["--set", "training.steps=2", "--set", "log.checkpoint_every=1"]
        assert main(["train", str(path), *settings]) == 2
        assert "no checkpoint in" in (told := capsys.readouterr().err) and "Delete them to begin anew" in told
    assert len(checkpoints.list_checkpoints(tmp_path / "run")) == 2


class Code:
    def __reduce__(self):
        return os.mkdir, (self.folder,)

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)


@pytest.mark.parametrize("place", ["contents", "number"])
def test_a_strangers_checkpoint_runs_no_code(path, train, tmp_path, place, monkeypatch):
    """With right sums: whoever makes such a file can make those too."""
    run, made = tmp_path / "run" / "step-00000002", tmp_path / "made"
    if place == "number":  # among the optimiser's settings, which torch writes as pickles of their own
        save = checkpoints._state
        monkeypatch.setattr(checkpoints, "_state", lambda *parts: _with_code(save(*parts), made))
    train("training.steps=2", "log.checkpoint_every=2")
    monkeypatch.undo()
    made.rmdir() if made.exists() else None
    if place == "contents":
        content = pickle.dumps(Code(made))
        (run / CONTENTS).write_bytes(content)
        notes = json.loads((run / checkpoints.NOTES).read_text())
        notes["files"].pop(CONTENTS)
        (run / checkpoints.NOTES).write_text(json.dumps(notes))
    with pytest.raises(
        (pickle.UnpicklingError, torch.distributed.checkpoint.CheckpointException), match="(?s)could run|weights_only"
    ):
        main(["train", str(path), "--set", "training.steps=2", "--set", "log.checkpoint_every=2"])
    assert not made.exists()


def _with_code(state: dict, folder: Path) -> dict:
    state["optimiser"]["param_groups"][0]["eps"] = Code(folder)
    return state


def test_a_full_disk_costs_no_checkpoint_and_the_run_goes_on(path, train, tmp_path, caplog, capsys):
    resource = pytest.importorskip("resource", reason="file size limits stand in for a full disk on Unix only")
    free = resource.getrlimit(resource.RLIMIT_FSIZE)
    train("training.steps=3")
    size = (tmp_path / "run" / "step-00000003" / "__0_0.distcp").stat().st_size
    (tmp_path / "run" / FINAL).unlink()
    longer = ["--set", "training.steps=3", "--set", "log.checkpoint_every=1", "--set", "log.keep=1"]
    fresh = ["--set", f"output={(tmp_path / 'fresh').as_posix()}"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, free[1]))
    try:
        with caplog.at_level("ERROR"):
            assert main(["train", str(path), *longer, *fresh]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, free)
    assert caplog.text.count("Training goes on, and the next checkpoint is tried when it is due") == 2
    assert "could not save" in (told := capsys.readouterr().err) and "There is no checkpoint yet" in told
    assert [entry["step"] for entry in read_curve(tmp_path / "fresh")] == [1, 2, 3]
    assert not list((tmp_path / "fresh").glob("*step-*")) and not list((tmp_path / "fresh").glob(".*"))
    assert [each.name for each in checkpoints.list_checkpoints(tmp_path / "run")] == ["step-00000003"]
    train("training.steps=3")  # from the checkpoint that there was, to the final file
    assert (tmp_path / "run" / FINAL).is_file()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_what_breaks_a_save_without_a_word_is_not_taken_for_a_checkpoint(path, tmp_path, monkeypatch, capsys, stop):
    """Ctrl-C a second time, while a checkpoint is written, ends the run; torch wraps it as a failure of the save."""

    def broken(*_args, **_kwargs):
        raise stop

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.FileSystemWriter.write_data", broken)
    if stop is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            main(["train", str(path), "--set", "training.steps=1"])
    else:
        assert main(["train", str(path), "--set", "training.steps=1"]) == 2
        assert "step-00000001: MemoryError" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*step-*"))


def test_damaged_lines_of_the_curve_are_left_out_and_counted(train, tmp_path, caplog):
    config = train("training.steps=3")
    curve = tmp_path / "run" / "curve.jsonl"
    lines = curve.read_text().splitlines()
    odd = ["null", "[1]", '{"step": null}', '{"rgb": 1}', "\0\0\0", lines[2][:20]]
    curve.write_text("\n".join([lines[0], *odd[:3], lines[1], *odd[3:5], lines[2], odd[5]]))
    train("training.steps=3")
    assert "left out 6 damaged lines of 9" in caplog.text
    assert curve.read_text().splitlines() == lines and read_curve(config.output)[2]["step"] == 3


BROKEN_STORES = {
    "depth is missing": lambda part: part.pop("depth"),
    "rgb is missing": lambda part: part.pop("rgb"),
    "text_mirrored is missing": lambda part: part.pop("text_mirrored"),
    r"depth is \(30, 128, 2, 2\)": lambda part: part.update(depth=part["rgb"].clone()),
    r"rgb is \(30, 128\)": lambda part: part.update(rgb=part["rgb"][:, :, 0, 0].clone()),
    r"text is \(4, 6\)": lambda part: part.update(text=part["text"][:4].clone()),
    "other numbers than those of the words": lambda part: part.update(text=part["text"] + 100),
}


@pytest.mark.parametrize("reason", BROKEN_STORES)
def test_parts_of_a_store_that_lack_something_are_named_and_left_out(path, tmp_path, reason):
    store = tmp_path / "store"
    good = load_file(store / "part-000000.safetensors")
    part = dict(good)
    BROKEN_STORES[reason](part)
    save_file(part, store / "part-000000.safetensors")
    with pytest.raises(DataError, match="no readable part"):
        LatentStore(store)
    save_file(good, store / "part-000001.safetensors")
    read = LatentStore(store)
    assert read.counts == [30]
    [(name, problem)] = read.unusable
    assert name == "part-000000.safetensors"
    assert re.search(reason, problem)


@pytest.mark.parametrize("notes", ["null", "{}", '{"text": "tokens"}', '{"text": "tokens", "far_code": "x"}', "\xff"])
def test_damaged_notes_of_a_store_are_said(path, tmp_path, notes, capsys):
    (tmp_path / "store" / "store.json").write_bytes(notes.encode("latin-1"))
    assert main(["train", str(path)]) == 2
    assert "is no folder of encoded samples" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # about tags, one for each damage
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "depth.npy", "depth.png", "depth.exr", "depth.tif"])
def test_no_damaged_file_ends_a_run(tmp_path, suffix):
    """Bits flipped and ends cut off at random: a sample, or the word that it cannot be used."""
    rng = random.Random(suffix)
    sample_files(tmp_path, suffix)
    [file] = [found for found in tmp_path.iterdir() if found.name == f"x.{suffix}"]
    whole = file.read_bytes()
    source = FileSource(tmp_path, "folder", [(32, 32)])
    assert isinstance(source.load(0, [0])[0], RawSample)
    found = []
    for _ in range(150):
        content = bytearray(whole[: rng.choice([len(whole), len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.choice([1, 4, 30])):
            if content:
                content[rng.randrange(min(len(content), rng.choice([64, len(content)])))] = rng.randrange(256)
        file.write_bytes(content)
        found += source.load(0, [0])
    assert all(isinstance(sample, RawSample | UnusableSample) for sample in found)
    assert sum(isinstance(sample, UnusableSample) for sample in found) > 10


def sample_files(folder: Path, suffix: str) -> None:
    from modality_forcing.model.depth.files import save_depth

    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(picture).save(folder / f"x.{suffix if '.' not in suffix else 'png'}")
    (folder / "x.txt").write_text("a box")
    depth = torch.linspace(1, 3, 32)[None].expand(32, 32).contiguous()
    if suffix == "depth.tif":
        Image.fromarray(depth.numpy()).save(folder / "x.depth.tif")
    else:
        options = {"step": 0.001} if suffix == "depth.png" else {}
        save_depth(folder / f"x.{suffix if '.' in suffix else 'depth.npy'}", depth, **options)


def test_other_formats_under_a_pictures_name_are_refused(tmp_path):
    """Pillow would take EPS under the name x.png, and run Ghostscript on it."""
    sample_files(tmp_path, "png")
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "EPS")
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    [refused] = FileSource(tmp_path, "folder", [(32, 32)]).load(0, [0])
    assert isinstance(refused, UnusableSample) and refused.reason == "unreadable picture"
