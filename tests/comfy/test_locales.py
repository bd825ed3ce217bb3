"""The translations of the nodes say what the nodes say: no more, no less. And in a form that every frontend reads."""

import json
import re

import pytest
from modality_forcing.tasks import ROOT

LANGUAGES = ("de", "es", "fr", "ja", "ko", "zh")
PREFIX = "ModalityForcing"


def translatable(info):
    """The texts of a node in the form of ComfyUI's nodeDefs.json."""
    found = {"display_name": info["display_name"], "description": info["description"]}
    specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    inputs = {key: {"name": key, **_tooltip((spec[1:] or [{}])[0].get("tooltip"))} for key, spec in specs.items()}
    tooltips = info.get("output_tooltips") or [None] * len(info["output"])
    outputs = {
        str(number): {"name": name, **_tooltip(tooltip)}
        for number, (name, tooltip) in enumerate(zip(info["output_name"], tooltips, strict=True))
    }
    return found | ({"inputs": inputs} if inputs else {}) | ({"outputs": outputs} if outputs else {})


def _tooltip(text):
    return {"tooltip": text} if text else {}


def leaves(tree, path=()):
    """Every text of a nested dictionary with the keys that lead to it."""
    if isinstance(tree, str):
        yield path, tree
        return
    for key, value in tree.items():
        yield from leaves(value, (*path, key))


def test_the_languages():
    assert tuple(sorted(path.name for path in (ROOT / "locales").iterdir())) == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_every_node_is_translated(object_info, language):
    own = {name: translatable(info) for name, info in object_info.items() if name.startswith(PREFIX)}
    english = dict(leaves(own))
    text = (ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")
    translated = dict(leaves(json.loads(text)))
    assert translated.keys() == english.keys()
    for path, words in translated.items():
        assert words.strip() == words and words, path
        # vue-i18n reads these as its own marks, older frontends in tooltips too
        assert not re.search(r"[{}@|]", words), path
        if path[-1] in ("description", "tooltip"):
            assert words != english[path], path
