"""Order, files, mirroring, and what happens to samples that cannot be used."""

import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from modality_forcing.model.demo.text import END, PAD, TextEncoder
from modality_forcing.model.depth.files import save_depth
from modality_forcing.model.training import order as order_module
from modality_forcing.model.training import shard_index
from modality_forcing.model.training.codecs import depth_codes
from modality_forcing.model.training.data import (
    MOST_ATTEMPTS,
    DataError,
    Problems,
    RawSample,
    StepBatches,
    UnusableSample,
    fit,
    mirrored,
    mirrored_caption,
    nearest_sizes,
    stack_raw,
)
from modality_forcing.model.training.files import FileSource
from modality_forcing.model.training.order import StepOrder, level_generator, sample_noise
from modality_forcing.model.training.scene_source import SKY_DEPTH, SceneSource, write_files
from PIL import Image


class Numbers:
    """A source whose samples show their own number; those in `bad` are unusable."""

    def __init__(self, count: int, bad: frozenset[int] = frozenset()) -> None:
        self.sizes, self.counts, self.bad, self.unusable = [(16, 16)], [count], bad, []

    def load(self, bucket, items):
        return [
            UnusableSample(f"number {i}", "unreadable picture")
            if i in self.bad
            else RawSample(torch.full((3, 16, 16), i, dtype=torch.uint8), torch.ones(16, 16), str(i))
            for i in items
        ]

    stack = staticmethod(stack_raw)


def numbers(batches: StepBatches) -> list[int]:
    return [int(caption) for n in range(len(batches)) for caption in batches[n].captions]


def test_every_sample_once_in_each_pass_and_another_order_in_the_next():
    order = StepOrder([12], batch=4, seed=5)
    first, second = (np.concatenate([order.step(e * 3 + s).items for s in range(3)]) for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(12))
    assert list(first) != list(second)
    assert list(first) != list(np.concatenate([StepOrder([12], 4, seed=6).step(s).items for s in range(3)]))
    assert order.step(2).positions.tolist() == [8, 9, 10, 11]


def test_a_step_does_not_depend_on_what_was_asked_before():
    order = StepOrder([7, 5], batch=3, seed=1)
    steps = [order.step(s) for s in range(40)]
    fresh = StepOrder([7, 5], batch=3, seed=1).step(31)
    assert fresh.items.tolist() == steps[31].items.tolist() and fresh.bucket == steps[31].bucket


def test_each_permutation_is_drawn_once(monkeypatch):
    """With several sizes each keeps its own: a long permutation takes a tenth of a second."""
    drawn, generator = [], order_module._generator
    monkeypatch.setattr(order_module, "_generator", lambda *key: drawn.append(key) or generator(*key))
    order = StepOrder([50, 60, 70, 80, 90], batch=7, seed=0)
    for step in range(60):
        order.step(step)
    permutations = [key for key in drawn if key[1] == order_module._ORDER]
    assert len(permutations) == len(set(permutations)) > 5


def test_buckets_are_drawn_by_their_share_and_each_is_used_evenly():
    order = StepOrder([300, 100], batch=2, seed=0)
    steps = [order.step(s) for s in range(2000)]
    assert np.mean([s.bucket == 0 for s in steps]) == pytest.approx(0.75, abs=0.04)  # 4 standard deviations
    uses = np.bincount(np.concatenate([s.items for s in steps if s.bucket == 1]), minlength=100)
    assert uses.max() - uses.min() <= 1


def test_endless_source_gives_each_position_its_own_item():
    order = StepOrder([None], batch=3, seed=0)
    assert order.step(4).items.tolist() == [12, 13, 14]


def test_noise_belongs_to_the_position():
    whole = sample_noise(3, np.arange(4), (2, 5), "cpu")
    assert torch.equal(whole[2:], sample_noise(3, np.array([2, 3]), (2, 5), "cpu"))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, sample_noise(4, np.arange(4), (2, 5), "cpu"))
    many = sample_noise(0, np.arange(500), (64,), "cpu")
    assert many.mean().item() == pytest.approx(0, abs=4 / 32000**0.5)
    assert many.std().item() == pytest.approx(1, abs=4 / 64000**0.5)
    # Neighbouring seeds are not correlated: the mean product of neighbours is 0 within 4 deviations.
    assert (many[1:] * many[:-1]).mean().item() == pytest.approx(0, abs=4 / 31936**0.5)
    assert level_generator(0, 1).initial_seed() != level_generator(0, 2).initial_seed()


def test_processes_and_passes_together_see_what_one_sees():
    order, source, steps = StepOrder([30], batch=8, seed=2), Numbers(30), range(2, 5)
    whole = numbers(StepBatches(source, order, [slice(0, 8)], steps, mirror=False, seed=2))
    parts = [
        StepBatches(source, order, [slice(r, r + 2), slice(r + 2, r + 4)], steps, mirror=False, seed=2) for r in (0, 4)
    ]
    assert len(parts[0]) == 6
    together = [
        n for s in range(3) for part in parts for turn in range(2) for n in map(int, part[2 * s + turn].captions)
    ]
    assert together == whole


def test_unusable_samples_are_replaced_the_same_everywhere_and_counted_once():
    source, order = Numbers(20, bad=frozenset({3, 4, 5})), StepOrder([20], batch=10, seed=0)
    batches = StepBatches(source, order, [slice(0, 10)], range(4), mirror=False, seed=0)
    first, again = numbers(batches), numbers(batches)
    assert first == again and len(first) == 40
    assert not {3, 4, 5} & set(first)
    half = StepBatches(source, order, [slice(5, 10)], range(4), mirror=False, seed=0)
    assert numbers(half) == [n for s in range(4) for n in first[10 * s + 5 : 10 * s + 10]]
    problems = Problems()
    new = [problems.add(batches[n].unusable) for n in range(4)]
    assert problems.counts == {"unreadable picture": 3}
    assert sum(map(len, new)) == 3
    assert problems.report() == "3 skipped, unreadable picture: number 3, number 4, number 5"


def test_data_of_nothing_but_unusable_samples_stop_the_run():
    batches = StepBatches(
        Numbers(4, bad=frozenset(range(4))), StepOrder([4], 2, 0), [slice(0, 2)], range(1), mirror=False, seed=0
    )
    with pytest.raises(DataError, match=f"{MOST_ATTEMPTS} unusable samples in a row"):
        batches[0]


def test_mirroring_keeps_the_caption_true():
    assert mirrored_caption("a ball on the left, a bright box right.") == "a ball on the right, a bright box left."
    sample = mirrored(RawSample(torch.arange(6).reshape(1, 2, 3), torch.arange(6).reshape(2, 3), "left"))
    assert sample.rgb.tolist() == [[[2, 1, 0], [5, 4, 3]]]
    assert sample.depth.tolist() == [[2, 1, 0], [5, 4, 3]]
    assert sample.caption == "right"


def test_half_of_the_samples_are_mirrored():
    source = Numbers(64)
    source.load = lambda bucket, items: [RawSample(torch.zeros(3, 1, 2), torch.tensor([[1.0, 2.0]]), "") for _ in items]
    batch = StepBatches(source, StepOrder([64], 64, 0), [slice(0, 64)], range(1), mirror=True, seed=0)[0]
    turned = (batch.depth[:, 0, 0] == 2).sum().item()
    assert 16 < turned < 48


def test_fit_keeps_picture_and_depth_aligned():
    # Columns of width 4 with their own colour and depth, 32 x 64 -> the middle 16 x 16 at half the scale.
    values = torch.arange(16).repeat_interleave(4).expand(32, 64)
    image = Image.fromarray(values[..., None].expand(-1, -1, 3).mul(10).to(torch.uint8).contiguous().numpy())
    rgb, depth = fit(image, values.float(), (16, 16))
    # Factor 1/2: columns 16 to 48 of the source remain, that is values 4 to 11, two pixels each.
    assert depth[0].tolist() == [v for v in range(4, 12) for _ in range(2)]
    # Bicubic over the footprint rings at the steps by less than a third of a step of 10.
    assert (rgb[0, 8].float() - 10 * depth[8]).abs().max() < 3.4
    same, kept = fit(image, values.float(), (32, 64))
    assert torch.equal(same[0].float(), 10 * values.float()) and torch.equal(kept, values.float())


def test_fit_mixes_no_depth():
    depth = torch.full((48, 48), torch.nan)
    depth[::2], depth[1::2] = 1.0, 9.0
    _, small = fit(Image.new("RGB", (48, 48)), depth, (16, 16))
    assert set(small.unique().tolist()) <= {1.0, 9.0}


def test_nearest_size_goes_by_ratio():
    sizes = [(512, 512), (384, 512), (512, 384)]
    pictures = np.array([(100, 100), (480, 640), (640, 480), (300, 900)])
    assert nearest_sizes(pictures, sizes).tolist() == [0, 1, 2, 1]


def sample_files(folder, name, *, size=(32, 32), depth=None, caption="a box", picture=True):
    folder.mkdir(exist_ok=True, parents=True)
    if picture:
        Image.new("RGB", size[::-1], "red").save(folder / f"{name}.png")
    np.save(folder / f"{name}.depth.npy", np.full(size, 2.0, np.float32) if depth is None else depth)
    if caption is not None:
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")


def bad_folder(folder):
    sample_files(folder, "good")
    (folder / "sub").mkdir()
    sample_files(folder, "sub/in-a-folder")
    sample_files(folder, "no-caption", caption=None)
    sample_files(folder, "empty-caption", caption="  \n")
    sample_files(folder, "no-picture", picture=False)
    sample_files(folder, "other-size", depth=np.ones((16, 32), np.float32))
    sample_files(folder, "all-missing", depth=np.zeros((32, 32), np.float32))
    sample_files(folder, "nan", depth=np.full((32, 32), np.nan, np.float32))
    sample_files(folder, "negative", depth=np.full((32, 32), -1.0, np.float32))
    sample_files(folder, "negative-tiff")
    (folder / "negative-tiff.depth.npy").unlink()
    tilted = np.linspace(-0.5, 2, 32 * 32, dtype=np.float32).reshape(32, 32)
    Image.fromarray(tilted).save(folder / "negative-tiff.depth.tif")
    sample_files(folder, "broken-picture")
    (folder / "broken-picture.png").write_bytes((folder / "good.png").read_bytes()[:60])
    sample_files(folder, "broken-depth")
    (folder / "broken-depth.depth.npy").write_bytes(b"nonsense")
    (folder / "notes.md").write_text("not a sample")


EXPECTED = {
    "no-caption": "no caption",
    "empty-caption": "no caption",
    "no-picture": "no picture",
    "other-size": "depth of another size",
    "all-missing": "no valid depth",
    "nan": "no valid depth",
    "negative": "negative depth",
    "negative-tiff": "negative depth",
    "broken-picture": "unreadable picture",
    "broken-depth": "unreadable depth",
}


def everything(source: FileSource) -> tuple[dict[str, RawSample], dict[str, str]]:
    good, bad = {}, dict(source.unusable)
    for bucket, count in enumerate(source.counts):
        for item, loaded in enumerate(source.load(bucket, range(count))):
            if isinstance(loaded, UnusableSample):
                bad[loaded.name] = loaded.reason
            else:
                good[source.name(bucket, item)] = loaded
    return good, bad


def test_folder_names_every_bad_sample_with_its_reason(tmp_path):
    bad_folder(tmp_path)
    good, bad = everything(FileSource(tmp_path, "folder", [(32, 32)]))
    assert set(good) == {"good", "sub/in-a-folder"}
    assert bad == EXPECTED
    assert good["good"].caption == "a box" and good["good"].depth.unique().tolist() == [2.0]
    assert good["good"].rgb[:, 0, 0].tolist() == [255, 0, 0]


def test_shards_name_every_bad_sample_and_a_truncated_shard(tmp_path):
    bad_folder(tmp_path / "files")
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("a.tar", "b.tar"):
        with tarfile.open(shards / name, "w") as archive:
            for path in sorted((tmp_path / "files").rglob("*.*")):
                archive.add(path, path.relative_to(tmp_path / "files").as_posix())
    whole = (shards / "b.tar").read_bytes()
    (shards / "b.tar").write_bytes(whole[: len(whole) // 2])
    good, bad = everything(FileSource(shards, "shards", [(32, 32)]))
    assert {"a.tar/good", "a.tar/sub/in-a-folder"} <= set(good)
    assert {f"a.tar/{name}": reason for name, reason in EXPECTED.items()}.items() <= bad.items()
    assert bad["b.tar"] == "truncated shard"


def test_index_of_shards_is_read_once_and_follows_changes(tmp_path, monkeypatch):
    """Only shards that are new are read again; what others have written serves; a damaged index is made anew."""
    write_files(SceneSource((32, 32), difficulty="easy"), tmp_path / "shards", 6, kind="shards", per_shard=2)
    read = []
    whole = shard_index._read_shard
    monkeypatch.setattr(shard_index, "_read_shard", lambda shard, note: read.append(shard.name) or whole(shard, note))

    def opened():
        read.clear()
        source = FileSource(tmp_path / "shards", "shards", [(32, 32), (32, 64)], index=tmp_path / "index")
        return source, sorted(read)

    shards = sorted(path.name for path in (tmp_path / "shards").glob("*.tar"))
    first, names = opened()
    assert names == shards and not (tmp_path / "shards" / ".index").exists()
    again, names = opened()
    assert names == [] and again.counts == first.counts == [6]
    for source in (again, pickle.loads(pickle.dumps(again))):
        for a, b in zip(source.load(0, range(6)), first.load(0, range(6)), strict=True):
            assert torch.equal(a.rgb, b.rgb) and a.caption == b.caption
    (tmp_path / "shards" / shards[0]).unlink()
    (tmp_path / "shards" / "z.tar").write_bytes((tmp_path / "shards" / shards[1]).read_bytes())
    changed, names = opened()
    assert names == ["z.tar"]
    found = [changed.name(0, item) for item in range(6)]
    assert found[::2] == [f"{shards[1]}/00000002", f"{shards[2]}/00000004", "z.tar/00000002"]
    assert torch.equal(changed.load(0, [4])[0].rgb, first.load(0, [2])[0].rgb)
    [table] = (tmp_path / "index").glob("*.npy")
    table.write_bytes(table.read_bytes()[:-50])
    assert opened()[1] == [*shards[1:], "z.tar"]


def test_depth_scale_sky_and_16_bit(tmp_path):
    sample_files(tmp_path, "x")
    (tmp_path / "x.depth.npy").unlink()
    depth = torch.full((32, 32), 3.0)
    depth[0, 0], depth[0, 1] = 0.0, 60.0
    save_depth(tmp_path / "x.depth.png", depth, step=0.001)
    [plain] = FileSource(tmp_path, "folder", [(32, 32)]).load(0, [0])
    assert plain.depth[1, 1].item() == pytest.approx(3.0) and plain.depth[0, 0].isnan()
    [scaled] = FileSource(tmp_path, "folder", [(32, 32)], depth_scale=0.002, sky_from=100.0).load(0, [0])
    assert scaled.depth[1, 1].item() == pytest.approx(6.0) and scaled.depth[0, 1].isposinf()


def test_buckets_by_aspect_and_an_empty_folder(tmp_path):
    for name, size in (("wide", (32, 64)), ("tall", (64, 32)), ("wide2", (30, 62))):
        sample_files(tmp_path / "data", name, size=size)
    sample_files(tmp_path / "data", "broken")
    (tmp_path / "data" / "broken.png").write_bytes(b"broken")
    source = FileSource(tmp_path / "data", "folder", [(32, 32), (32, 64), (64, 32)])
    assert source.unusable == [("broken", "unreadable picture")]
    assert (source.sizes, source.counts) == ([(32, 64), (64, 32)], [2, 1])
    assert [s.rgb.shape for s in source.load(0, [0, 1])] == [(3, 32, 64)] * 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no complete sample"):
        FileSource(tmp_path / "empty", "folder", [(32, 32)])


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_scenes_come_back_from_files(tmp_path, kind):
    scenes = SceneSource((32, 48), difficulty="easy")
    write_files(scenes, tmp_path, 5, kind=kind, per_shard=2)
    read = FileSource(tmp_path, kind, [(32, 48)], sky_from=SKY_DEPTH)
    wanted = [s for s in scenes.load(0, range(5)) if isinstance(s, RawSample)]
    found = read.load(0, range(read.counts[0]))
    assert len(wanted) == len(found) >= 4
    for a, b in zip(wanted, found, strict=True):
        assert torch.equal(a.rgb, b.rgb) and a.caption == b.caption
        torch.testing.assert_close(a.depth, b.depth, rtol=0, atol=0, equal_nan=True)


def test_shards_are_what_webdataset_reads(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    write_files(SceneSource((32, 32), difficulty="easy"), tmp_path, 3, kind="shards")
    [shard] = tmp_path.glob("*.tar")
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert {"png", "depth.npy", "txt"} <= samples[0].keys()
    assert samples[0]["__key__"] == "00000000"


def test_sparse_scenes_lose_depth_in_the_same_places_each_time():
    source = SceneSource((32, 32), sparse="lidar", difficulty="easy")
    [a, _], [b] = source.load(0, [3, 4]), source.load(0, [3])
    assert torch.equal(a.depth.isnan(), b.depth.isnan())
    assert 0.01 < a.depth.isfinite().float().mean() < 0.7


def test_depth_codes_cap_and_sky():
    depth = torch.full((1, 16, 16), 1.0)
    depth[0, 0, 0], depth[0, 0, 1], depth[0, 0, 2] = torch.nan, torch.inf, 1000.0
    codes = depth_codes(depth, 1.75)[0, :, 0, 0]
    mean = (253 + 1000) / 254
    assert codes[0].isnan() and codes[1] == 1.75 and codes[2] == 1.75
    assert codes[3].item() == pytest.approx(1 / mean, rel=1e-5)
    assert depth_codes(depth, 2.0)[0, 1, 0, 0] == 2.0


def test_text_encoder(tmp_path):
    encoder = TextEncoder.of_vocabulary(["a", "ball", ".", "red", "with"], length=4)
    assert encoder.words == ("ball", "red")
    assert encoder.tokens(["A red ball.", "", "red red red red red"]).tolist() == [
        [3, 2, END, PAD],
        [END, PAD, PAD, PAD],
        [3, 3, 3, END],
    ]
    embedded = encoder.encode(["red elephant with a ball"])
    assert embedded.shape == (1, 4, 16)
    assert embedded.square().mean().item() == pytest.approx(1.0)
    assert embedded[0].argmax(-1).tolist() == [3, 2, END, PAD]
    assert encoder.unknown_words("a red Elephant, with elephant and tusks") == ["elephant", "tusks"]
    encoder.save(tmp_path / "words.json")
    assert TextEncoder.load(tmp_path / "words.json") == encoder
    (tmp_path / "words.json").write_text(json.dumps({"length": 3}), encoding="utf-8")
    with pytest.raises(ValueError, match="not a word list"):
        TextEncoder.load(tmp_path / "words.json")


def test_order_refuses_empty_buckets():
    with pytest.raises(ValueError, match="at least one in each"):
        StepOrder([0], 2, 0)
    with pytest.raises(ValueError, match="endless"):
        StepOrder([None, 3], 2, 0)
