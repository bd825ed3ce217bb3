"""Writing a file completely or not at all, and never over another one."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Gives a path to write to; on leaving, the file appears under `path`, or nothing does if writing failed.

    The name is reserved first, so two writers cannot take the same one: FileExistsError if it is there. The folder must
    exist. Where the file goes is the caller's business. A full disk or a missing right is an OSError that names the
    file.
    """
    path = Path(path)
    try:
        path.open("xb").close()
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists already and is not overwritten; choose another name") from error
    except OSError as error:
        raise OSError(error.errno, f"could not create {path}: {error.strerror}") from error
    part = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"could not write {path}: {error.strerror or error}") from error
        raise
