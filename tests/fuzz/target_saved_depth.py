"""Depth saved and loaded again: any tensor, unit, step and range."""

import random
from pathlib import Path

import numpy as np
import torch
from hostile import Silent, number, tensor, value
from modality_forcing.model.depth.files import SAVE_SUFFIXES, load_depth, png_far, save_depth

TINY = 1e-37  # below it float32 keeps few bits


def case(rng: random.Random, folder: Path) -> None:
    generator = torch.manual_seed(rng.randrange(2**31))
    depth = torch.rand(rng.choice((1, 4, 20)), rng.choice((1, 7, 30)), generator=generator) * rng.choice((1, 10, 1e4))
    depth = torch.where(torch.rand(depth.shape, generator=generator) < 0.1, value(rng), depth)
    valid = None if rng.random() < 0.5 else torch.rand(depth.shape, generator=generator) < 0.8
    given, mask = (value if value is None or rng.random() < 0.8 else tensor(rng, value) for value in (depth, valid))
    suffix = rng.choice(SAVE_SUFFIXES)
    settings = {}
    if rng.random() < 0.3:
        settings["step"] = number(rng, 0.1)
    if rng.random() < 0.3:
        settings["far"] = number(rng, 5.0)
    if rng.random() < 0.2:
        settings["far"] = png_far(given, mask, number(rng, 1.0))
    if rng.random() < 0.2:
        settings["unit"] = rng.choice(("metre", "<b>", "", "m m"))
    if rng.random() < 0.3:
        settings["notes"] = {
            "workflow": "x" * rng.choice((0, 10, 5000)),
            "prompt": "\N{SNOWMAN}\n\0"[: rng.randrange(4)],
        }
    path = folder / f"a{suffix}"
    try:
        save_depth(path, given, mask, **settings)
    except ValueError:
        if any(folder.iterdir()):
            raise Silent("a file is left after an error") from None
        raise
    loaded = load_depth(path, scale=None)
    _compare(loaded, given, mask, settings, suffix)


def _compare(loaded: object, given: torch.Tensor, mask: torch.Tensor | None, settings: dict, suffix: str) -> None:
    wanted = given.reshape(given.shape[-2:]).float()
    known = wanted.isfinite() & (wanted > 0) & (wanted < 1e9)
    if mask is not None:
        known &= mask.reshape(known.shape) > 0.5
    if suffix == ".png":
        wanted = wanted.clamp_max(settings.get("far", torch.inf))
    got = loaded.depth[0]
    if got.shape != wanted.shape:
        raise Silent(f"{suffix} came back with shape {tuple(got.shape)}, saved {tuple(wanted.shape)}")
    if not torch.equal(loaded.valid[0] & (wanted > TINY), known & (wanted > TINY)) and suffix != ".png":
        raise Silent(f"{suffix} came back with other holes")
    step = settings.get("step") or 0.0
    whole = wanted[known].max() if known.any() else torch.zeros(())
    room = max(step, max(float(whole), settings.get("far", 0.0)) / 65535) * 1.01 if suffix == ".png" else 0.0
    both = known & loaded.valid[0]
    if not np.allclose(got[both], wanted[both], rtol=1e-6, atol=room):
        raise Silent(f"{suffix} came back with other depth, {settings}")
