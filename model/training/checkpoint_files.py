"""What lies in a checkpoint's folder: sums that tell damage, and reading that runs no code from the files.

Torch's format keeps its table of contents as a pickle, and numbers that are no tensors as pickles too; torch opens both
without restrictions, so that a stranger's checkpoint could run code. The reader and the planner here let nothing
through but the few classes that torch itself writes.
"""

import importlib
import io
import pickle
import zlib
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

CONTENTS = ".metadata"
CHUNK_BYTES = 2**24
_METADATA = "torch.distributed.checkpoint.metadata"
# What torch writes into the table of contents, beside torch.Size and its types of numbers.
_ALLOWED = {
    _METADATA: {
        *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
        *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "collections": {"OrderedDict"},
}


def sums(folder: Path, process: int) -> dict[str, list[int]]:
    """Bytes and CRC-32 of the files that a process has written, by name; the table of contents is the first one's."""
    names = [path.name for path in folder.glob(f"__{process}_*")] + ([CONTENTS] if process == 0 else [])
    return {name: _sum(folder / name) for name in sorted(names)}


def damage(folder: Path, files: dict[str, list[int]], process: int, processes: int) -> str:
    """What is wrong with this process' part of a checkpoint's files, in a few words; "" if nothing is."""
    for name in sorted(files)[process::processes]:
        try:
            found = _sum(folder / name)
        except OSError as error:
            return f"{name}: {error.strerror}"
        if found != files[name]:
            return f"{name} has {found[0]:,} bytes, sum {found[1]:08x}; {files[name][0]:,}, {files[name][1]:08x} noted"
    return ""


def _sum(path: Path) -> list[int]:
    size = value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size, value = size + len(chunk), zlib.crc32(chunk, value)
    return [size, value]


class Reader(FileSystemReader):
    """Torch's reader, but for its table of contents."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / CONTENTS).open("rb") as file:
            metadata = _Unpickler(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class Planner(DefaultLoadPlanner):
    """Torch's planner, but for what is no tensor: numbers and words, read without running code."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED.get(module, ()):
            return getattr(importlib.import_module(module), name)
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a checkpoint: it could run code")
