"""What a run holds and computes, counted from shapes alone.

Letters: D hidden width, M MLP width, b bytes of the compute type (2 or 4), P parameters, n GPUs.

States: weights 4P, trained ones also gradients 4P, AdamW 8P (2P with 8-bit moments) and averages 4P; the teacher b P.
    With adapters (LoRA) the frozen weights are kept in 4, 2 or 1 bytes, or, offloaded, those of two blocks only.
    Sharding divides all of it by n.
Gathered, with sharding: b bytes of the parameters outside the blocks (they stay gathered through a step) and of two
    blocks (one computes while the next arrives); of one block its gradients in b bytes, once more in float32 as they
    are exchanged, and what comes back, 4 / n. At the end of a step the parameters outside the blocks have all that
    instead. Gradients are exchanged in every pass: waiting would keep all of them. Without sharding, in bfloat16: a
    whole copy in the compute type, which autocast keeps, unless the weights are in it already; of weights in 8 bits
    one layer's, multiplied out in float32 and then in the compute type.
Activations: what autograd keeps, for each token of a block, with f = 16 D bytes of float32 queries and keys (before
    and after their norm; 8 D where all is float32 and the first share the projection's memory):
        double block  (13 D + 4 M) b + f  (+ 12 D in float32: the projection's memory)
        single block and decoder  (11 D + 4 M) b + f
    With gradient checkpointing D b of each block's input, and one whole block, which is computed again.
    Heads: 3 D b of each image token, 12 D of each depth token (float32). While the backward pass is in a block, its
    gradients: 2 (3 D + 2 M) b of each token. In a single pass the weights' gradients come while activations go.
Operations: 2 for each weight and token, attention 4 L^2 D a block. Backward: once for the inputs' gradients, once more
    for trained weights' gradients, attention 2.5 times. Checkpointing: the blocks' forward pass once more. Teacher: its
    forward pass.
Not counted: the text encoder and image autoencoder (prepare latents beforehand, or add theirs), time spent waiting for
other GPUs or for data. A tenth of memory is set aside for kernels' workspace and fragmentation.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from ..network.config import BLOCKS, TransformerConfig
from ..network.transformer import ModalityForcingTransformer
from .from_text_to_image import trainable_parameters
from .lora_layers import adapter_size, is_adapted, is_fresh

RESERVE = 1.1
LATENT_PIXELS = 16
INPUT_LAYERS = ("img_in", "txt_in", "depth_in", "in_layer")  # no gradient of their inputs


@dataclass(frozen=True)
class Setup:
    """What is trained and how, on each GPU."""

    transformer: TransformerConfig = TransformerConfig()
    height_px: int = 512
    width_px: int = 512
    text_tokens: int = 512
    batch: int = 1  # samples on each GPU at a time
    passes: int = 2  # of a step; from two on gradients lie beside the next pass' activations
    compute_bytes: int = 2  # bfloat16
    checkpointing: bool = True
    freeze_image: bool = True
    teacher: bool = True  # self-distillation
    sharded: bool = True
    moment_bytes: int = 8  # both moments of AdamW; 2 in 8 bits
    lora_rank: int = 0  # 0: everything that is not frozen is trained
    fresh_depth: bool = True  # with adapters: the modules of depth that no text-to-image model has are trained whole
    frozen_bytes: int = 4  # of a frozen weight
    offload: bool = False  # frozen weights of blocks come from host memory

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of one sample, by stream."""
        grid = self.height_px * self.width_px // LATENT_PIXELS**2
        return {name: self.text_tokens if name == "txt" else grid for name in self.transformer.streams}


@dataclass(frozen=True)
class Part:
    """Numbers of parameters of a block, or of what lies outside of them. Adapters count in the total, as trained."""

    name: str
    total: int
    trained: int
    frozen: int


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters."""

    total: int
    trained: int
    frozen: int
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
    peak: float  # of them together, which is less than their sum where they come one after the other

    @property
    def total(self) -> float:
        return RESERVE * self.peak


def build(setup: Setup) -> nn.Module:
    """The network without memory, its weights marked as trained or frozen."""
    with torch.device("meta"):
        module = ModalityForcingTransformer(setup.transformer)
    trainable_parameters(module, setup.freeze_image)
    return module


def text_to_image(config: TransformerConfig) -> TransformerConfig:
    """The teacher's sizes."""
    return replace(config, depth_channels=0, decoder_blocks=0, cross_stream=False)


def count_parameters(setup: Setup) -> Parameters:
    *inside, outside = parts(setup)
    everything = [*inside, outside]
    sums = (sum(getattr(part, name) for part in everything) for name in ("total", "trained", "frozen"))
    return Parameters(*sums, max((part.total for part in inside), default=0), outside.total)


def parts(setup: Setup) -> list[Part]:
    """The network's blocks one by one, and what is outside of them as the last."""
    module = build(setup)
    named = {f"{name}.{i}": block for name in BLOCKS for i, block in enumerate(getattr(module, name, ()))}
    inside = {name: {f"{name}.{key}": p for key, p in block.named_parameters()} for name, block in named.items()}
    outside = {key: p for key, p in module.named_parameters() if not key.startswith(BLOCKS)}
    return [Part(name, *_count(setup, parameters)) for name, parameters in {**inside, "outside": outside}.items()]


def _count(setup: Setup, parameters: dict[str, nn.Parameter]) -> tuple[int, int, int]:
    """Total, trained and frozen parameters."""
    total = sum(p.numel() for p in parameters.values())
    if not setup.lora_rank:
        trained = sum(p.numel() for p in parameters.values() if p.requires_grad)
        return total, trained, total - trained
    whole = {key for key in parameters if setup.fresh_depth and is_fresh(key)}
    trained = sum(parameters[key].numel() for key in whole)
    adapted = [p.shape for key, p in parameters.items() if is_adapted(key) and key not in whole]
    adapters = sum(adapter_size(shape, setup.lora_rank) for shape in adapted)
    return total + adapters, trained + adapters, total - trained


def count_operations(setup: Setup) -> Operations:
    """Operations of one sample's training step."""
    module = build(setup)
    linear = [
        (name, layer, 2 * layer.weight.numel() * _tokens_through(name, setup.tokens))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    attention = _attention(setup)
    forward = sum(cost for *_, cost in linear) + attention
    inputs = sum(cost for name, _, cost in linear if name.rpartition(".")[2] not in INPUT_LAYERS)
    weights = sum(cost for name, layer, cost in linear if _weight_is_trained(setup, f"{name}.weight", layer))
    blocks = sum(cost for name, _, cost in linear if name.startswith(BLOCKS)) + attention
    recomputed = blocks if setup.checkpointing else 0
    return Operations(forward, inputs + weights + 2.5 * attention, recomputed, _teacher_operations(setup))


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
    p, b, n = count_parameters(setup), setup.compute_bytes, gpus if setup.sharded else 1
    *inside, outside = parts(setup)
    in_blocks = [part.frozen for part in inside]
    on_card = 2 * max(in_blocks, default=0) if setup.offload else sum(in_blocks)
    frozen = setup.frozen_bytes * on_card + max(2, setup.frozen_bytes) * outside.frozen  # 8 bits are for blocks
    teacher = b * _teacher_parameters(setup)
    gradients = 4 * p.trained / n
    states = (frozen + (4 + setup.moment_bytes + 4) * p.trained + teacher) / n + gradients
    activations = activation_bytes(setup)
    if setup.sharded:
        in_block = b * (p.outside_blocks + 3 * p.largest_block) + 4 * p.largest_block * (1 + 1 / n)
        at_end = 2 * b * p.outside_blocks + 4 * p.outside_blocks * (1 + 1 / n)
        gathered = max(in_block, at_end)
        peak = states + max(in_block + activations, at_end)
    else:
        gathered = (b if b < 4 else 0) * (p.trained + (p.frozen if setup.frozen_bytes == 4 else 0))
        if setup.frozen_bytes == 1:
            adapted = [weight.numel() for key, weight in build(setup).named_parameters() if is_adapted(key)]
            gathered += (4 + b) * max(adapted)
        first_pass = states - (gradients if setup.passes == 1 else 0) + activations
        peak = gathered + max(first_pass, states)
    return Memory(states, gathered, activations, peak)


def largest_batch(setup: Setup, gpus: int, memory_bytes: float) -> int:
    """Samples that fit on each GPU at a time, 1, 2, 3 ..., in several passes; 0 where not one does."""
    one, two = (plan_memory(replace(setup, batch=batch, passes=2), gpus).total for batch in (1, 2))
    return 0 if one > memory_bytes else 1 + int((memory_bytes - one) / max(1.0, two - one))


def traffic_bytes(setup: Setup, gpus: int) -> float:
    """Bytes that each GPU receives in a step: sharded weights gathered for each pass, the teacher's too; gradients."""
    p, share = count_parameters(setup), (gpus - 1) / gpus
    if not setup.sharded:
        return 2 * share * 4 * p.trained
    gathered = setup.compute_bytes * (2 * p.total + _teacher_parameters(setup))
    return setup.passes * share * (gathered + 4 * p.trained)


def _weight_is_trained(setup: Setup, key: str, layer: nn.Linear) -> bool:
    if not setup.lora_rank:
        return layer.weight.requires_grad
    return setup.fresh_depth and is_fresh(key)


def _teacher_operations(setup: Setup) -> float:
    if not (setup.teacher and setup.transformer.has_depth):
        return 0.0
    return count_operations(replace(setup, transformer=text_to_image(setup.transformer), teacher=False)).forward


def _teacher_parameters(setup: Setup) -> int:
    if not (setup.teacher and setup.transformer.has_depth) or setup.lora_rank:  # the model without its adapters
        return 0
    alone = Setup(text_to_image(setup.transformer), freeze_image=False)
    return count_parameters(alone).total


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
