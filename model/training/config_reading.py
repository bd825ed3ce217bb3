"""TOML tables with changed settings, and what is wrong with them: setting, value and what is expected in a sentence."""

import copy
import re
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError

_TYPES = {"int_type": "int", "float_type": "float", "bool_type": "bool", "string_type": "str"}
_UNKNOWN, _SECTION = "unexpected_keyword_argument", "dataclass_type"
_RANGES = ("greater_than_equal", "less_than_equal")
Place = tuple[str, ...]  # the setting: its section, where it lies in one, and its key


def read_toml(path: Path, overrides: list[str]) -> dict[str, Any]:
    """A file's table, changed by "section.key=value" with TOML values or bare words.

    Raises OSError, or ValueError for what is no TOML.
    """
    table = _toml(path.read_text(encoding="utf-8"))
    for override in overrides:
        _override(table, override)
    return table


def sentences(error: ValidationError, kind: type, table: dict[str, Any]) -> list[str]:
    """One sentence for each setting of `table` that is wrong. `kind`: the dataclass that describes the whole file."""
    return list(dict.fromkeys(_sentence(each, kind, table) for each in error.errors(include_url=False)))


def repaired(table: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """The table without the settings that are wrong, so that what else is wrong can be found as well."""
    good = copy.deepcopy(table)
    for each in error.errors(include_url=False):
        *sections, name = _place(each["loc"])
        inner = good
        for section in sections:
            inner = inner.get(section, {})
        inner.pop(name, None)
        if each["type"] == "missing":
            inner[name] = ""
    return good


def without(lines: list[str], error: ValidationError | None) -> list[str]:
    """The lines that do not speak of a setting which is wrong by itself: they are about what was put in its place."""
    if error is None:
        return lines
    wrong = {".".join(_place(each["loc"])) for each in error.errors(include_url=False)}
    names = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}(?![\w.])" for name in wrong))
    return [line for line in lines if not names.search(line)]


def _place(location: tuple) -> Place:
    """The setting of an error that may lie deeper, in an element of a list."""
    return tuple(part for part in location if isinstance(part, str))


def _sentence(error: dict[str, Any], kind: type, table: dict[str, Any]) -> str:
    place = _place(error["loc"])
    name, found, value = ".".join(place), error["type"], error["input"]
    owner, annotation = _described(kind, place)
    if found == _UNKNOWN:
        return f"{name} is unknown; expected one of {', '.join(field.name for field in fields(owner))}"
    if found == "missing":
        return f"{name} is missing; expected the folder to write to"
    if found == _SECTION:
        return f"{name} is {value!r}; expected a section [{name}]"
    if found == "literal_error":
        return f"{name} is {value!r}; expected one of {', '.join(_options(annotation))}"
    if found in _RANGES:
        low, high = _bounds(annotation)
        return f"{name} is {value:g}; expected {low:g} to {high:g}"
    if get_origin(annotation) is tuple:  # the list, or something in it
        whole = reduce(lambda inner, part: inner[part], place, table)
        return f"{name} is {whole!r}; expected a list of {_elements(annotation)}"
    return f"{name} is {value!r}; expected {_TYPES.get(found, error['msg'])}"


def _described(kind: type, place: Place) -> tuple[type, Any]:
    """The dataclass that a setting belongs to, and the setting's annotation (None for an unknown one)."""
    *sections, name = place
    for section in sections:
        kind = next(field.type for field in fields(kind) if field.name == section)
    return kind, next((field.type for field in fields(kind) if field.name == name), None)


def _bounds(annotation: Any) -> tuple[float, float]:
    """The range of a number, or of a list's numbers."""
    found = [part for part in _parts(annotation) if hasattr(part, "ge") or hasattr(part, "le")]
    return next(part.ge for part in found if hasattr(part, "ge")), next(p.le for p in found if hasattr(p, "le"))


def _options(annotation: Any) -> list[str]:
    """The words that are allowed, in a setting or in a list."""
    return [part for part in _parts(annotation) if isinstance(part, str)]


def _elements(annotation: Any) -> str:
    element = get_args(annotation)[0]
    if get_origin(element) is tuple:
        return "[height, width] pairs"
    return "words in quotes" if _options(annotation) else "integers"


def _parts(annotation: Any) -> list[Any]:
    """Everything that an annotation is made of, limits and words included."""
    inner = [*get_args(annotation), *getattr(annotation, "metadata", ())]
    return [annotation, *(part for each in inner for part in _parts(each))]


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        try:
            import tomli as tomllib
        except ModuleNotFoundError as error:
            raise ImportError("reading a configuration needs Python 3.11, or: pip install tomli") from error
    return tomllib.loads(text)


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise ValueError(f"got --set {override!r}, expected section.key=value")
    *sections, name = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
    try:
        table[name] = _toml(f"value = {value}")["value"]
    except ValueError:
        table[name] = value  # a bare word, as shells like them
