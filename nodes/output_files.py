"""Where the pack's save nodes put files: ComfyUI's output folder and its naming rules, never over another file."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import folder_paths
from comfy_api.latest import io

Item = TypeVar("Item")

FILENAME_PREFIX_TOOLTIP = (
    "Name of the files in ComfyUI's output folder, without number and ending; folders with '/'. Core's marks such as "
    "%year% and %width% work. Existing files are never overwritten."
)


def prefix_input(default: str) -> io.String.Input:
    """The file name input that all save nodes share."""
    return io.String.Input("filename_prefix", default=default, tooltip=FILENAME_PREFIX_TOOLTIP)


def files_output() -> io.String.Output:
    """The names that save nodes of more than pictures hand on."""
    return io.String.Output(
        id="files", display_name="files", is_output_list=True, tooltip="Names below the output folder."
    )


def save_files(
    prefix: str,
    suffix: str,
    items: Iterable[Item],
    write: Callable[[Path, Item], object],
    width: int = 0,
    height: int = 0,
) -> list[dict[str, str]]:
    """Let `write(path, item)` make one file for each item; returns what a node reports of them to the browser.

    Names are prefix_00001_.suffix and on, as core's save nodes count. `write` must raise FileExistsError rather than
    overwrite: the next number is then tried. ValueError for a prefix that is empty or leaves the output folder.
    """
    base = folder_paths.get_output_directory()
    _check_prefix(prefix, base)
    folder, name, number, subfolder, _ = folder_paths.get_save_image_path(prefix, base, width, height)
    saved = []
    for item in items:
        while True:
            file = f"{name}_{number:05}_{suffix}"
            number += 1
            try:
                write(Path(folder) / file, item)
            except FileExistsError:
                continue
            saved.append({"filename": file, "subfolder": subfolder, "type": "output"})
            break
    return saved


def output_names(saved: list[dict[str, str]]) -> list[str]:
    """The files below the output folder, with forward slashes, as Preview 3D takes them."""
    return [(Path(entry["subfolder"]) / entry["filename"]).as_posix() for entry in saved]


def _check_prefix(prefix: str, base: str) -> None:
    if not prefix.strip() or prefix.strip().endswith(("/", "\\")) or "\0" in prefix:
        raise ValueError(f"got the file name prefix {prefix!r}, expected a name such as 'depth/scene'")
    target = Path(os.path.abspath(os.path.join(base, prefix)))
    if not target.is_relative_to(os.path.abspath(base)) or ".." in Path(prefix.replace("\\", "/")).parts:
        raise ValueError(
            f"got the file name prefix {prefix!r}, which leads outside the output folder {base}; use a name, or "
            "folders below it such as 'depth/scene'"
        )
