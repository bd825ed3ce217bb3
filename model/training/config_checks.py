"""Everything that can be wrong with a configuration before the first step, in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import CodecConfig, CodecSection, Config, DataSection, EncodeConfig

STAGES = ("text_to_image", "post_train")
DATA_KINDS = ("scenes", "folder", "shards", "latents")
CODEC_KINDS = ("demo", "flux2")
SPARSE_KINDS = ("dense", "lidar", "sfm", "regions", "mixed")
PRECISIONS = ("float32", "bfloat16")
SHARDINGS = ("none", "fsdp")
PATCH = 16
NO_LIMIT = 10**9  # samples
DIFFICULTIES = ("easy", "full")
SCENE_KINDS = ("room", "tabletop", "street", "ground")
STYLES = ("short", "full", "attributes")
_SHARE, _POSITIVE = (0, 1), (1, 10**9)
_RANGES = {
    "recipe": {
        **dict.fromkeys(("image_to_depth", "depth_to_image", "text_dropout", "text_dropout_image_to_depth"), _SHARE),
        **dict.fromkeys(("rgb_weight", "depth_weight", "distill_weight", "distill_high", "distill_low"), (0, 1e6)),
        "mu": (-10, 10),
    },
    "optimiser": {
        **dict.fromkeys(("beta1", "beta2", "ema_decay"), (0, 1 - 1e-9)),
        **dict.fromkeys(("decay_share", "final_share", "weight_decay"), _SHARE),
        **dict.fromkeys(("learning_rate", "clip"), (1e-9, 1e9)),
        "warmup_steps": (0, 10**9),
    },
    "training": dict.fromkeys(("steps", "batch"), _POSITIVE),
    "evaluation": {
        **dict.fromkeys(("count", "batch", "sheet_columns", "sheet_steps"), _POSITIVE),
        "max_code": (1, 2),
        "sheet_guidance": (0, 100),
    },
    "model": dict.fromkeys(
        ("hidden_size", "num_heads", "double_blocks", "single_blocks", "mlp_ratio", "decoder_blocks"), _POSITIVE
    ),
    "log": {
        **dict.fromkeys(("every", "keep"), _POSITIVE),
        **dict.fromkeys(("checkpoint_every", "samples_every", "evaluate_every"), (0, 10**9)),
    },
}


def check_training(config: Config) -> list[str]:
    problems = _Problems()
    problems.choice("stage", config.stage, STAGES)
    problems.choice("training.precision", config.training.precision, PRECISIONS)
    problems.choice("training.sharding", config.training.sharding, SHARDINGS)
    _check_data(config.data, problems)
    _check_numbers(config, problems)
    _check_sources(config, problems)
    _check_held_out(config, problems)
    _check_sizes(config, problems)
    return problems.lines


def _check_data(data: DataSection, problems: _Problems) -> None:
    problems.choice("data.kind", data.kind, DATA_KINDS)
    problems.choice("data.sparse", data.sparse, SPARSE_KINDS)
    problems.choice("data.difficulty", data.difficulty, DIFFICULTIES)
    _check_kinds("data.kinds", data.kinds, problems)
    problems.choice("data.style", data.style, (*STYLES, "mixed"))
    problems.within("data.far_code", data.far_code, 1, 2)
    for name, most in (("depth_scale", 1e12), ("sky_from", 1e12), ("workers", 1024), ("count", 2**40)):
        problems.within(f"data.{name}", getattr(data, name), 0, most)
    if data.kind in ("folder", "shards", "latents"):
        problems.exists("data.path", data.path)
    elif data.path:
        problems.lines.append(f"data.path is {data.path!r}, but data.kind is 'scenes', which needs none")
    if data.kind == "scenes" and len(data.sizes) > 1:
        problems.lines.append("data.sizes has several sizes; scenes are rendered at one")
    if not data.sizes:
        problems.lines.append("data.sizes is empty; expected at least one [height, width]")
    for height, width in data.sizes:
        if height < PATCH or width < PATCH or height % PATCH or width % PATCH:
            problems.lines.append(f"data.sizes has {height} x {width}; expected multiples of {PATCH}")


def _check_numbers(config: Config, problems: _Problems) -> None:
    for section, entries in _RANGES.items():
        for name, (low, high) in entries.items():
            problems.within(f"{section}.{name}", getattr(getattr(config, section), name), low, high)
    given = config.recipe.image_to_depth + config.recipe.depth_to_image
    problems.within("recipe.image_to_depth + recipe.depth_to_image", given, 0, 1)
    for steps in config.evaluation.steps:
        problems.within("evaluation.steps", steps, 1, 10**4)


def _check_sources(config: Config, problems: _Problems) -> None:
    if config.model.source:
        problems.exists("model.source", config.model.source)
    if config.model.start:
        problems.exists("model.start", config.model.start)
    if config.recipe.distill_weight > 0 and config.stage == "text_to_image":
        problems.lines.append("recipe.distill_weight is above 0 in stage text_to_image; it belongs to post_train")
    elif config.recipe.distill_weight > 0 and not config.model.source:
        problems.lines.append("recipe.distill_weight is above 0 without model.source, the frozen teacher")
    if config.stage == "post_train" and config.model.freeze_image and not (config.model.source or config.model.start):
        problems.lines.append(
            "model.freeze_image is true without model.source or model.start: it would freeze random weights"
        )
    _check_codec(config.codec, config.data, problems)


def _check_codec(codec: CodecSection, data: DataSection, problems: _Problems) -> None:
    problems.choice("codec.kind", codec.kind, CODEC_KINDS)
    for name in ("image", "text"):
        value = getattr(codec, name)
        if value or data.kind != "latents":  # a store brings its text along
            problems.exists(f"codec.{name}", value)


def _check_held_out(config: Config, problems: _Problems) -> None:
    codec, wanted = config.codec, config.log.samples_every or config.log.evaluate_every
    if config.evaluation.path:
        problems.exists("evaluation.path", config.evaluation.path)
        if config.data.kind == "scenes":
            problems.lines.append("evaluation.path is set, but data.kind is 'scenes', which has held-out scenes itself")
    elif wanted and not (codec.image and codec.text):
        problems.lines.append(
            "evaluation.path is empty: held-out scenes need codec.image and codec.text. Set them, or a path with "
            "held-out data, or log.samples_every and log.evaluate_every to 0"
        )
    if config.log.samples_every and not codec.image:
        problems.lines.append("codec.image is empty: sample sheets need it; set it, or log.samples_every to 0")


def _check_sizes(config: Config, problems: _Problems) -> None:
    training, model = config.training, config.model
    if training.micro_batch < 0 or (training.micro_batch and training.batch % training.micro_batch):
        problems.lines.append(
            f"training.micro_batch is {training.micro_batch}; expected a divisor of training.batch {training.batch}"
        )
    if not model.source and (model.hidden_size % model.num_heads or model.hidden_size // model.num_heads % 8):
        problems.lines.append(
            f"model.hidden_size {model.hidden_size} over {model.num_heads} heads; expected heads of a multiple of 8"
        )


def _check_kinds(name: str, kinds: tuple[str, ...], problems: _Problems) -> None:
    for kind in kinds:
        problems.choice(name, kind, SCENE_KINDS)


def check_encode(config: EncodeConfig) -> list[str]:
    problems = _Problems()
    _check_data(config.data, problems)
    _check_codec(config.codec, config.data, problems)
    for name in ("count", "part_size", "batch"):
        problems.within(name, getattr(config, name), 1, 10**9)
    if config.data.kind == "latents":
        problems.lines.append("data.kind is 'latents', which are encoded already; expected scenes, folder or shards")
    if config.data.kind == "scenes" and not config.data.count and config.count >= NO_LIMIT:
        problems.lines.append("count is not set; scenes never end, so say how many to encode")
    return problems.lines


def check_codec(config: CodecConfig) -> list[str]:
    problems = _Problems()
    for name, low in (("scenes", 2), ("steps", 1), ("batch", 1), ("width", 8), ("text_length", 2)):
        problems.within(name, getattr(config, name), low, 10**9)
    problems.within("learning_rate", config.learning_rate, 1e-9, 1)
    problems.within("latent_noise", config.latent_noise, 0, 10)
    problems.within("channels", config.channels, 1, 128)
    problems.choice("difficulty", config.difficulty, DIFFICULTIES)
    _check_kinds("kinds", config.kinds, problems)
    if config.size < PATCH or config.size % PATCH:
        problems.lines.append(f"size is {config.size}; expected a multiple of {PATCH}")
    return problems.lines


class _Problems:
    """Collects what is wrong, so that one look mends it all."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def choice(self, name: str, value: str, options: tuple[str, ...]) -> None:
        if value not in options:
            self.lines.append(f"{name} is {value!r}; expected one of {', '.join(options)}")

    def within(self, name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            self.lines.append(f"{name} is {value:g}; expected {low:g} to {high:g}")

    def exists(self, name: str, value: str) -> None:
        if not value:
            self.lines.append(f"{name} is empty; expected a path")
        elif not Path(value).exists():
            self.lines.append(f"{name}: there is nothing at {Path(value).resolve()}")
