"""A small model of random weights and with a linear codec, whose answers are easy to work out. It makes noise."""

from pathlib import Path

import torch
from modality_forcing.model.demo.image_codec import ImageCodec
from modality_forcing.model.demo.text import TextEncoder
from modality_forcing.model.network.checkpoint import save_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.model.scenes import VOCABULARY, generate

NAME = "random.safetensors"
SCENES = 12


def write(folder: str | Path, seed: int = 0) -> Path:
    """Write a small model (see nodes/small_model.py) into `folder`, made if needed; returns its transformer's file.

    The transformer is random. The image codec is the best linear one of a few procedural scenes, so that encoding a
    picture and decoding it again shows the picture.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = TextEncoder.of_vocabulary(VOCABULARY)
    words.save(folder / "words.json")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        _linear_codec().save(folder / "image_codec.safetensors")
        save_transformer(_random_transformer(words.width), folder / NAME)
    return folder / NAME


def _linear_codec() -> ImageCodec:
    pictures = generate(range(SCENES), (128, 128), antialias=False).rgb
    codec = ImageCodec(width=8)
    codec.start_linear(pictures)
    codec.calibrate(codec.encode_unscaled(pictures))
    return codec


def _random_transformer(text_width: int) -> ModalityForcingTransformer:
    config = TransformerConfig(
        hidden_size=64,
        num_heads=2,
        double_blocks=1,
        single_blocks=2,
        decoder_blocks=1,
        mlp_size=128,
        text_width=text_width,
    )
    module = ModalityForcingTransformer(config)
    for parameter in module.parameters():
        if parameter.ndim == 2:
            parameter.normal_(std=parameter.shape[1] ** -0.5)
        else:
            parameter.fill_(1.0)
    module.depth_final_layer.linear.weight *= 0.3  # depth codes stay below 2, which is infinitely far
    return module
