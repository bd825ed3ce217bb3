"""Writing a file completely or not at all, and never over another one."""

import errno
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PART = ".modality_forcing_part_"
_STALE_SECONDS = 3600.0
# What file systems without hard links (FAT, some network drives) answer.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Gives a path to write to; on leaving, the file appears under `path`, or nothing does if writing failed.

    The part gets its name by a hard link, so two writers cannot take the same one (FileExistsError for the second) and
    a process that is killed leaves no file under it; the part that it leaves is removed by a later writer in that
    folder, an hour after its last change. The folder must exist. Where the file goes is the caller's business. A full
    disk or a missing right is an OSError that names the file.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise _taken(path)
    _remove_stale_parts(path.parent)
    part = path.with_name(f"{_PART}{uuid.uuid4().hex}{path.suffix}")
    try:
        yield part
        _give_name(part, path)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            raise _taken(path) from error
        # Writers in C report a disk that runs full without a number.
        reason = error.strerror or f"{error} (is the disk full?)".replace(part.name, path.name)
        raise OSError(error.errno, f"could not write {path}: {reason}") from error
    finally:
        part.unlink(missing_ok=True)


def _give_name(part: Path, path: Path) -> None:
    """Give the part its name unless there is such a file."""
    if os.name == "nt":
        part.rename(path)  # fails there if the name is taken
        return
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.open("xb").close()
        part.replace(path)


def _taken(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} exists already and is not overwritten; choose another name")


def _remove_stale_parts(folder: Path) -> None:
    oldest = time.time() - _STALE_SECONDS
    for part in folder.glob(f"{_PART}*"):
        try:
            if part.stat().st_mtime < oldest:
                part.unlink()
        except OSError:  # removed by another writer, or not ours to remove
            continue
