"""Puts together what a configuration names: data, codecs, model, teacher, optimiser."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..network.checkpoint import load_transformer, read_header, save_transformer
from ..network.config import RGB_CHANNELS
from ..network.transformer import ModalityForcingTransformer
from .codecs import Codecs, encode_batch, open_codecs
from .config import Config, ConfigError, DataSection
from .data import Source
from .files import FileSource
from .from_text_to_image import (
    fresh_text_to_image,
    initialise,
    joint_config,
    load_text_to_image,
    source_config,
    trainable_parameters,
)
from .latent_store import LatentStore, StoredBatch
from .lora import OwnTeacher, add_adapters, frozen_dtype, save_lora, save_merged
from .losses import LatentBatch
from .optimisation import AveragedWeights, build_optimisers
from .parallel import ParallelModel, cast_inputs_to_weights, shard
from .scene_source import SceneSource
from .sizes import sizes_of

LOG = logging.getLogger(__name__)
FINAL, LORA = "model.safetensors", "lora.safetensors"


@dataclass
class Encoding:
    """How batches become latents."""

    device: torch.device
    codecs: Codecs
    null_text: Tensor  # (1,L,C)
    far_code: float

    def to_latents(self, batch: Any) -> LatentBatch:
        """A batch of a source as latents on the device."""
        if isinstance(batch, StoredBatch):
            stored = batch.latents
            return LatentBatch(*(x.to(self.device, non_blocking=True) for x in vars(stored).values()))
        return encode_batch(self.codecs, batch, self.far_code, self.device)


@dataclass
class Parts:
    """Everything a run works with."""

    source: Source
    encoding: Encoding
    model: ParallelModel
    teacher: nn.Module | None
    trained: list[nn.Parameter]
    optimisers: list[torch.optim.Optimizer]
    averages: AveragedWeights


def open_encoding(config: Config, source: Source, device: torch.device) -> Encoding:
    """The codecs of a configuration, with the empty prompt's embedding."""
    codecs = open_codecs(config.codec, device)
    if isinstance(source, LatentStore):
        return Encoding(device, codecs, source.null_text().to(device), source.far_code)
    return Encoding(device, codecs, codecs.encode_text([""]).to(device), config.data.far_code)


def assemble(config: Config, accelerator: Any) -> Parts:
    """Open the data, then build the model: the cheap checks come first.

    Raises ConfigError, DataError, CheckpointError or ValueError with what is wrong.
    """
    device = accelerator.device
    with accelerator.main_process_first():  # it makes the index of shards, the others find it
        source = open_source(config.data, device)
    encoding = open_encoding(config, source, device)
    main = accelerator.is_main_process or config.training.sharding == "none"
    adapted, width = config.lora.rank > 0, encoding.null_text.shape[-1]
    dtype = frozen_dtype(config.lora) if adapted else torch.float32
    module = build_model(config, width, empty=not main, dtype=dtype)
    if encoding.codecs.channels < RGB_CHANNELS:
        ignore_channels(module, encoding.codecs.channels)
    if adapted:
        options = {"fresh": not config.model.start, "device": device, "seed": config.seed}
        trained = add_adapters(module, config.lora, **options)
    else:
        trained = trainable_parameters(module, config.model.freeze_image and config.stage == "post_train")
    model = ParallelModel(module, config.training, accelerator)
    # Sharding replaced the parameters, by the same names.
    parameters = {name: p for name, p in model.module.named_parameters() if name in trained}
    teacher = None
    if config.recipe.distill_weight > 0:
        teacher = OwnTeacher(model.module) if adapted else _teacher(config, accelerator, main)
    weights = list(parameters.values())
    optimisers = build_optimisers(parameters, config.optimiser)
    averages = AveragedWeights(parameters, config.optimiser.ema_decay)
    total, moving = (sum(p.numel() for p in ps) for ps in (model.module.parameters(), weights))
    LOG.info("%.2f M parameters, %.2f M trained", total / 1e6, moving / 1e6)
    return Parts(source, encoding, model, teacher, weights, optimisers, averages)


def open_source(data: DataSection, device: torch.device | str, *, path: str = "", heldout: bool = False) -> Source:
    """The data of a configuration, or other data of the same kind at `path`."""
    if data.kind == "latents":
        return LatentStore(path or data.path)
    if data.kind != "scenes":
        options = {"depth_scale": data.depth_scale, "sky_from": data.sky_from, "index": "" if path else data.index}
        return FileSource(path or data.path, data.kind, data.sizes, **options)
    return SceneSource(
        data.sizes[0],
        count=data.count,
        difficulty=data.difficulty,
        kinds=data.kinds,
        style=data.style,
        sparse="dense" if heldout else data.sparse,
        device=device if data.workers == 0 else "cpu",
        heldout=heldout,
    )


def build_model(
    config: Config, text_width: int, *, empty: bool = False, dtype: torch.dtype = torch.float32
) -> ModalityForcingTransformer:
    """The transformer at the start of its stage: from the source, or fresh.

    `empty`: on the meta device, for processes that get their weights from the main one.
    """
    model, joint = config.model, config.stage == "post_train"
    fresh = sizes_of(model, text_width)
    if model.start:
        sizes = read_header(model.start, text_to_image=not joint).config
        if sizes.has_depth != joint:
            raise ConfigError(f"model.start {model.start} is not a model of stage {config.stage}")
    elif model.source:
        sizes = source_config(model.source)
    else:
        sizes = fresh
    if joint and not sizes.has_depth:
        sizes = joint_config(sizes, model.decoder_blocks)
    if sizes.text_width != text_width:
        raise ConfigError(
            f"the model takes text of width {sizes.text_width}, the text encoder gives {text_width}; use "
            "the encoder that it was trained with"
        )
    if empty:
        with torch.device("meta"):
            return ModalityForcingTransformer(sizes)
    if model.start:
        return load_transformer(model.start, dtype, text_to_image=not joint).train()
    base = load_text_to_image(model.source, dtype) if model.source else fresh_text_to_image(fresh, config.seed)
    if joint:
        base = initialise(base, decoder_blocks=model.decoder_blocks, seed=config.seed, dtype=dtype, reuse_weights=True)
    return base.train()


def ignore_channels(module: ModalityForcingTransformer, used: int) -> None:
    """Keep the network from reading RGB channels from `used` on, which carry nothing: their input weights are zero.

    They stay zero by `ParallelModel.drop_unread`. The channels have no loss either, so a head that starts at zero
    leaves their velocity zero, and their noise where it is.
    """
    if not module.img_in.weight.is_meta:  # (D,128)
        with torch.no_grad():
            module.img_in.weight[:, used:] = 0


def save_released(model: ParallelModel, config: Config, path: Path, accelerator: Any) -> None:
    """Write the model's present weights in the released layout; from all processes together.

    Weights are stored in the precision of the computation; what the network keeps in float32 stays float32.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model.module, options=options)
    if not accelerator.is_main_process:
        return
    with torch.device("meta"):
        plain = ModalityForcingTransformer(model.module.config, dtype=getattr(torch, config.training.precision))
    kept = {name: state[name].to(t.dtype) for name, t in plain.state_dict().items()}
    plain.load_state_dict(kept, assign=True)
    save_transformer(plain, path, {"stage": config.stage, "seed": str(config.seed)})
    LOG.info("wrote %s", path)


def save_adapted(model: ParallelModel, config: Config, folder: Path, accelerator: Any) -> None:
    """Write what a run with adapters made: the LoRA, or, where parts were trained whole, a checkpoint."""
    if not accelerator.is_main_process:
        return
    if config.model.start:
        save_lora(model.module, config.lora, folder / LORA)
        LOG.info("wrote %s; `merge` adds it to a checkpoint", folder / LORA)
        return
    dtype = getattr(torch, config.training.precision)
    base = build_model(config, model.module.config.text_width, dtype=dtype)
    save_merged(model.module, base, config.lora, folder / FINAL)
    LOG.info("wrote %s", folder / FINAL)


def _teacher(config: Config, accelerator: Any, main: bool) -> nn.Module:
    """The frozen source in the precision of the computation."""
    dtype = getattr(torch, config.training.precision)
    if main:
        teacher = load_text_to_image(config.model.source, dtype)
    else:
        with torch.device("meta"):
            teacher = ModalityForcingTransformer(source_config(config.model.source), dtype=dtype)
    teacher = teacher.eval().requires_grad_(False)
    if config.training.sharding == "fsdp":
        return shard(teacher, dtype, accelerator)
    return cast_inputs_to_weights(teacher.to(accelerator.device))
