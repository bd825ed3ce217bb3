"""A trained small model as the folder that Load Small Model takes: transformer, image codec and word list.

Words that the training data never used are left out of the list, so that a user is told of them instead of getting the
untrained embedding of a word.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import torch

from ...model.demo import CODEC_FILE, WORDS_FILE
from ...model.demo.text import FIRST_WORD, TextEncoder
from ...model.network.checkpoint import load_transformer, save_transformer
from ...model.training.latent_store import WORDS, LatentStore


def bundle(model: str | Path, codec: str | Path, data: str | Path, out: str | Path) -> dict[str, int]:
    """Write the folder of a finished model.

    Args:
        model: its checkpoint in the released layout. codec: the image codec it was trained with. data: the encoded
            samples that it was trained on.
        out: the checkpoint to write; the other two files go beside it.

    Returns:
        Bytes of each file.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    store = LatentStore(data)
    words = TextEncoder.load(Path(data) / WORDS)
    kept = [number for number in store.used_tokens() if number >= FIRST_WORD]
    smaller = replace(words, words=tuple(words.words[number - FIRST_WORD] for number in kept))

    module = load_transformer(model)
    old = module.txt_in.weight.detach()  # (D,C)
    columns = [*range(FIRST_WORD), *kept]
    weight = torch.zeros(old.shape[0], smaller.width)
    # A row of text is one-hot times the square root of its width.
    weight[:, : len(columns)] = old[:, columns] * math.sqrt(words.width / smaller.width)
    sized = type(module)(replace(module.config, text_width=smaller.width))
    sized.load_state_dict({**module.state_dict(), "txt_in.weight": weight})

    smaller.save(out.parent / WORDS_FILE)
    copyfile(codec, out.parent / CODEC_FILE)
    save_transformer(sized, out)
    return {path.name: path.stat().st_size for path in (out, out.parent / CODEC_FILE, out.parent / WORDS_FILE)}


def main(arguments: list[str]) -> int:
    """Write the folder and print its sizes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.small_model bundle", description=__doc__)
    parser.add_argument("model", help="the finished checkpoint")
    parser.add_argument("--codec", required=True, help="the image codec it was trained with")
    parser.add_argument("--data", required=True, help="the encoded samples it was trained on")
    parser.add_argument("--out", required=True, help="the checkpoint to write; its codec and words go beside it")
    options = parser.parse_args(arguments)
    for name, size in bundle(options.model, options.codec, options.data, options.out).items():
        print(f"{size / 1e6:7.2f} MB  {name}")
    return 0
