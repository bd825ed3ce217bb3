"""Memory and time plan of post-training, from the shapes alone: `python -m model.training plan --help`.

Letters: D hidden width, M MLP width, b bytes of the compute type (2 or 4), L tokens, P parameters, n GPUs.

States, sharded over n (FSDP, full sharding): weights 4P, gradients 4 P_trained, AdamW 8 P_trained, EMA 4 P_trained,
    teacher b P_teacher. Frozen weights have neither gradient nor optimiser state.
Gathered, on every GPU: b bytes of the parameters outside the blocks (they stay gathered through a step), of two blocks
    (one computes while the next arrives) and of one block's gradients; on one GPU a whole copy in the compute type.
Activations: what autograd keeps, for each token of a block, with f = 16 D bytes of float32 queries and keys (before
    and after their norm; 8 D where all is float32 and the first share the projection's memory):
        double block  (13 D + 4 M) b + f  (+ 12 D in float32: the projection's memory)
        single block and decoder  (11 D + 4 M) b + f
    With gradient checkpointing D b of each block's input, and one whole block, which is computed again.
    Heads: 3 D b of each image token, 12 D of each depth token (float32). While the backward pass is in a block, its
    gradients: 2 (3 D + 2 M) b of each token.
Operations: 2 for each weight and token, attention 4 L^2 D a block. Backward: once for the inputs' gradients, once more
    for trained weights' gradients, attention 2.5 times. Checkpointing: the blocks' forward pass once more. Teacher: its
    forward pass.
Not counted: the text encoder and image autoencoder (prepare latents beforehand, or add theirs), time spent waiting for
other GPUs or for data. A tenth of memory is set aside for kernels' workspace and fragmentation.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import torch
from torch import nn

from ..network.config import VARIANTS, TransformerConfig
from ..network.transformer import ModalityForcingTransformer
from .config import Config, load
from .from_text_to_image import joint_config, source_config, trainable_parameters

GIB = 2**30
STATE_BYTES = 4  # weights, gradients, each of AdamW's two states, EMA: float32
RESERVE = 1.1
DEFAULT_SAMPLES = 5e6
TEXT_WIDTH = TransformerConfig.text_width
LATENT_PIXELS = 16
BLOCKS = ("double_blocks", "single_blocks", "depth_decoder_blocks")
INPUT_LAYERS = ("img_in", "txt_in", "depth_in", "in_layer")  # no gradient of their inputs


@dataclass(frozen=True)
class Setup:
    """What is trained and how."""

    transformer: TransformerConfig = TransformerConfig()
    height_px: int = 512
    width_px: int = 512
    text_tokens: int = 512
    batch: int = 1  # samples on each GPU at a time
    compute_bytes: int = 2  # bfloat16
    checkpointing: bool = True
    freeze_image: bool = True
    ema: bool = True
    teacher: bool = True  # self-distillation

    def __post_init__(self) -> None:
        sizes = (self.height_px, self.width_px)
        if min(sizes) < 1 or any(size % LATENT_PIXELS for size in sizes):
            raise ValueError(f"got {sizes[0]} x {sizes[1]} pixels; expected multiples of {LATENT_PIXELS}")
        if min(self.batch, self.text_tokens) < 1 or self.compute_bytes not in (2, 4):
            raise ValueError(
                f"got batch {self.batch}, {self.text_tokens} text tokens, {self.compute_bytes} bytes; expected at "
                "least 1, at least 1, and 2 (bfloat16) or 4 (float32)"
            )

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of one sample, by stream."""
        grid = self.height_px * self.width_px // LATENT_PIXELS**2
        return {name: self.text_tokens if name == "txt" else grid for name in self.transformer.streams}


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters."""

    total: int
    trained: int
    largest_block: int
    outside_blocks: int


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one sample."""

    forward: float
    backward: float
    recomputed: float
    teacher: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.recomputed + self.teacher


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU."""

    states: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        return RESERVE * (self.states + self.gathered + self.activations)


def build(config: TransformerConfig, freeze_image: bool) -> nn.Module:
    """The network without memory, its weights marked as trained or frozen."""
    with torch.device("meta"):
        module = ModalityForcingTransformer(config)
    trainable_parameters(module, freeze_image)
    return module


def text_to_image(config: TransformerConfig) -> TransformerConfig:
    """The teacher's sizes."""
    return replace(config, depth_channels=0, decoder_blocks=0, cross_stream=False)


def count_parameters(module: nn.Module) -> Parameters:
    blocks = [_size(block) for name in BLOCKS for block in getattr(module, name, ())]
    total = _size(module)
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return Parameters(total, trained, max(blocks, default=0), total - sum(blocks))


def count_operations(setup: Setup) -> Operations:
    """Operations of one sample's training step."""
    module = build(setup.transformer, setup.freeze_image)
    linear = [
        (name, layer, 2 * layer.weight.numel() * _tokens_through(name, setup.tokens))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    attention = _attention(setup)
    forward = sum(cost for *_, cost in linear) + attention
    inputs = sum(cost for name, _, cost in linear if name.rpartition(".")[2] not in INPUT_LAYERS)
    weights = sum(cost for _, layer, cost in linear if layer.weight.requires_grad)
    blocks = sum(cost for name, _, cost in linear if name.startswith(BLOCKS)) + attention
    teacher = 0.0
    if _has_teacher(setup):
        alone = replace(setup, transformer=text_to_image(setup.transformer), teacher=False)
        teacher = count_operations(alone).forward
    recomputed = blocks if setup.checkpointing else 0
    return Operations(forward, inputs + weights + 2.5 * attention, recomputed, teacher)


def activation_bytes(setup: Setup) -> float:
    """Peak of what autograd keeps on one GPU, from the formula above."""
    c, b, tokens = setup.transformer, setup.compute_bytes, setup.tokens
    D, M = c.hidden_size, c.mlp_size
    everything, depth = sum(tokens.values()), tokens.get("depth", 0)
    in_float32 = b == 4
    queries_keys = (8 if in_float32 else 16) * D
    whole = [
        (c.double_blocks, everything, (13 * D + 4 * M) * b + queries_keys + (12 * D if in_float32 else 0)),
        (c.single_blocks, everything, (11 * D + 4 * M) * b + queries_keys),
        (c.decoder_blocks if c.has_depth else 0, depth, (11 * D + 4 * M) * b + queries_keys),
    ]
    if setup.checkpointing:
        kept = sum(count * length * D * b for count, length, _ in whole)
        kept += max(length * size for count, length, size in whole if count)
    else:
        kept = sum(count * length * size for count, length, size in whole)
    heads = 3 * D * b * tokens["img"] + 12 * D * depth
    gradients = 2 * (3 * D + 2 * M) * b * everything
    return setup.batch * (kept + heads + gradients)


def plan_memory(setup: Setup, gpus: int) -> Memory:
    """Bytes on each of `gpus` GPUs."""
    p = count_parameters(build(setup.transformer, setup.freeze_image))
    copies = 4 if setup.ema else 3  # gradient, AdamW's two, EMA
    states = STATE_BYTES * (p.total + copies * p.trained) + setup.compute_bytes * _teacher_parameters(setup)
    if gpus > 1:
        gathered = setup.compute_bytes * (p.outside_blocks + 3 * p.largest_block)
    else:
        gathered = 0 if setup.compute_bytes == STATE_BYTES else setup.compute_bytes * p.total
    return Memory(states / gpus, gathered, activation_bytes(setup))


def largest_batch(setup: Setup, gpus: int, memory_bytes: float) -> int:
    """Samples that fit on each GPU at a time; 0 where not one does."""
    memory = plan_memory(replace(setup, batch=1), gpus)
    left = memory_bytes / RESERVE - memory.states - memory.gathered
    return max(0, int(left // memory.activations))


def traffic_bytes(setup: Setup, gpus: int) -> float:
    """Bytes that each GPU receives in a step: weights gathered for each pass, the teacher's too, gradients reduced."""
    p = count_parameters(build(setup.transformer, setup.freeze_image))
    gathered = setup.compute_bytes * (2 * p.total + _teacher_parameters(setup))
    return (gpus - 1) / gpus * (gathered + STATE_BYTES * p.trained)


def report(
    setups: Mapping[int, Setup], *, memory_gib: float, peak_tflops: float, utilisation: float, samples: float
) -> str:
    """The plan as text: sizes, operations, and a row for each number of GPUs, which may differ in their batch."""
    setup = next(iter(setups.values()))
    p = count_parameters(build(setup.transformer, setup.freeze_image))
    cost = count_operations(setup)
    per_gpu = peak_tflops * 1e12 * utilisation / cost.total  # samples/s
    parts = ", ".join(f"{name} {value / 1e12:.1f}" for name, value in asdict(cost).items())
    lines = [
        f"{p.total / 1e9:.2f} B parameters, {p.trained / 1e9:.2f} B trained; {setup.width_px} x {setup.height_px} px, "
        f"tokens {' + '.join(f'{count} {name}' for name, count in setup.tokens.items())}",
        f"{cost.total / 1e12:.1f} TFLOP a sample ({parts}); {per_gpu:.3g} samples/s on a GPU of "
        f"{peak_tflops:g} TFLOP/s at {100 * utilisation:g} % (an assumption: measure, and set --utilisation)",
        "Memory in GiB on each GPU; batch and traffic in GiB are each GPU's; a tenth of memory is in reserve",
        "",
        f"| GPUs | batch | states | gathered | activations | total | largest batch in {memory_gib:g} | traffic a step "
        f"| samples/s | hours for {samples:g} samples |",
        "|---" * 10 + "|",
    ]
    for gpus, each in setups.items():
        memory = plan_memory(each, gpus)
        shown = (memory.states, memory.gathered, memory.activations, memory.total)
        fits = largest_batch(each, gpus, memory_gib * GIB) or "none"
        lines.append(
            f"| {gpus} | {each.batch} | {' | '.join(f'{value / GIB:.1f}' for value in shown)} | {fits} "
            f"| {traffic_bytes(each, gpus) / GIB:.1f} | {gpus * per_gpu:.3g} "
            f"| {samples / (gpus * per_gpu) / 3600:.1f} |"
        )
    return "\n".join(lines)


def setup_of(config: Config, gpus: int, text_tokens: int, text_width: int) -> Setup:
    """What a training configuration asks of each of `gpus` GPUs. The largest of its sizes counts.

    Args:
        text_tokens: of a caption; the configuration's text encoder decides, which is not loaded here.
        text_width: of the text embedding, used for a model without a source.
    """
    model, training = config.model, config.training
    if model.source:
        base = source_config(model.source)
    else:
        base = TransformerConfig(
            hidden_size=model.hidden_size,
            num_heads=model.num_heads,
            double_blocks=model.double_blocks,
            single_blocks=model.single_blocks,
            mlp_size=model.mlp_ratio * model.hidden_size,
            text_width=text_width,
        )
    joint = config.stage == "post_train"
    height, width = max(config.data.sizes, key=math.prod)
    return Setup(
        joint_config(base, model.decoder_blocks) if joint else text_to_image(base),
        height_px=height,
        width_px=width,
        text_tokens=text_tokens,
        batch=training.micro_batch or max(1, training.batch // gpus),
        compute_bytes=2 if training.precision == "bfloat16" else 4,
        checkpointing=training.gradient_checkpointing,
        freeze_image=joint and model.freeze_image,
        teacher=config.recipe.distill_weight > 0,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the plan for the command line's settings to standard output.

    Raises:
        ConfigError: the configuration file is wrong.
        ValueError: impossible sizes.
    """
    args = _parser().parse_args(argv)
    given = {name: value for name, value in vars(args).items() if value is not None}
    if args.config:
        config = load(args.config)
        setups = {gpus: setup_of(config, gpus, args.text_tokens, args.text_width or TEXT_WIDTH) for gpus in args.gpus}
        samples = config.training.steps * config.training.batch
    else:
        sizes = {field.name: given[field.name] for field in fields(TransformerConfig) if field.name in given}
        flags = {field.name: given[field.name] for field in fields(Setup) if field.name in given}
        bytes_each = 4 if args.float32 else 2
        setup = Setup(replace(VARIANTS[args.variant], **sizes), compute_bytes=bytes_each, **flags)
        setups, samples = dict.fromkeys(args.gpus, setup), DEFAULT_SAMPLES
    options = {name: given[name] for name in ("memory_gib", "peak_tflops", "utilisation")}
    sys.stdout.write(report(setups, samples=args.samples or samples, **options) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="plan", description="Memory and time of post-training, from the shapes.")
    parser.add_argument("--config", help="a run's TOML file: it decides all but the text and the machine")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--memory-gib", type=float, default=80, help="of one GPU (default 80)")
    parser.add_argument("--peak-tflops", type=float, default=790, help="of one GPU, bfloat16, dense (H200: about 790)")
    parser.add_argument(
        "--utilisation", type=float, default=0.4, help="share of the peak that is reached (default 0.4)"
    )
    parser.add_argument("--samples", type=float, help="training samples in all (default: the file's, or 5 million)")
    parser.add_argument("--text-tokens", type=int, default=Setup.text_tokens)
    rest = parser.add_argument_group("without a configuration file")
    rest.add_argument("--variant", choices=VARIANTS, default="flux_rgbd_9b_v2", help="sizes to start from")
    for field in fields(TransformerConfig):
        if field.type is int:
            rest.add_argument(f"--{field.name.replace('_', '-')}", type=int, help="instead of the variant's")
    for name in ("height_px", "width_px", "batch"):
        rest.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Setup, name))
    rest.add_argument("--float32", action="store_true", help="compute in float32 instead of bfloat16")
    for name in ("checkpointing", "freeze_image", "ema", "teacher"):
        option = f"--{name.replace('_', '-')}"
        rest.add_argument(option, action=argparse.BooleanOptionalAction, default=getattr(Setup, name))
    return parser


def _has_teacher(setup: Setup) -> bool:
    return setup.teacher and setup.transformer.has_depth


def _teacher_parameters(setup: Setup) -> int:
    return _size(build(text_to_image(setup.transformer), False)) if _has_teacher(setup) else 0


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _attention(setup: Setup) -> float:
    """Operations of all attention products, forward."""
    c, tokens = setup.transformer, setup.tokens
    joint = 4 * c.hidden_size * sum(tokens.values()) ** 2
    decoder = 4 * c.hidden_size * tokens["depth"] ** 2 * c.decoder_blocks if c.has_depth else 0
    return joint * (c.double_blocks + c.single_blocks) + decoder


def _tokens_through(name: str, tokens: dict[str, int]) -> int:
    """How many tokens of a sample pass a linear layer; layers on conditioning vectors see one."""
    if name.startswith("single_blocks"):
        return sum(tokens.values())
    if name.startswith("depth_decoder_blocks") or name in ("depth_in", "depth_final_layer.linear"):
        return tokens["depth"]
    if name in ("img_in", "final_layer.linear"):
        return tokens["img"]
    if name == "txt_in":
        return tokens["txt"]
    if name.startswith("double_blocks"):
        return next(count for stream, count in tokens.items() if f".{stream}_" in name)
    return 1
