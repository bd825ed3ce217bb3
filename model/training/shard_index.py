"""Where the samples of tar shards lie: read once, kept on the disk, mapped into memory by all processes.

Seventeen million samples are too many to list at each start and to hold as Python objects in each process. The index is
one table, a row for each complete sample (where its three files lie in which shard, and how large its picture is), and
notes with the shards' sizes and times: a shard that has changed is read again, alone.
"""

import json
import os
import uuid
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .data import DataError
from .sample_files import DEPTH_SUFFIXES, IMAGE_SUFFIXES, PARTS, Entry, Part, members, picture_size, sample_entries

FOLDER = ".index"
NOTES = "index.json"
_SUFFIXES = (*IMAGE_SUFFIXES, *DEPTH_SUFFIXES, ".txt")
_FIELDS = (("at", "<u8"), ("bytes", "<u8"), ("suffix", "u1"))
_PLACE = [(f"{part}_{field}", kind) for part in PARTS for field, kind in _FIELDS]


class ShardIndex:
    """The complete samples of a folder of shards, by number.

    Args:
        root: the folder with the .tar files.
        folder: where the index is kept; None: in `.index` beside the shards.

    Raises:
        DataError: the index cannot be written.
    """

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        self.root, self.folder = root, folder or root / FOLDER
        stamps = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(root.glob("*.tar"))}
        self.shards = list(stamps)
        notes, table = self._held()
        if {name: each["stamp"] for name, each in notes.items()} != stamps:
            notes, table = self._written(stamps, notes, table)
        self._table = table
        self.unusable = [tuple(found) for each in notes.values() for found in each["unusable"]]

    def __len__(self) -> int:
        return len(self._table)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_table": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Loader processes map the table themselves; pickling would copy it."""
        vars(self).update(state)
        _, self._table = self._held()

    def sizes(self) -> np.ndarray:
        """(n,2) heights and widths of the pictures; 0 where one cannot be read."""
        return np.stack([self._table["height"], self._table["width"]], axis=1)

    def entry(self, number: int) -> Entry:
        row = self._table[number]
        shard = self.shards[row["shard"]]
        places = {
            part: Part(
                self.root / shard, _SUFFIXES[row[f"{part}_suffix"]], int(row[f"{part}_at"]), int(row[f"{part}_bytes"])
            )
            for part in PARTS
        }
        return Entry(f"{shard}/{row['name'].decode()}", **places)

    def _held(self) -> tuple[dict[str, Any], np.ndarray | None]:
        """Notes by shard, and the table; nothing where there is no index or a damaged one."""
        try:
            notes = json.loads((self.folder / NOTES).read_text(encoding="utf-8"))
            table = np.load(self.folder / notes["table"], mmap_mode="r", allow_pickle=False)
            if len(table) == sum(each["count"] for each in notes["shards"].values()):
                return notes["shards"], table
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it is made anew
        return {}, None

    def _written(
        self, stamps: dict[str, list[int]], old: dict[str, Any], table: np.ndarray | None
    ) -> tuple[dict[str, Any], np.ndarray]:
        starts = dict(zip(old, np.cumsum([0, *(each["count"] for each in old.values())])[:-1], strict=True))

        def read(name: str) -> tuple[dict[str, Any], np.ndarray]:
            if old.get(name, {}).get("stamp") == stamps[name]:
                return old[name], table[starts[name] :][: old[name]["count"]]
            unusable: list[tuple[str, str]] = []
            rows = _read_shard(self.root / name, lambda what, why: unusable.append((_inside(name, what), why)))
            return {"stamp": stamps[name], "count": len(rows), "unusable": unusable}, rows

        with ThreadPoolExecutor() as threads:
            found = dict(zip(stamps, threads.map(read, stamps), strict=True))
        whole = _joined([rows for _, rows in found.values()])
        notes = {name: note for name, (note, _) in found.items()}
        try:
            self._save(notes, whole)
        except OSError as error:
            raise DataError(
                f"the index of the shards cannot be written to {self.folder} ({error.strerror}); name another folder "
                "by data.index"
            ) from error
        return self._held()

    def _save(self, notes: dict[str, Any], table: np.ndarray) -> None:
        """The table under a name of its content, so that notes never belong to another one; several may do this."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"index-{zlib.crc32(table.tobytes()):08x}-{len(table)}.npy"
        part = self.folder / f"{uuid.uuid4().hex}.part"
        try:
            with part.open("wb") as file:
                np.save(file, table)
            os.replace(part, self.folder / name)
            part.write_text(json.dumps({"table": name, "shards": notes}), encoding="utf-8")
            os.replace(part, self.folder / NOTES)
        finally:
            part.unlink(missing_ok=True)
        for other in self.folder.glob("index-*.npy"):
            if other.name != name:
                other.unlink(missing_ok=True)


def _inside(shard: str, name: str) -> str:
    """A sample's name with its shard's, or the shard itself."""
    return name if name == shard else f"{shard}/{name}"


def _read_shard(shard: Path, note: Callable[[str, str], None]) -> np.ndarray:
    """Rows of a shard's complete samples; the others are noted."""
    entries = list(sample_entries(members(shard, note), note))
    longest = max((len(entry.name.encode()) for entry in entries), default=1)
    rows = np.zeros(len(entries), dtype=_row_type(longest))
    for row, entry in zip(rows, entries, strict=True):
        row["name"] = entry.name.encode()
        row["height"], row["width"] = picture_size(entry) or (0, 0)
        for part in PARTS:
            place: Part = getattr(entry, part)
            row[f"{part}_at"], row[f"{part}_bytes"] = place.offset, place.length
            row[f"{part}_suffix"] = _SUFFIXES.index(place.suffix)
    return rows


def _row_type(name_bytes: int) -> list[tuple[str, str]]:
    return [("shard", "<u4"), ("height", "<u4"), ("width", "<u4"), *_PLACE, ("name", f"S{name_bytes}")]


def _joined(tables: list[np.ndarray]) -> np.ndarray:
    """One table of all shards', with the shards' numbers."""
    longest = max((table.dtype["name"].itemsize for table in tables), default=1)
    whole = np.concatenate([np.zeros(0, _row_type(longest)), *(table.astype(_row_type(longest)) for table in tables)])
    whole["shard"] = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    return whole
