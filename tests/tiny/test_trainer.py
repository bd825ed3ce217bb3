"""The trainer: same course however it is split, killed or stopped; features; from files to a checkpoint."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from live_memory import peak_of_a_step
from modality_forcing.model.demo.image_codec import ImageCodec
from modality_forcing.model.demo.text import TextEncoder
from modality_forcing.model.network.checkpoint import load_transformer
from modality_forcing.model.network.config import RGB_CHANNELS
from modality_forcing.model.scenes import VOCABULARY
from modality_forcing.model.training import checkpoints
from modality_forcing.model.training.__main__ import main
from modality_forcing.model.training.config import Config, ConfigError, OptimiserSection, decisive, load
from modality_forcing.model.training.data import DataError
from modality_forcing.model.training.logs import RunLog, read_curve
from modality_forcing.model.training.losses import LatentBatch, LossWeights, joint_loss
from modality_forcing.model.training.optimisation import AveragedWeights, learning_rate
from modality_forcing.model.training.parallel import open_accelerator
from modality_forcing.model.training.plan import setup_of
from modality_forcing.model.training.plan_counts import plan_memory
from modality_forcing.model.training.trainer import FINAL, Trainer, _take, count_elements, split_rows
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
LOSSES = ("rgb", "depth", "distill", "gradient_norm")


def curve(config: Config) -> list[dict[str, float]]:
    entries = [entry for entry in read_curve(config.output) if "rgb" in entry]
    return [{name: entry[name] for name in ("step", *LOSSES)} for entry in entries]


def start(arguments: list[str], **environment: str) -> subprocess.Popen:
    variables = {**os.environ, **environment}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)


def weights(config: Config) -> dict[str, torch.Tensor]:
    return load_file(Path(config.output) / FINAL)


RUNS = """
import sys
from model.training import config, parallel, trainer
settings = [config.load(sys.argv[1], changes.split("|")) for changes in sys.argv[2:]]
accelerator = parallel.open_accelerator(settings[0].training)
assert accelerator.num_processes == 2, accelerator.num_processes
for each in settings:
    run = trainer.Trainer(each, accelerator)
    if each.output.endswith("measured"):
        sys.path.append("tests/tiny")
        from live_memory import peak_of_a_step
        from model.training.logs import RunLog
        peak = peak_of_a_step(run, RunLog(run.folder, each.log, 0, 3, False))
        if accelerator.is_main_process:
            open(each.output, "w").write(str(peak))
    else:
        run.run()
parallel.close(accelerator)
"""
# Large enough that the weights, not the batch's odds and ends, are what is held.
MEASURED = [
    *("model.hidden_size=192", "model.num_heads=6", "model.double_blocks=2", "model.single_blocks=4"),
    *("model.decoder_blocks=2", "data.sizes=[[32, 32]]", "training.gradient_checkpointing=true"),
]


def run_two_processes(path: Path, *settings: list[str]) -> None:
    """Train with each of the lists of changed settings, one after the other, by a group of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    arguments = ["-c", RUNS, str(path), *("|".join(changes) for changes in settings)]
    both = [start(arguments, RANK=str(r), LOCAL_RANK=str(r), **group) for r in range(2)]
    try:
        for process in both:
            assert process.wait(270) == 0, process.stderr.read()
    finally:
        for process in both:
            process.kill()


def test_two_processes_and_sharded_ones_equal_one(path, tmp_path, train, codecs):
    """Also where channels that carry nothing are left out, which sharding must not forget."""
    held_out = ["evaluation.path=" + (tmp_path / "store").as_posix(), "evaluation.steps=[1]", "evaluation.batch=4"]
    short = ["training.steps=5", "log.checkpoint_every=0", f"codec.image={codecs['codec.image']}"]
    short += ["log.evaluate_every=5", "evaluation.count=20", *held_out]
    one = train(*short)
    split = [*short[2:], "training.steps=5", "training.micro_batch=2"]
    copies = [*split, "log.checkpoint_every=0", "output=" + (tmp_path / "copies").as_posix()]
    shards = [*split, "log.checkpoint_every=5", "training.sharding=fsdp", "training.gradient_checkpointing=true"]
    shards += ["output=" + (tmp_path / "shards").as_posix()]
    evaluated = [*shards[:-1], "log.evaluate_every=2", "output=" + (tmp_path / "evaluated").as_posix()]
    measured = [*MEASURED, "training.sharding=fsdp", "training.precision=bfloat16", "training.micro_batch=2"]
    measured.append("output=" + (tmp_path / "measured").as_posix())
    run_two_processes(path, copies, shards, evaluated, measured)
    assert_planned(load(path, measured), 2, int((tmp_path / "measured").read_text()))
    reference = curve(one)
    for changes in (copies, shards, evaluated):
        other = load(path, changes)
        for a, b in zip(reference, curve(other), strict=True):
            assert a == pytest.approx(b, rel=2e-5)
        found = weights(other)
        for name, tensor in weights(one).items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-3)  # of 5 Adam steps of up to 1e-2
        assert not found["dit.img_in.weight"][:, 32:].any()
        errors, wanted = (read_curve(each.output)[-1]["image_to_depth"] for each in (other, one))
        assert len(wanted) == 5
        for name, row in wanted.items():
            assert errors[name] == pytest.approx(row, abs=2e-4), name
    # Evaluating on the way changes nothing: averaged weights that stayed gathered would be trained on.
    for name, tensor in weights(load(path, shards)).items():
        assert torch.equal(weights(load(path, evaluated))[name], tensor), name
    # Checkpoints know nothing of the processes: one process can go on from those of two.
    trainer = Trainer(load(path, [*short, "output=" + (tmp_path / "shards").as_posix()]), cpu())
    assert trainer._resume() == 5


def assert_planned(config: Config, processes: int, peak: int) -> None:
    """`plan` says what a process holds, to 10 %."""
    assert plan_memory(setup_of(config, processes), processes).peak == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        ["training.batch=64", "training.gradient_checkpointing=false", "optimiser.kind=muon"],
        ["training.batch=64", "training.micro_batch=32"],
    ],
    ids=" ".join,
)
def test_plan_is_what_one_process_holds(path, changes):
    config = load(path, [*MEASURED, *changes])
    trainer = Trainer(config, cpu())
    assert_planned(config, 1, peak_of_a_step(trainer, RunLog(trainer.folder, config.log, 0, 3, False)))


def cpu():
    return open_accelerator(Config(output="").training)


def test_killed_at_a_random_moment_and_continued_is_the_same_curve(path, tmp_path, train):
    whole = train("training.steps=24", f"output={(tmp_path / 'whole').as_posix()}")
    changes = ["training.steps=24"]
    victim = start(["-m", "model.training", "train", str(path), "--set", *changes])
    moment = random.randint(4, 18)
    log, deadline = tmp_path / "run" / "curve.jsonl", time.monotonic() + 60
    while not log.exists() or log.read_text().count("\n") < moment:
        assert victim.poll() is None and time.monotonic() < deadline, victim.stderr.read()
        time.sleep(0.001)
    victim.kill()
    victim.wait()
    victim.stderr.close()
    assert not (tmp_path / "run" / FINAL).exists()
    [*_, last] = checkpoints.list_checkpoints(tmp_path / "run")
    killed = train(*changes)
    assert int(last.name.removeprefix("step-")) <= moment + 6
    assert curve(killed) == curve(whole)
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(killed)[name], tensor), name


def test_sigterm_saves_stops_and_the_same_command_goes_on(path, tmp_path, monkeypatch, train):
    """With both moments of AdamW and the one of Muon."""
    train = partial(train, "optimiser.kind=muon")
    whole = train(f"output={(tmp_path / 'whole').as_posix()}")
    step = Trainer.update

    def stopped_in_step(self, number, *rest):
        if number == 4:
            signal.raise_signal(signal.SIGTERM)
        step(self, number, *rest)

    monkeypatch.setattr(Trainer, "update", stopped_in_step)
    before = signal.getsignal(signal.SIGTERM)
    stopped = train()
    assert signal.getsignal(signal.SIGTERM) == before
    assert [c.name for c in checkpoints.list_checkpoints(tmp_path / "run")] == ["step-00000003", "step-00000005"]
    assert not (tmp_path / "run" / FINAL).exists()
    monkeypatch.setattr(Trainer, "update", step)
    train()
    assert curve(stopped) == curve(whole)
    assert all(torch.equal(weights(stopped)[name], tensor) for name, tensor in weights(whole).items())


def test_only_whole_checkpoints_count_and_the_last_ones_are_kept(path, tmp_path, monkeypatch, train):
    train("log.checkpoint_every=2", "log.keep=3")
    kept = [c.name for c in checkpoints.list_checkpoints(tmp_path / "run")]
    assert kept == ["step-00000004", "step-00000006", "step-00000008"]
    (tmp_path / "run" / ".step-00000010.part").mkdir()
    (tmp_path / "run" / "step-00000012").mkdir()  # no notes: not ours, or not whole
    assert [c.name for c in checkpoints.list_checkpoints(tmp_path / "run")] == kept


def test_continuing_with_other_settings_is_refused(path, capsys, train):
    train()
    assert main(["train", str(path), "--set", "optimiser.learning_rate=0.5"]) == 2
    assert "optimiser.learning_rate: 0.01 then, 0.5 now" in capsys.readouterr().err


def test_accumulating_passes_equals_one_pass(path, tmp_path, train):
    one = train()
    split = train("training.micro_batch=2", f"output={(tmp_path / 'split').as_posix()}")
    assert decisive(one) == decisive(split)
    for a, b in zip(curve(one), curve(split), strict=True):
        assert a == pytest.approx(b, rel=2e-5)


def test_rows_cover_the_batch_once():
    config = replace(Config(output=""), training=replace(Config(output="").training, batch=24, micro_batch=3))
    rows = [row for process in range(4) for row in split_rows(config, process, 4)]
    assert [n for row in rows for n in range(24)[row]] == list(range(24))
    with pytest.raises(ConfigError, match="batch 24 over 5 processes"):
        split_rows(config, 0, 5)


def test_counts_are_those_of_the_loss(path):
    trainer = Trainer(load(path, ["recipe.image_to_depth=0.4", "recipe.depth_to_image=0.4"]), cpu())
    batch = trainer.parts.encoding.to_latents(next(trainer.batches(0)))
    levels, _ = trainer._draw(0)
    levels = _take(levels, slice(None), torch.device("cpu"))
    assert 0 < levels.rgb_given.sum() < 8 and 0 < levels.depth_given.sum() < 8
    weights = LossWeights(distill=1.0, slope=1.0)
    noise = torch.randn_like(batch.rgb), torch.randn_like(batch.depth)
    teacher = lambda rgb, depth, context, t: (torch.zeros_like(rgb), None)  # noqa: E731
    losses = joint_loss(trainer.parts.model.module, batch, levels, *noise, weights, teacher)
    assert count_elements(batch, levels, weights, RGB_CHANNELS).tolist() == [c.item() for c in losses.counts.values()]


def test_text_is_dropped_more_often_where_the_image_is_given(path):
    trainer = Trainer(load(path, ["training.batch=4000", "recipe.image_to_depth=0.5"]), cpu())
    levels, dropped = trainer._draw(0)
    # Four standard deviations of a share of 2000.
    assert dropped[levels.rgb_given].mean().item() == pytest.approx(0.5, abs=0.045)
    assert dropped[~levels.rgb_given].mean().item() == pytest.approx(0.1, abs=0.027)
    again, same = trainer._draw(0)
    assert torch.equal(levels.t_depth, again.t_depth) and torch.equal(dropped, same)
    assert not torch.equal(levels.t_depth, trainer._draw(1)[0].t_depth)


def test_a_share_of_the_steps_trains_no_depth(path):
    settings = load(path, ["recipe.text_to_image=0.4", "recipe.slope_weight=1.0", "recipe.image_to_depth=0.5"])
    trainer = Trainer(settings, cpu())
    assert [trainer.is_joint(step) for step in range(10)] == [True, True, False, True, False] * 2
    assert not trainer._draw(2)[0].rgb_given.any() and trainer._draw(3)[0].rgb_given.any()
    batches, before = trainer.batches(0), {}
    log = RunLog(trainer.folder, settings.log, 0, 10, False)
    for step in range(3):
        before = {name: p.detach().clone() for name, p in trainer.parts.model.module.named_parameters()}
        trainer.update(step, batches, log)
    moved = {n for n, p in trainer.parts.model.module.named_parameters() if not torch.equal(p, before[n])}
    assert "img_in.weight" in moved and "single_blocks.0.linear1.weight" in moved
    assert not any("depth" in name for name in moved)


def test_learning_rate_by_hand():
    section = OptimiserSection(learning_rate=8.0, warmup_steps=4, decay_share=0.5, final_share=0.25)
    rates = [learning_rate(step, 20, section) for step in (0, 1, 3, 9, 10, 15, 20)]
    # Warm-up quarters; held to step 10; half way down at 15: 8 * (0.25 + 0.75 / 2).
    assert rates == pytest.approx([2.0, 4.0, 8.0, 8.0, 8.0, 5.0, 2.0])


def test_averaged_weights_by_hand():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    averages = AveragedWeights({"w": weight}, decay=0.15)
    weight.data.fill_(2.0)
    averages.update(0)  # decay 1/10: 0.1 * 1 + 0.9 * 2
    assert averages.averages["w"].item() == pytest.approx(1.9)
    averages.update(1)  # 2/11 is above 0.15: 0.15 * 1.9 + 0.85 * 2
    assert averages.averages["w"].item() == pytest.approx(1.985)
    with averages.in_place():
        assert weight.item() == pytest.approx(1.985)
    assert weight.item() == 2.0


def test_bfloat16_keeps_the_depth_head_in_float32(path, train, forget_precision):
    exact = train("training.steps=1")
    forget_precision()
    config = load(path, ["training.precision=bfloat16", "training.steps=1"])
    trainer = Trainer(config, open_accelerator(config.training))
    kinds = {}
    module = trainer.parts.model.module
    module.depth_final_layer.linear.register_forward_hook(lambda m, i, o: kinds.update(head=o.dtype))
    module.single_blocks[0].linear1.register_forward_hook(lambda m, i, o: kinds.update(body=o.dtype))
    trainer.folder = trainer.folder / "half"
    trainer.run()
    assert kinds == {"head": torch.float32, "body": torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in module.parameters())
    rough = read_curve(trainer.folder)[0]
    assert curve(exact)[0]["rgb"] == pytest.approx(rough["rgb"], rel=0.02)
    saved = load_file(trainer.folder / FINAL)
    assert saved["dit.single_blocks.0.linear1.weight"].dtype == torch.bfloat16
    assert saved["dit.depth_final_layer.linear.weight"].dtype == torch.float32


@pytest.fixture(scope="module")
def codecs(tmp_path_factory) -> dict[str, str]:
    """An untrained codec and the scenes' words, as configuration changes."""
    folder = tmp_path_factory.mktemp("codecs")
    ImageCodec(8, used=32).save(folder / "codec.safetensors")
    TextEncoder.of_vocabulary(VOCABULARY, 8).save(folder / "words.json")
    return {
        "codec.image": (folder / "codec.safetensors").as_posix(),
        "codec.text": (folder / "words.json").as_posix(),
    }


def test_from_files_to_a_text_to_image_model_to_a_joint_one(path, tmp_path, codecs, train):
    """Scenes written as shards, read, encoded once, both stages, samples, evaluation, released layout."""
    shards, store = tmp_path / "shards", tmp_path / "encoded"
    assert main(["scenes", "--out", str(shards), "--format", "shards", "--count", "12", "--size", "32", "32"]) == 0
    encode = tmp_path / "encode.toml"
    lines = [f'output = "{store.as_posix()}"', "[codec]", *(f'{k[6:]} = "{v}"' for k, v in codecs.items())]
    lines += ["[data]", 'kind = "shards"', f'path = "{shards.as_posix()}"', "sizes = [[32, 32]]", "sky_from = 1e6"]
    encode.write_text("\n".join([*lines, "far_code = 1.75"]))
    assert main(["encode", str(encode), "--set", "part_size=5", "--set", "batch=2", "--set", "data.workers=1"]) == 0
    assert len(list(store.glob("part-*.safetensors"))) == 3

    common = [f"data.path={store.as_posix()}", "training.steps=2", *(f"{k}={v}" for k, v in codecs.items())]
    common += ["evaluation.count=4", "evaluation.steps=[1]", "evaluation.sheet_steps=2", "log.tensorboard=true"]
    common += ["log.samples_every=2", "log.evaluate_every=2"]
    first = train(*common, "stage=text_to_image", f"output={(tmp_path / 't2i').as_posix()}")
    source = Path(first.output) / FINAL
    base = load_transformer(source, text_to_image=True)
    assert not base.config.has_depth

    second = train(*common, f"model.source={source.as_posix()}", "recipe.distill_weight=0.5", "model.freeze_image=true")
    module = load_transformer(Path(second.output) / FINAL)
    assert module.config.has_depth and module.config.hidden_size == 32
    held = base.double_blocks[0].img_attn.qkv.weight
    assert torch.equal(module.double_blocks[0].img_attn.qkv.weight, held)  # frozen
    assert not torch.equal(module.double_blocks[0].depth_attn.qkv.weight, held)
    assert not torch.equal(module.single_blocks[0].linear1.weight, base.single_blocks[0].linear1.weight)
    entries = read_curve(second.output)
    assert entries[0]["distill"] > 0
    assert {"constant", "plane in depth", "1 step"} <= entries[-1]["image_to_depth"].keys()
    assert (Path(second.output) / "samples" / "step-00000002.png").stat().st_size > 1000
    assert list((Path(second.output) / "tensorboard").glob("events*"))

    third = train(
        *common, "log.samples_every=0", "log.evaluate_every=0", f"output={(tmp_path / 'more').as_posix()}",
        f"model.start={(Path(second.output) / FINAL).as_posix()}",
    )  # fmt: skip
    assert (Path(third.output) / FINAL).is_file()


def test_training_on_files_and_scenes_reports_bad_samples(path, tmp_path, codecs, caplog, train):
    folder = tmp_path / "files"
    assert main(["scenes", "--out", str(folder), "--count", "8", "--size", "32", "32"]) == 0
    (folder / "00000003.png").write_bytes(b"broken")
    (folder / "00000004.txt").unlink()
    changes = [f"data.path={folder.as_posix()}", "data.kind=folder", "data.sizes=[[32, 32]]", "training.steps=2"]
    with caplog.at_level("WARNING"):
        train(*changes, *(f"{k}={v}" for k, v in codecs.items()))
    assert "skipped 00000003: unreadable picture" in caplog.text
    assert "1 skipped, no caption: 00000004" in caplog.text
    assert read_curve(tmp_path / "run")[-1] == {"step": 2, "skipped": {"no caption": 1, "unreadable picture": 1}}
    changes = ["data.path=", "data.kind=scenes", "data.sizes=[[32, 32]]", "training.steps=1", "data.workers=1"]
    train(*changes, *(f"{k}={v}" for k, v in codecs.items()), f"output={(tmp_path / 'fly').as_posix()}")


def test_a_model_for_other_text_and_an_empty_store_are_refused(path, tmp_path, capsys, train):
    other = train("stage=text_to_image", "training.steps=1", "model.hidden_size=16", "model.num_heads=1")
    TextEncoder(tuple(f"word{'a' * n}" for n in range(30)), 6).save(tmp_path / "store" / "words.json")
    source = (Path(other.output) / FINAL).as_posix()
    assert main(["train", str(path), "--set", f"model.source={source}"]) == 2
    assert "takes text of width 16, the text encoder gives 32" in capsys.readouterr().err
    (tmp_path / "store" / "part-000000.safetensors").write_bytes(b"cut off")
    with pytest.raises(DataError, match="no readable part"):
        Trainer(load(path), cpu())


def test_a_loss_that_is_not_finite_stops_the_run(path, tmp_path, monkeypatch):
    trainer = Trainer(load(path), cpu())
    trainer.parts.encoding.to_latents = lambda batch: LatentBatch(
        *(x * torch.nan for x in vars(batch.latents).values())
    )
    with pytest.raises(FloatingPointError, match="not finite within the last 1 steps before step 1"):
        trainer.run()
