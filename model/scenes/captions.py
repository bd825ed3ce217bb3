"""Captions from a small grammar, each word true of the picture.

Only objects that cover at least ``MIN_SHARE`` of the pixels are mentioned, at the place where their visible pixels are;
walls, floors and tables likewise. Words are lower case; ``tokens`` splits a caption into members of ``VOCABULARY``.
"""

import re

import torch

from . import palette
from .draws import Draws
from .layout import FLOOR, WALL, Layout
from .objects import OBJECT_NAMES

STYLES = ("short", "full", "attributes")
MIN_SHARE = 0.006  # of the picture's pixels: 25 pixels at 64 x 64
MOST_OBJECTS = 6
SURFACE_LABEL = MOST_OBJECTS  # labels of the pixels: objects, then floor, wall, ceiling, then other solids; -1 is sky
SCENERY_LABEL = SURFACE_LABEL + 3
LABELS = SCENERY_LABEL + 1
_LAND_WORDS = {"green": "grass", "yellow": "sand", "white": "snow", "brown": "earth"}
_PLACES = ("on the left", "in the center", "on the right")
_RANGES = ("nearby", "", "far away")
_GRAMMAR = "a an and with of in on empty room table wall walls floor street buildings field mountains , ."


def _vocabulary() -> tuple[str, ...]:
    phrases = [_GRAMMAR, *_PLACES, *_RANGES, *palette.TIME_WORDS, *palette.COLOUR_NAMES, *OBJECT_NAMES]
    phrases += [*palette.TEXTURE_WORDS.values(), *_LAND_WORDS.values()]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


VOCABULARY = _vocabulary()


def tokens(caption: str) -> list[str]:
    """The words and punctuation marks of a caption, in order, lower case."""
    return re.findall(r"[a-z]+|[.,]", caption.lower())


def measure(labels: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels (B,L), mean column in 0..1 (B,L) and mean depth in metres (B,L) of each label.

    labels, depth (B,H,W). Sums are of integers, so their order does not matter; depth is counted in millimetres.
    """
    batch, _, width = labels.shape
    index = torch.where(labels < 0, LABELS, labels).flatten(1)  # sky goes to a column that is dropped
    column = torch.arange(width, device=labels.device).expand_as(labels).flatten(1)
    millimetres = (torch.where(torch.isfinite(depth), depth, 0.0) * 1000.0).long().flatten(1)
    sums = [
        torch.zeros(batch, LABELS + 1, dtype=torch.int64, device=labels.device).scatter_add_(1, index, value)[
            :, :LABELS
        ]
        for value in (torch.ones_like(index), column, millimetres)
    ]
    pixels = sums[0].clamp_min(1).float()
    return sums[0], (sums[1].float() / pixels + 0.5) / width, sums[2].float() / pixels / 1000.0


def describe(
    draws: Draws, layout: Layout, labels: torch.Tensor, depth: torch.Tensor, style: str
) -> tuple[list[str], list[dict]]:
    """Captions and metadata (see ``SceneBatch``) of rendered scenes. labels, depth (B,H,W); style: STYLES or mixed."""
    area = labels.shape[1] * labels.shape[2]
    pixels, column, mean_depth = (x.cpu() for x in measure(labels, depth))
    count = layout.objects.word.shape[1]
    place = (column > 0.38).long() + (column > 0.62).long()
    span = (mean_depth > layout.near_m.cpu()[:, None]).long() + (mean_depth > layout.far_m.cpu()[:, None]).long()
    per_object = torch.stack((layout.objects.word, layout.objects.colour, layout.objects.texture), -1).cpu()
    per_object = torch.cat((per_object, place[:, :count, None], span[:, :count, None]), -1).tolist()
    per_scene = torch.stack((layout.kind, layout.time, layout.table_colour, layout.table_texture), -1).tolist()
    surfaces = torch.stack((layout.surround.colour, layout.surround.texture), -1).tolist()
    styles = draws.integer("caption style", len(STYLES)).tolist()
    seeds, pixels, mean_depth = draws.seeds.tolist(), pixels.tolist(), mean_depth.tolist()

    captions, scenes = [], []
    for b, (kind, time, table_colour, table_texture) in enumerate(per_scene):
        seen = [share >= MIN_SHARE * area for share in pixels[b]]
        shown = [_object(i, per_object[b][i], pixels[b][i], mean_depth[b][i]) for i in range(count) if seen[i]]
        shown.sort(key=lambda item: -item["pixels"])
        scene = {
            "seed": seeds[b],
            "kind": palette.KINDS[kind],
            "time": palette.TIME_WORDS[time],
            "setting": _setting(palette.KINDS[kind], surfaces[b], (table_colour, table_texture), seen),
            "objects": shown,
        }
        scenes.append(scene)
        captions.append(caption(scene, STYLES[styles[b]] if style == "mixed" else style))
    return captions, scenes


def _object(index: int, row: list[int], pixels: int, depth_m: float) -> dict:
    word, tint, texture, place, span = row
    return {
        "id": index,
        "shape": OBJECT_NAMES[word],
        "colour": palette.COLOUR_NAMES[tint],
        "texture": palette.TEXTURE_WORDS[texture],
        "position": _PLACES[place],
        "range": _RANGES[span],
        "pixels": pixels,
        "depth_m": depth_m,
    }


def _words(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _a(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _setting(kind: str, surfaces: list[list[int]], table: tuple[int, int], seen: list[bool]) -> list[str]:
    """Noun phrases of what surrounds the objects, without articles: the place first, then what of it can be seen."""

    def surface(number: int, noun: str) -> list[str]:
        tint, texture = surfaces[number]
        texture_word = palette.TEXTURE_WORDS.get(texture, "")
        return [_words(palette.COLOUR_NAMES[tint], texture_word, noun)] if seen[SURFACE_LABEL + number] else []

    if kind == "room":
        return ["room", *surface(WALL, "walls"), *surface(FLOOR, "floor")]
    if kind == "tabletop":
        tint, texture = table
        top = _words(palette.COLOUR_NAMES[tint], palette.TEXTURE_WORDS[texture], "table")
        return [top if seen[SCENERY_LABEL] else "table", *surface(WALL, "wall")]
    if kind == "street":
        return ["street", *(["buildings"] if seen[SCENERY_LABEL] else [])]
    land = palette.COLOUR_NAMES[surfaces[FLOOR][0]]
    return [f"field of {land} {_LAND_WORDS[land]}", *(["mountains"] if seen[SCENERY_LABEL] else [])]


def _noun(item: dict) -> str:
    return _words(item["colour"], item["texture"], item["shape"])


def _listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def caption(scene: dict, style: str) -> str:
    """The caption of a scene's metadata in a style of ``STYLES``."""
    return {"short": _short, "full": _full, "attributes": _attributes}[style](scene)


def _inside(place: str) -> str:
    return f"{'on' if place.endswith('table') else 'in'} {_a(place)}"


def _short(scene: dict) -> str:
    """The two largest objects and the place: "a red ball and a blue box in a room at night"."""
    place = scene["setting"][0]
    if not scene["objects"]:
        return _words(_a(f"empty {place}"), scene["time"])
    return _words(_listed([_a(_noun(item)) for item in scene["objects"][:2]]), _inside(place), scene["time"])


def _full(scene: dict) -> str:
    """Sentences: the place with what is seen of it, then each object with where it is."""
    place, *rest = scene["setting"]
    parts = [phrase if phrase.endswith("s") else _a(phrase) for phrase in rest]
    first = _words(_a(place), f"with {_listed(parts)}" if parts else "", scene["time"]) + "."
    sentences = [f"{_words(_a(_noun(item)), item['position'], item['range'])}." for item in scene["objects"]]
    return " ".join([first, *sentences])


def _attributes(scene: dict) -> str:
    """A list of phrases without articles."""
    items = [
        _words(_noun(item), item["position"].split()[-1], item["range"].split(" ")[0]) for item in scene["objects"]
    ]
    return ", ".join([*scene["setting"], scene["time"], *items])
