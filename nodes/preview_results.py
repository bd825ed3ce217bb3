"""What the viewers in the browser show: kept as long as ComfyUI keeps it, sent one image at a time when looked at.

Nothing is written: a batch of 100 frames in Full HD would be 1.45 GB of files on every run. The tensors that a result
is made of belong to the nodes before the viewer, and ComfyUI caches those outputs; here they are only pointed at. When
ComfyUI drops them, running the graph makes them again. The first image is kept as well, in bounded memory, since a
ComfyUI without a cache drops everything at once.
"""

import asyncio
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

ROUTE = "/modality_forcing/preview"
UI_KEY = "modality_forcing"
_FIRST_BYTES = 256 << 20  # of first images together; the newest stays whatever its size
_YEAR_S = 31_536_000


class Results:
    """Results by a name that is never given twice."""

    def __init__(self) -> None:
        self._results: dict[str, _Result] = {}
        self._first: OrderedDict[str, bytes] = OrderedDict()

    def add(self, count: int, make: Callable[..., bytes], *sources: Any) -> str:
        """Keep `make(index, *sources)` for index 0 to count − 1 and return the result's name.

        `make` must not hold the sources: they are what may go. Raises what `make` raises for the first image.
        """
        name = uuid.uuid4().hex
        first = make(0, *sources)
        self._results[name] = _Result(count, make, sources)
        self._first[name] = first
        while len(self._first) > 1 and sum(map(len, self._first.values())) > _FIRST_BYTES:
            self._first.popitem(last=False)
        for old in [old for old, result in self._results.items() if old not in self._first and not result.alive()]:
            del self._results[old]
        return name

    def image(self, name: str, index: int) -> bytes | None:
        """One image of a result, None if it is not there (any more)."""
        result = self._results.get(name)
        if result is None or not 0 <= index < result.count:
            return None
        return self._first[name] if index == 0 and name in self._first else result.image(index)


class _Result:
    def __init__(self, count: int, make: Callable[..., bytes], sources: tuple) -> None:
        self.count, self._make = count, make
        self._sources = _pointers(sources)

    def alive(self) -> bool:
        return _live(self._sources) is not None

    def image(self, index: int) -> bytes | None:
        sources = _live(self._sources)
        return None if sources is None else self._make(index, *sources)


RESULTS = Results()


def register(results: Results = RESULTS) -> None:
    """Let the running server answer the viewers."""
    from server import PromptServer  # not at import time: it is there in a running ComfyUI only

    PromptServer.instance.routes.get(ROUTE)(partial(_answer, results))


async def _answer(results: Results, request: web.Request) -> web.Response:
    index = request.query.get("index", "")
    if not (index.isascii() and index.isdigit()):
        return web.Response(status=400, text="expected ?result=NAME&index=NUMBER")
    loop = asyncio.get_running_loop()
    content = await loop.run_in_executor(None, results.image, request.query.get("result", ""), int(index))
    if content is None:
        return web.Response(status=404)
    headers = {"Cache-Control": f"private, max-age={_YEAR_S}, immutable"}
    return web.Response(body=content, content_type="application/octet-stream", headers=headers)


def _pointers(value: Any) -> Any:
    """The same nesting of tuples, lists and dicts, with weak references where it can be pointed at."""
    if isinstance(value, tuple | list):
        return [_pointers(item) for item in value]
    if isinstance(value, dict):
        return {key: _pointers(item) for key, item in value.items()}
    return value if value is None or isinstance(value, str | bool | int | float) else weakref.ref(value)


def _live(value: Any) -> Any:
    """What `_pointers` was made of, or None where a part of it is gone."""
    if isinstance(value, weakref.ref):
        return value()
    if isinstance(value, list):
        items = [_live(item) for item in value]
        return None if any(item is None and own is not None for item, own in zip(items, value, strict=True)) else items
    if isinstance(value, dict):
        items = _live(list(value.values()))
        return None if items is None else dict(zip(value, items, strict=True))
    return value
