"""A configuration error is found before the first step, and says what to do."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from modality_forcing.model.training.config import Config, ConfigError, decisive, load, schema
from modality_forcing.model.training.config_preparing import CodecConfig, EncodeConfig

CONFIGS = Path(__file__).resolve().parents[2] / "model" / "training" / "configs"


def written(tmp_path: Path, text: str) -> Path:
    for name in ("codec.safetensors", "words.json", "source.safetensors"):
        (tmp_path / name).touch()
    path = tmp_path / "run.toml"
    path.write_text(text.replace("TMP", tmp_path.as_posix()), encoding="utf-8")
    return path


GOOD = """
output = "TMP/out"
[model]
source = "TMP/source.safetensors"
[codec]
image = "TMP/codec.safetensors"
text = "TMP/words.json"
[data]
kind = "scenes"
sizes = [[64, 96]]
[training]
batch = 12
micro_batch = 4
"""


def test_values_defaults_and_overrides(tmp_path):
    path = written(tmp_path, GOOD)
    config = load(path, ["optimiser.learning_rate=3", "data.difficulty=easy", "evaluation.steps=[1, 4]"])
    assert config.data.sizes == ((64, 96),)
    assert config.optimiser.learning_rate == 3.0 and isinstance(config.optimiser.learning_rate, float)
    assert config.data.difficulty == "easy" and config.evaluation.steps == (1, 4)
    assert (config.recipe.image_to_depth, config.recipe.depth_to_image, config.recipe.mu) == (0.2, 0.2, 1.1)
    assert config.recipe.text_dropout_image_to_depth == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('data.kinds=["room", "cave"]', "data.kinds is 'cave'; expected one of room, tabletop, street, ground"),
        ("data.kinds=3", "data.kinds is 3; expected a list of words in quotes"),
        ("training.stepz=3", "training.stepz is unknown; expected one of steps, batch"),
        ("model.gradient=true", "model.gradient is unknown"),
        ('training.steps="many"', "training.steps is 'many'; expected int"),
        ("training.steps=2.5", "training.steps is 2.5; expected int"),
        ("training.batch=true", "training.batch is True; expected int"),
        ("training.steps=0", "training.steps is 0; expected 1 to"),
        ("recipe.text_dropout=1.5", "recipe.text_dropout is 1.5; expected 0 to 1"),
        ("recipe.image_to_depth=0.9", "recipe.image_to_depth + recipe.depth_to_image is 1.1; expected 0 to 1"),
        ("data.sizes=[[64, 70]]", "data.sizes has 64 x 70; expected multiples of 16"),
        ("data.sizes=[64, 64]", "data.sizes is [64, 64]; expected a list of [height, width] pairs"),
        ("data.sizes=[]", "data.sizes is empty"),
        ("data.kind=zip", "data.kind is 'zip'; expected one of scenes, folder, shards, latents"),
        ("data.kind=folder", "data.path is empty; expected a path"),
        ("codec.image=nowhere.safetensors", "codec.image: there is nothing at"),
        ("model.source=nowhere", "model.source: there is nothing at"),
        ("model.source=''", "model.freeze_image is true without model.source or model.start"),
        ("training.micro_batch=5", "training.micro_batch is 5; expected a divisor of training.batch 12"),
        ("training.precision=float16", "training.precision is 'float16'; expected one of float32, bfloat16"),
        ("stage=train", "stage is 'train'; expected one of text_to_image, post_train"),
        ("evaluation.max_code=2.5", "evaluation.max_code is 2.5; expected 1 to 2"),
        ("optimiser=3", "optimiser is 3; expected a section [optimiser]"),
        ("evaluation.steps=[2, 0]", "evaluation.steps is 0; expected 1 to 10000"),
        ("training={compile=true, sharding='fsdp'}", "training.compile is true with training.sharding 'fsdp'"),
        ("optimiser.kind=sgd", "optimiser.kind is 'sgd'; expected one of adamw, adamw8bit, muon"),
        ("evaluation.steps=2", "evaluation.steps is 2; expected a list of integers"),
        ("data.sparse=holes", "data.sparse is 'holes'; expected one of dense"),
    ],
)
def test_each_mistake_is_named(tmp_path, change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(written(tmp_path, GOOD), [change])


def test_muon_is_refused_where_matrices_are_cut(tmp_path):
    cut = ["training.sharding=fsdp", "lora.rank=4"]
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, GOOD), ["optimiser.kind=muon", *cut])
    assert "needs whole matrices, with training.sharding 'fsdp'" in str(caught.value)
    assert "optimiser.kind is 'muon' with lora.rank above 0" in str(caught.value)


def test_a_wrong_setting_brings_no_line_about_what_stands_in_for_it(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, GOOD), ["data.kind=foldr", "data.path=here"])
    assert str(caught.value).count("\n  - ") == 1 and "data.kind is 'foldr'" in str(caught.value)


def test_all_mistakes_at_once_with_the_file(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, GOOD), ["training.steps=0", "data.far_code=3", "codec.text=gone", "training.batch=7"])
    assert str(caught.value).count("\n  - ") == 4
    assert "run.toml" in str(caught.value)


def test_missing_output_unreadable_file_and_bad_toml(tmp_path):
    with pytest.raises(ConfigError, match="output is missing"):
        load(written(tmp_path, "seed = 1"))
    with pytest.raises(ConfigError, match="nowhere.toml"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="run.toml"):
        load(written(tmp_path, "output = "))


def test_teacher_needs_a_source_and_held_out_scenes_need_codecs(tmp_path):
    changes = ["model.source=''", "model.freeze_image=false", "recipe.distill_weight=0.5"]
    with pytest.raises(ConfigError, match="distill_weight is above 0 without model.source"):
        load(written(tmp_path, GOOD), changes)
    changes = [f"data.path='{tmp_path.as_posix()}'", "data.kind=latents", "codec.image=''", "codec.text=''"]
    with pytest.raises(ConfigError, match="held-out scenes need codec.image and codec.text"):
        load(written(tmp_path, GOOD), changes)
    load(written(tmp_path, GOOD), [*changes, "log.samples_every=0", "log.evaluate_every=0"])


def test_decisive_settings_leave_out_what_may_change():
    config = Config(output="a")
    same = replace(config, output="b", log=replace(config.log, every=7))
    longer = replace(config, training=replace(config.training, steps=5, micro_batch=2))
    other = replace(config, optimiser=replace(config.optimiser, learning_rate=0.5))
    assert decisive(config) == decisive(same)
    assert decisive(config) != decisive(longer)  # the rate's decay depends on it
    assert decisive(config) != decisive(other)


def test_codec_and_encode_configurations(tmp_path):
    path = written(tmp_path, 'output = "TMP/codec"')
    assert load(path, ["size=96"], CodecConfig).size == 96
    with pytest.raises(ConfigError, match="size is 40; expected a multiple of 16"):
        load(path, ["size=40"], CodecConfig)
    text = GOOD.split("[training]")[0].replace('[model]\nsource = "TMP/source.safetensors"\n', "")
    with pytest.raises(ConfigError, match="scenes never end, so say how many to encode"):
        load(written(tmp_path, text), [], EncodeConfig)
    assert load(written(tmp_path, text), ["count=10"], EncodeConfig).count == 10


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_right_but_for_paths(path):
    kind = CodecConfig if "codec" in path.stem else EncodeConfig if "encode" in path.stem else Config
    try:
        load(path, [], kind)
    except ConfigError as error:
        wrong = [line for line in str(error).splitlines()[1:] if "there is nothing at" not in line]
        assert not wrong


def test_schema_for_editors_knows_each_setting():
    described = schema()["$defs"]
    assert described["TrainingSection"]["properties"]["steps"] == {
        "default": 1000, "maximum": 10**9, "minimum": 1, "title": "Steps", "type": "integer"
    }  # fmt: skip
    assert described["DataSection"]["properties"]["kind"]["enum"] == ["scenes", "folder", "shards", "latents"]
    assert described["LogSection"]["properties"]["keep"]["description"] == "checkpoints to resume from"
    assert not described["LogSection"]["additionalProperties"]
