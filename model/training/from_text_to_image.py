"""A joint image-depth transformer from a text-to-image one (Modality Forcing, arXiv 2606.13676, post-training).

Where the weights of a freshly initialised model come from:
    image and text path        the source's, unchanged
    depth stream               clone of the image stream: double blocks, and (our choice) the modulations of the double
                               and of the single blocks, which belong to it
    depth modules              fresh: tokenizer, timestep embedder, decoder, head, the mixers between the two levels
    what starts at zero        the mixers' gates (not their MLPs, or neither would ever get a gradient); decoder
                               modulation and head (our choice, as DiT's adaLN-Zero, arXiv 2212.09748): the decoder
                               starts as the identity, the predicted depth as 0

With the depth tokens left out (`depth=None`) such a model is its source, exactly: no depth token is attended to, and
the forward pass leaves the level mixers out, which are shut at first anyway. After training the mixers have opened, and
`depth=None` is then the image path without depth's level, not the model at some t_depth.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..network.checkpoint import load_transformer, read_header
from ..network.config import DEPTH_CHANNELS, TransformerConfig
from ..network.transformer import ModalityForcingTransformer
from .diffusers_folder import load_diffusers, read_config

# Modules of the depth stream and the ones they are clones of; the double blocks' are named by their parts.
CLONES = {
    "double_stream_modulation_depth": "double_stream_modulation_img",
    "single_stream_modulation_depth": "single_stream_modulation",
}
ZERO_KEYS = (
    "cross_alpha_img",
    "cross_alpha_depth",
    "depth_decoder_modulation.lin.weight",
    "depth_final_layer.linear.weight",
    "depth_final_layer.adaLN_modulation.1.weight",
)
FROZEN_PARTS = (".img_attn.", ".img_mlp.")


def load_text_to_image(
    source: str | Path, dtype: torch.dtype = torch.float32, device: Any = "cpu"
) -> ModalityForcingTransformer:
    """Load a FLUX.2-shaped text-to-image model.

    Args:
        source: a .safetensors file in the layout of Black Forest Labs and ComfyUI, or a diffusers folder of a
            `Flux2Transformer2DModel` (or of a pipeline, with that in `transformer/`).

    Raises:
        CheckpointError: the file or folder is damaged or describes another model.
        ValueError: it already has a depth stream.
    """
    path = Path(source)
    if path.is_dir():
        return load_diffusers(path, dtype, device)
    module = load_transformer(path, dtype, device, text_to_image=True)
    _check_source(module.config, str(path))
    return module


def source_config(source: str | Path) -> TransformerConfig:
    """The sizes of what `load_text_to_image` would load, without reading the weights. Same errors."""
    path = Path(source)
    if path.is_dir():
        return read_config(path)
    config = read_header(path, text_to_image=True).config
    _check_source(config, str(path))
    return config


def joint_config(source: TransformerConfig, decoder_blocks: int = 4, cross_stream: bool = True) -> TransformerConfig:
    """The sizes of the joint model that `initialise` builds from a text-to-image model."""
    return replace(source, depth_channels=DEPTH_CHANNELS, decoder_blocks=decoder_blocks, cross_stream=cross_stream)


def initialise(
    source: str | Path | ModalityForcingTransformer,
    *,
    decoder_blocks: int = 4,
    cross_stream: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: Any = "cpu",
    reuse_weights: bool = False,
) -> ModalityForcingTransformer:
    """Build the joint model at the start of post-training.

    Args:
        source: what `load_text_to_image` takes, or such a module.
        decoder_blocks: number of depth decoder blocks.
        cross_stream: "v2", with the mixers between the two levels.
        seed: of the fresh weights, which are drawn on the CPU: equal on every device.
        dtype: of all weights but the depth head and the mixers' gates, which are float32.
        reuse_weights: let the new model share a source module's tensors instead of copying them. Then training the one
            changes the other: not for a source that is still needed, as the teacher for instance.

    The peak of memory is one copy of the source and the depth part; with a module as the source and without
    `reuse_weights` a second copy of it.
    """
    if not isinstance(source, nn.Module):
        source, reuse_weights = load_text_to_image(source, dtype, device), True
    _check_source(source.config, "the source module")
    with torch.device("meta"):
        module = ModalityForcingTransformer(joint_config(source.config, decoder_blocks, cross_stream), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    given, state = source.state_dict(), {}
    for key, wanted in module.state_dict().items():
        origin = key if key in given else clone_of(key)
        if origin is None:
            state[key] = _fresh(key, wanted.shape, generator).to(device, wanted.dtype)
        else:
            tensor = given[origin].to(device, wanted.dtype)
            share = origin == key and reuse_weights
            state[key] = tensor if share or tensor is not given[origin] else tensor.clone()
    module.load_state_dict(state, assign=True)
    return module.train()


def fresh_text_to_image(
    config: TransformerConfig, seed: int = 0, dtype: torch.dtype = torch.float32, device: Any = "cpu"
) -> ModalityForcingTransformer:
    """A text-to-image model to train from nothing, at any size.

    Modulations and the head start at zero (DiT's adaLN-Zero): every block starts as the identity.
    """
    config = replace(config, depth_channels=0, decoder_blocks=0, cross_stream=False)
    with torch.device("meta"):
        module = ModalityForcingTransformer(config, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, wanted in module.state_dict().items():
        zero = "modulation" in key.lower() or key == "final_layer.linear.weight"
        start = torch.zeros(wanted.shape) if zero else _fresh(key, wanted.shape, generator)
        state[key] = start.to(device, wanted.dtype)
    module.load_state_dict(state, assign=True)
    return module.train()


def trainable_parameters(module: nn.Module, freeze_image: bool = True) -> dict[str, nn.Parameter]:
    """Choose what is trained, by setting `requires_grad`, and return it by name.

    Args:
        freeze_image: freeze the image stream's weights inside the double blocks, as the paper does for FLUX.2. Its
            modulation, the text stream, the single blocks and everything of depth stay trainable.
    """
    chosen = {}
    for name, parameter in module.named_parameters():
        frozen = freeze_image and any(part in name for part in FROZEN_PARTS)
        parameter.requires_grad_(not frozen)
        if not frozen:
            chosen[name] = parameter
    return chosen


def clone_of(key: str) -> str | None:
    """The image stream's key that a depth stream's key starts as a clone of, or None for anything else."""
    if key.startswith("double_blocks.") and ".depth_" in key:
        return key.replace(".depth_", ".img_")
    name, _, rest = key.partition(".")
    return f"{CLONES[name]}.{rest}" if name in CLONES else None


def _fresh(key: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Start of a fresh weight: zero or one where that is its role, else uniform as torch's own linear layers."""
    if key in ZERO_KEYS:
        return torch.zeros(shape)
    if key.endswith(".scale"):
        return torch.ones(shape)
    bound = shape[1] ** -0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _check_source(config: TransformerConfig, name: str) -> None:
    if config.has_depth:
        raise ValueError(
            f"{name} already has a depth stream; expected a text-to-image model. To train it further, load it as the "
            "model itself instead of initialising from it."
        )
