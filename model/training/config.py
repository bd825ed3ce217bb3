"""The configuration of a training run: one TOML file, checked before the first step.

Every number the paper does not publish (arXiv 2606.13676 gives neither optimiser, learning rate, batch, steps, text
dropout, loss weights nor averaging) is a default of ours here, and can be changed in the file. Paths are relative to
the folder in which the command is started.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

try:
    from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
    from pydantic.dataclasses import dataclass
except ImportError as error:
    raise ImportError("training needs pydantic: pip install -r model/training/requirements.txt") from error

from ..network.config import DEPTH_PATCH
from .config_reading import read_toml, repaired, sentences, without

NO_LIMIT = 10**9  # samples
# What may change between a run and its continuation: where things are, what is reported, how the work is split.
FREE_ON_RESUME = (
    *("output", "log", "evaluation", "data.workers", "data.index"),
    *("training.micro_batch", "training.gradient_checkpointing", "training.sharding", "training.compile"),
)
# Integers pass as floats; booleans do not pass as numbers.
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1, le=NO_LIMIT)]
Number = Annotated[int, Strict(), Field(ge=0, le=NO_LIMIT)]  # a count; 0: none, never, or what is usual
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Weight = Annotated[float, Strict(), Field(ge=0, le=1e6)]
Above0 = Annotated[float, Strict(), Field(ge=1e-9, le=1e9)]
Decay = Annotated[float, Strict(), Field(ge=0, le=1 - 1e-9)]
Code = Annotated[float, Strict(), Field(ge=1, le=2)]  # a depth code, of depth beyond the mean
Integer = Annotated[int, Strict()]
Size = tuple[Integer, Integer]
Steps = Annotated[int, Strict(), Field(ge=1, le=10**4)]
Difficulty = Literal["easy", "full"]
SceneKind = Literal["room", "tabletop", "street", "ground"]
Sparse = Literal["dense", "lidar", "sfm", "regions", "mixed"]

section = dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one line each."""


@section
class ModelSection:
    """The network. The sizes are used only where there is no `source` or `start`, which bring their own."""

    source: str = ""
    """text-to-image checkpoint (.safetensors file or diffusers folder); "": fresh weights"""
    start: str = ""
    """a model of this stage to go on from with another schedule, size or data; source is then the teacher"""
    variant: Literal["", "flux2_klein_9b", "flux2_klein_4b", "paper_370m", "paper_800m", "paper_3b"] = ""
    """a row of `sizes`, instead of the numbers below; for `plan`, also what a source will be"""
    hidden_size: Count = 256
    num_heads: Count = 8
    double_blocks: Count = 3
    single_blocks: Count = 6
    mlp_ratio: Count = 3
    decoder_blocks: Count = 4
    """depth decoder blocks, added for post-training"""
    freeze_image: Flag = True
    """the double blocks' image weights, as the paper does for FLUX.2"""

    def problems(self) -> list[str]:
        if (
            self.source
            or self.start
            or not (self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 8)
        ):
            return []
        return [f"model.hidden_size {self.hidden_size} over {self.num_heads} heads; expected heads of a multiple of 8"]


@section
class CodecSection:
    """Image codec and text encoder, both frozen."""

    kind: Literal["demo", "flux2"] = "demo"
    image: str = ""
    """demo: the file of `codec`; flux2: the folder of a FLUX.2 autoencoder (diffusers)"""
    text: str = ""
    """demo: the word list beside the codec; flux2: the folder of Qwen3 (transformers)"""


@section
class DataSection:
    """Where training samples come from."""

    kind: Literal["scenes", "folder", "shards", "latents"] = "scenes"
    path: str = ""
    """folder: its root; shards: a folder of .tar files; latents: a folder written by `encode`"""
    sizes: tuple[Size, ...] = ((512, 512),)
    """(height, width); each sample takes the nearest aspect"""
    index: str = ""
    """shards only: folder for the index of their samples; "": .index beside them"""
    depth_scale: Annotated[float, Strict(), Field(ge=0, le=1e12)] = 0.0
    """depth of one stored unit; 0: what the file notes, else 1"""
    sky_from: Annotated[float, Strict(), Field(ge=0, le=1e12)] = 0.0
    """stored depth from which a pixel is sky (known to be far); 0: there is no such value"""
    far_code: Code = 2.0
    """depth codes are capped here, sky gets it; 2: no cap. 1.75 is 4 x the mean. Latents bring theirs"""
    mirror: Flag = True
    """half of the samples mirrored; captions that name a side are kept true"""
    sparse: Sparse = "dense"
    """scenes only: what a sensor leaves of the depth"""
    difficulty: Difficulty = "full"
    """scenes only"""
    kinds: tuple[SceneKind, ...] = ()
    """scenes only; empty: all"""
    style: Literal["short", "full", "attributes", "mixed"] = "mixed"
    """scenes only: of the captions"""
    count: Annotated[int, Strict(), Field(ge=0, le=2**40)] = 0
    """scenes only: how many there are; 0: a new one for each sample"""
    workers: Annotated[int, Strict(), Field(ge=0, le=1024)] = 0
    """processes that load data, for each training process"""

    def problems(self) -> list[str]:
        lines = [
            f"data.sizes has {height} x {width}; expected multiples of {DEPTH_PATCH}"
            for height, width in self.sizes
            if min(height, width) < DEPTH_PATCH or height % DEPTH_PATCH or width % DEPTH_PATCH
        ]
        if self.kind == "scenes" and self.path:
            lines.append(f"data.path is {self.path!r}, but data.kind is 'scenes', which needs none")
        if self.kind == "scenes" and len(self.sizes) > 1:
            lines.append("data.sizes has several sizes; scenes are rendered at one")
        if not self.sizes:
            lines.append("data.sizes is empty; expected at least one [height, width]")
        return lines


@section
class LoraSection:
    """Adapters beside frozen weights, by peft, for one GPU."""

    rank: Annotated[int, Strict(), Field(ge=0, le=1024)] = 0
    """0: no adapters, everything is trained"""
    alpha: Weight = 0.0
    """adapters count alpha / rank times; 0: as much as rank"""
    base: Literal["float32", "bfloat16", "int8"] = "bfloat16"
    """of the frozen weights; int8: blocks only, by torchao"""
    offload: Flag = False
    """frozen weights of blocks lie in host memory, and come when their block computes"""


@section
class RecipeSection:
    """Tasks, levels and losses. Shares and shift are published, the rest is ours."""

    image_to_depth: Share = 0.2
    depth_to_image: Share = 0.2
    text_to_image: Share = 0.0
    """share of the steps of post-training without depth tokens, at less than half the cost; one process only"""
    mu: Annotated[float, Strict(), Field(ge=-10, le=10)] = 1.1
    text_dropout: Share = 0.1
    """share of samples with the empty prompt, for guidance"""
    text_dropout_image_to_depth: Share = 0.5
    """image -> depth is used with the empty prompt"""
    rgb_weight: Weight = 1.0
    depth_weight: Weight = 1.0
    slope_weight: Weight = 0.0
    """of the differences between pixels of depth, against blocks"""
    distill_weight: Weight = 0.0
    """self-distillation against the frozen source"""
    distill_high: Weight = 1.0
    distill_low: Weight = 0.1

    def problems(self) -> list[str]:
        given = self.image_to_depth + self.depth_to_image
        return [f"recipe.image_to_depth + recipe.depth_to_image is {given:g}; expected 0 to 1"] if given > 1 else []


@section
class OptimiserSection:
    """Learning rate with linear warm-up, hold, cosine decay at the end; averaged weights."""

    kind: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """adamw8bit: the moments in 8 bits, by torchao. muon: for the matrices of the blocks, AdamW for the rest"""
    learning_rate: Above0 = 1e-4
    beta1: Decay = 0.9
    beta2: Decay = 0.98
    weight_decay: Share = 0.0
    clip: Above0 = 1.0
    """of the gradient's norm"""
    warmup_steps: Number = 200
    decay_share: Share = 0.4
    """last part of the steps, in which the rate falls"""
    final_share: Share = 0.02
    """of the learning rate, at the end"""
    ema_decay: Decay = 0.999
    """with warm-up min(decay, (1 + k) / (10 + k))"""


@section
class TrainingSection:
    """How far, how much at once, and how it is spread over the machine."""

    steps: Count = 1000
    batch: Count = 64
    """samples of one step, over all processes"""
    micro_batch: Number = 0
    """samples at once in one process; 0: its share of the batch. Smaller accumulates gradients"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """of the computation; weights and averages are float32"""
    gradient_checkpointing: Flag = False
    compile: Flag = False
    """torch.compile: needs a C++ compiler, a minute at the start, and pays off in long runs"""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp: weights, gradients and optimiser spread over the processes"""

    def problems(self) -> list[str]:
        lines = []
        if self.micro_batch and self.batch % self.micro_batch:
            lines.append(
                f"training.micro_batch is {self.micro_batch}; expected a divisor of training.batch {self.batch}"
            )
        if self.compile and self.sharding == "fsdp":
            lines.append("training.compile is true with training.sharding 'fsdp', which it was not seen to work with")
        return lines


@section
class LogSection:
    """What is written, and how often (in steps; 0: never)."""

    every: Count = 20
    checkpoint_every: Number = 500
    keep: Count = 2
    """checkpoints to resume from"""
    samples_every: Number = 1000
    evaluate_every: Number = 500
    progress: Flag = True
    tensorboard: Flag = True


@section
class EvaluationSection:
    """Held-out image -> depth, and the sample sheets. Held-out scenes are never trained on."""

    path: str = ""
    """held-out latents, folder or shards of the data's kind; "": procedural held-out scenes"""
    count: Count = 64
    batch: Count = 32
    steps: tuple[Steps, ...] = (2, 10)
    """solver steps to try"""
    max_code: Code = 1.8
    sheet_columns: Count = 8
    sheet_steps: Count = 25
    sheet_guidance: Annotated[float, Strict(), Field(ge=0, le=100)] = 3.0


@section
class Config:
    """A training run."""

    output: str
    """folder for checkpoints, logs and the final file"""
    stage: Literal["text_to_image", "post_train"] = "post_train"
    seed: Integer = 0
    model: ModelSection = ModelSection()
    codec: CodecSection = CodecSection()
    data: DataSection = DataSection()
    lora: LoraSection = LoraSection()
    recipe: RecipeSection = RecipeSection()
    optimiser: OptimiserSection = OptimiserSection()
    training: TrainingSection = TrainingSection()
    log: LogSection = LogSection()
    evaluation: EvaluationSection = EvaluationSection()

    def problems(self) -> list[str]:
        """What is wrong between settings that are right one by one."""
        sections = (self.model, self.data, self.recipe, self.training)
        lines = [line for each in sections for line in each.problems()]
        return lines + self._stage() + self._muon() + self._lora() + self._held_out()

    def paths(self) -> list[str]:
        """What there must be on the disk, and is not."""
        model = self.model
        named = {"model.source": model.source, "model.start": model.start, "evaluation.path": self.evaluation.path}
        optional = [line for name, path in named.items() if path for line in _missing(name, path)]
        return codec_paths(self.codec, self.data) + optional

    def _stage(self) -> list[str]:
        lines, distills = [], self.recipe.distill_weight > 0
        if distills and self.stage == "text_to_image":
            lines.append("recipe.distill_weight is above 0 in stage text_to_image; it belongs to post_train")
        elif distills and not self.model.source:
            lines.append("recipe.distill_weight is above 0 without model.source, the frozen teacher")
        fresh = not (self.model.source or self.model.start)
        if self.stage == "post_train" and self.model.freeze_image and fresh:
            lines.append(
                "model.freeze_image is true without model.source or model.start: it would freeze random weights"
            )
        return lines

    def _muon(self) -> list[str]:
        if self.optimiser.kind != "muon":
            return []
        lines, sharding = [], self.training.sharding
        if self.lora.rank:
            lines.append("optimiser.kind is 'muon' with lora.rank above 0, whose factors are no maps; expected adamw")
        if sharding != "none":
            lines.append(f"optimiser.kind is 'muon', which needs whole matrices, with training.sharding {sharding!r}")
        return lines

    def _lora(self) -> list[str]:
        lora, training, lines = self.lora, self.training, []
        if not lora.rank:
            return ["lora.offload is true without lora.rank"] if lora.offload else []
        if self.stage != "post_train" or not (self.model.source or self.model.start):
            lines.append("lora.rank is above 0; expected stage post_train and a model.source or model.start to add to")
        if training.sharding != "none":
            lines.append(f"training.sharding is {training.sharding!r} with lora.rank above 0; expected none")
        if (lora.base == "float32") != (training.precision == "float32"):
            lines.append(
                f"lora.base is {lora.base!r} with training.precision {training.precision!r}; expected float32 for both,"
                " or bfloat16 or int8 weights with bfloat16"
            )
        if lora.offload and not training.gradient_checkpointing:
            lines.append("lora.offload is true without training.gradient_checkpointing, which would keep all weights")
        return lines

    def _held_out(self) -> list[str]:
        lines, codec = [], self.codec
        if self.evaluation.path and self.data.kind == "scenes":
            lines.append("evaluation.path is set, but data.kind is 'scenes', which has held-out scenes itself")
        wanted = self.log.samples_every or self.log.evaluate_every
        if wanted and not self.evaluation.path and not (codec.image and codec.text):
            lines.append(
                "evaluation.path is empty: held-out scenes need codec.image and codec.text. Set them, or a path with "
                "held-out data, or log.samples_every and log.evaluate_every to 0"
            )
        if self.log.samples_every and not codec.image:
            lines.append("codec.image is empty: sample sheets need it; set it, or log.samples_every to 0")
        return lines


def load(path: str | Path, overrides: list[str] | None = None, kind: type = Config, *, files: bool = True) -> Any:
    """Read and check a configuration.

    Args:
        path: the TOML file.
        overrides: "section.key=value" with a TOML value, as given with --set.
        kind: Config, or one of `config_preparing`.
        files: whether the files that it names must be there.

    Raises:
        ConfigError: lists everything that is wrong, with the file's name.
    """
    path = Path(path)
    try:
        table = read_toml(path, overrides or [])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    adapter, problems, wrong = TypeAdapter(kind), [], None
    try:
        config = adapter.validate_python(table)
    except ValidationError as error:
        problems, wrong = sentences(error, kind, table), error
        config = adapter.validate_python(repaired(table, error))  # to find the other mistakes at once
    problems += without(config.problems() + (config.paths() if files else []), wrong)
    if problems:
        raise ConfigError(f"{path}:\n" + "\n".join(f"  - {problem}" for problem in problems))
    return config


def schema(kind: type = Config) -> dict[str, Any]:
    """The JSON schema of a kind of configuration, with which editors complete and check TOML files."""
    return TypeAdapter(kind).json_schema()


def decisive(config: Config) -> dict[str, Any]:
    """The settings that must not change when a run is continued, as "section.key": value."""
    flat = {}
    for name, value in asdict(config).items():
        entries = {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
        flat |= {key: v for key, v in entries.items() if not {name, key} & set(FREE_ON_RESUME)}
    return flat


def codec_paths(codec: CodecSection, data: DataSection) -> list[str]:
    lines = _missing("data.path", data.path) if data.kind != "scenes" else []
    for name, value in (("codec.image", codec.image), ("codec.text", codec.text)):
        if value or data.kind != "latents":  # a store brings its text along
            lines += _missing(name, value)
    return lines


def _missing(name: str, value: str) -> list[str]:
    if not value:
        return [f"{name} is empty; expected a path"]
    return [] if Path(value).exists() else [f"{name}: there is nothing at {Path(value).resolve()}"]
