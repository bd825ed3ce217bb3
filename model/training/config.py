"""The configuration of a training run: one TOML file, checked before the first step.

Every number the paper does not publish (arXiv 2606.13676 gives neither optimiser, learning rate, batch, steps, text
dropout, loss weights nor averaging) is a default of ours here, and can be changed in the file. Paths are relative to
the folder in which the command is started.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .config_checks import NO_LIMIT, check_codec, check_encode, check_training

# What may change between a run and its continuation: where things are, what is reported, how the work is split.
FREE_ON_RESUME = (
    *("output", "log", "evaluation", "data.workers"),
    *("training.micro_batch", "training.gradient_checkpointing", "training.sharding", "training.compile"),
)


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one line each."""


@dataclass(frozen=True)
class ModelSection:
    """The network. The sizes are used only without a `source` or `start`, which bring their own."""

    source: str = ""  # text-to-image checkpoint (.safetensors file or diffusers folder); "": fresh weights
    start: str = (
        ""  # a model of this stage to go on from with another schedule, size or data; source is then the teacher
    )
    hidden_size: int = 256
    num_heads: int = 8
    double_blocks: int = 3
    single_blocks: int = 6
    mlp_ratio: int = 3
    decoder_blocks: int = 4  # depth decoder blocks, added for post-training
    freeze_image: bool = True  # the double blocks' image weights, as the paper does for FLUX.2


@dataclass(frozen=True)
class CodecSection:
    """Image codec and text encoder, both frozen."""

    kind: str = "demo"
    image: str = ""  # demo: the file of `codec`; flux2: the folder of a FLUX.2 autoencoder (diffusers)
    text: str = ""  # demo: the word list beside the codec; flux2: the folder of Qwen3-8B (transformers)


@dataclass(frozen=True)
class DataSection:
    """Where training samples come from."""

    kind: str = "scenes"
    path: str = ""  # folder: its root; shards: a folder of .tar files; latents: a folder written by `encode`
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)  # (height, width); each sample takes the nearest aspect
    depth_scale: float = 0.0  # depth of one stored unit; 0: what the file notes, else 1
    sky_from: float = 0.0  # stored depth from which a pixel is sky (known to be far); 0: there is no such value
    far_code: float = (
        2.0  # depth codes are capped here, sky gets it; 2: no cap. 1.75 is 4 x the mean. Latents bring theirs
    )
    mirror: bool = True  # half of the samples mirrored; captions that name a side are kept true
    sparse: str = "dense"  # scenes only: what a sensor leaves of the depth
    difficulty: str = "full"  # scenes only
    kinds: tuple[str, ...] = ()  # scenes only; empty: all
    style: str = "mixed"  # scenes only: of the captions
    count: int = 0  # scenes only: how many there are; 0: a new one for each sample
    workers: int = 0  # processes that load data, for each training process


@dataclass(frozen=True)
class RecipeSection:
    """Tasks, levels and losses. Shares and shift are published, the rest is ours."""

    image_to_depth: float = 0.2
    depth_to_image: float = 0.2
    mu: float = 1.1
    text_dropout: float = 0.1  # share of samples with the empty prompt, for guidance
    text_dropout_image_to_depth: float = 0.5  # image -> depth is used with the empty prompt
    rgb_weight: float = 1.0
    depth_weight: float = 1.0
    distill_weight: float = 0.0  # self-distillation against the frozen source
    distill_high: float = 1.0
    distill_low: float = 0.1


@dataclass(frozen=True)
class OptimiserSection:
    """AdamW; learning rate with linear warm-up, hold, cosine decay at the end; averaged weights."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.0
    clip: float = 1.0  # of the gradient's norm
    warmup_steps: int = 200
    decay_share: float = 0.4  # last part of the steps, in which the rate falls
    final_share: float = 0.02  # of the learning rate, at the end
    ema_decay: float = 0.999  # with warm-up min(decay, (1 + k) / (10 + k))


@dataclass(frozen=True)
class TrainingSection:
    """How far, how much at once, and how it is spread over the machine."""

    steps: int = 1000
    batch: int = 64  # samples of one step, over all processes
    micro_batch: int = 0  # samples at once in one process; 0: its share of the batch. Smaller accumulates gradients
    precision: str = "float32"  # of the computation; weights and averages are float32
    gradient_checkpointing: bool = False
    compile: bool = False  # torch.compile: needs a C++ compiler, a minute at the start, and pays off in long runs
    sharding: str = "none"  # fsdp: weights, gradients and optimiser spread over the processes


@dataclass(frozen=True)
class LogSection:
    """What is written, and how often (in steps; 0: never)."""

    every: int = 20
    checkpoint_every: int = 500
    keep: int = 2  # checkpoints to resume from
    samples_every: int = 1000
    evaluate_every: int = 500
    progress: bool = True
    tensorboard: bool = True


@dataclass(frozen=True)
class EvaluationSection:
    """Held-out image -> depth, and the sample sheets. Held-out scenes are never trained on."""

    path: str = ""  # held-out latents, folder or shards of the data's kind; "": procedural held-out scenes
    count: int = 64
    batch: int = 32
    steps: tuple[int, ...] = (2, 10)  # solver steps to try
    max_code: float = 1.8
    sheet_columns: int = 8
    sheet_steps: int = 25
    sheet_guidance: float = 3.0


@dataclass(frozen=True)
class Config:
    """A training run."""

    output: str  # folder for checkpoints, logs and the final file
    stage: str = "post_train"
    seed: int = 0
    model: ModelSection = field(default_factory=ModelSection)
    codec: CodecSection = field(default_factory=CodecSection)
    data: DataSection = field(default_factory=DataSection)
    recipe: RecipeSection = field(default_factory=RecipeSection)
    optimiser: OptimiserSection = field(default_factory=OptimiserSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    log: LogSection = field(default_factory=LogSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)


@dataclass(frozen=True)
class CodecConfig:
    """A run of `codec`: the small image autoencoder on procedural scenes."""

    output: str  # folder for the codec, its word list and its picture
    seed: int = 0
    scenes: int = 4000
    size: int = 64
    difficulty: str = "full"
    kinds: tuple[str, ...] = ()  # of the scenes; empty: all
    width: int = 64
    channels: int = 128  # that carry the picture; the rest of the latent's 128 stay zero
    steps: int = 2000
    batch: int = 16
    learning_rate: float = 2e-3
    latent_noise: float = 0.1  # share of the latents' deviation: the decoder learns to bear a transformer's errors
    text_length: int = 40


@dataclass(frozen=True)
class EncodeConfig:
    """A run of `encode`: pictures and captions to latents, once, to train from (data.kind = "latents")."""

    output: str  # folder of the store
    count: int = NO_LIMIT  # samples of each size at most; scenes without a count need one here
    part_size: int = 512  # samples in one file
    batch: int = 32  # samples encoded at once
    codec: CodecSection = field(default_factory=CodecSection)
    data: DataSection = field(default_factory=DataSection)


def load(path: str | Path, overrides: list[str] | None = None, kind: type = Config) -> Any:
    """Read and check a configuration.

    Args:
        path: the TOML file.
        overrides: "section.key=value" with a TOML value, as given with --set.
        kind: Config, CodecConfig or EncodeConfig.

    Raises:
        ConfigError: lists everything that is wrong, with the file's name.
    """
    path = Path(path)
    try:
        table = _toml(path.read_text(encoding="utf-8"))
        for override in overrides or []:
            _override(table, override)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    problems: list[str] = []
    config = _build(kind, table, "", problems)
    if not problems:
        problems = {Config: check_training, CodecConfig: check_codec, EncodeConfig: check_encode}[kind](config)
    if problems:
        raise ConfigError(f"{path}:\n" + "\n".join(f"  - {problem}" for problem in problems))
    return config


def decisive(config: Config) -> dict[str, Any]:
    """The settings that must not change when a run is continued, as "section.key": value."""
    flat = {}
    for name, value in asdict(config).items():
        entries = {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
        flat |= {key: v for key, v in entries.items() if not {name, key} & set(FREE_ON_RESUME)}
    return flat


def shortened(config: Config, **sections: dict[str, Any]) -> Config:
    """A copy with some settings changed, section by section, unchecked."""
    return replace(config, **{name: replace(getattr(config, name), **changes) for name, changes in sections.items()})


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        try:
            import tomli as tomllib
        except ModuleNotFoundError as error:
            raise ImportError("reading a configuration needs Python 3.11, or: pip install tomli") from error
    return tomllib.loads(text)


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise ValueError(f"got --set {override!r}, expected section.key=value")
    *sections, name = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
    try:
        table[name] = _toml(f"value = {value}")["value"]
    except ValueError:
        table[name] = value  # a bare word, as shells like them


def _build(kind: type, table: dict[str, Any], prefix: str, problems: list[str]) -> Any:
    """A dataclass from a TOML table; notes unknown keys, wrong types and missing keys."""
    fields = kind.__dataclass_fields__
    for key in table.keys() - fields.keys():
        problems.append(f"{prefix}{key} is unknown; expected one of {', '.join(fields)}")
    values = {}
    for key, entry in fields.items():
        if key not in table:
            if key == "output":
                problems.append("output is missing; expected the folder to write to")
            continue
        if isinstance(entry.type, type) and hasattr(entry.type, "__dataclass_fields__"):
            if isinstance(table[key], dict):
                values[key] = _build(entry.type, table[key], f"{prefix}{key}.", problems)
            else:
                problems.append(f"{prefix}{key} is {table[key]!r}; expected a section [{key}]")
            continue
        values[key] = _typed(table[key], entry.type, f"{prefix}{key}", problems)
    return None if problems else kind(**values)


def _typed(value: Any, kind: Any, name: str, problems: list[str]) -> Any:
    """The value as the field's type. Integers pass as floats; booleans do not pass as numbers."""
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, str, bool):
        if type(value) is not kind:
            problems.append(f"{name} is {value!r}; expected {kind.__name__}")
        return value
    pairs, words = "tuple[tuple" in str(kind), "tuple[str" in str(kind)
    if words:
        if not isinstance(value, list) or not all(type(v) is str for v in value):
            problems.append(f"{name} is {value!r}; expected a list of words in quotes")
            return ()
        return tuple(value)
    try:
        tuples = tuple((int(a), int(b)) for a, b in value) if pairs else tuple(int(v) for v in value)
    except (TypeError, ValueError):
        problems.append(f"{name} is {value!r}; expected a list of {'[height, width] pairs' if pairs else 'integers'}")
        return ()
    return tuples
