"""Depth maps from and to files."""

import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..model.depth.files import LOAD_SUFFIXES, LoadedDepth, load_depth, save_depth
from ..model.depth.pictures import MEANINGS
from ..model.geometry.camera import intrinsics_from_fov_x
from ..model.geometry.packets import make_geometry, read_geometry
from .notes import show_on_node
from .output_files import output_names, prefix_input, save_files
from .pictures import colours_for
from .sockets import FOV_TOOLTIP, GEOMETRY, GEOMETRY_CATEGORY, near_far_inputs

FORMATS = {"png (16 bit)": ".png", "exr (32 bit)": ".exr", "npy (32 bit)": ".npy", "tiff (32 bit)": ".tiff"}


class LoadDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingLoadDepth",
            display_name="Load Depth",
            category=GEOMETRY_CATEGORY,
            description="Loads a depth map at full precision: 16-bit PNG, EXR, TIFF, NPY. PNG can be uploaded and "
            "dropped here; put other files into ComfyUI's input folder.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_files(),
                    upload=io.UploadType.image,
                    tooltip="A depth file in ComfyUI's input folder. 8-bit and coloured files load with a warning.",
                ),
                io.Combo.Input(
                    "meaning",
                    options=["metric", *(name for name in MEANINGS if name != "metric")],
                    default="metric",
                    tooltip="metric: the stored value times scale is the depth (sensors, renderers, our own files). "
                    "The others are pictures of depth between near and far.",
                ),
                io.Float.Input(
                    "scale",
                    default=0.0,
                    min=0.0,
                    max=1e9,
                    step=0.0001,
                    tooltip="For metric: depth of one stored unit, such as 0.001 for millimetres to metres (a 16-bit "
                    "file counts 0 to 65535). 0 takes the scale that the file notes, or else 1.",
                ),
                *near_far_inputs(
                    "Depth of the near end of a picture, in any unit. Not for metric.",
                    "Depth of the far end of a picture. Not for metric.",
                ),
                io.Float.Input("fov_x_deg", default=55.0, min=1.0, max=170.0, step=0.1, tooltip=FOV_TOOLTIP),
                io.Image.Input("image", optional=True, tooltip="The picture that the depth belongs to, for colours."),
            ],
            outputs=[
                GEOMETRY.Output(id="geometry", display_name="geometry"),
                io.Mask.Output(id="valid", display_name="valid", tooltip="White where there is depth."),
                io.String.Output(id="notes", display_name="notes", tooltip="Size, range, unit and warnings, as text."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        return True if _input_path(file).is_file() else f"there is no depth file {file!r} in ComfyUI's input folder"

    @classmethod
    def fingerprint_inputs(cls, file: str, **_kwargs: Any) -> tuple[int, int]:
        status = _input_path(file).stat()
        return status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, file, meaning, scale, near, far, fov_x_deg, image: Tensor | None = None) -> io.NodeOutput:
        loaded = load_depth(_input_path(file), meaning, scale=scale or None, near=near, far=far)
        if not loaded.valid.any():
            raise ValueError(f"{file} holds no valid depth at all (every value is 0, negative, NaN or infinite)")
        notes = _describe(loaded)
        show_on_node(cls, notes, warning=bool(loaded.warnings))
        intrinsics = intrinsics_from_fov_x(fov_x_deg, loaded.depth.shape[2], loaded.depth.shape[1])
        geometry = make_geometry(loaded.depth, loaded.valid, intrinsics, colours_for(image, loaded.depth))
        return io.NodeOutput(geometry, loaded.valid.float(), notes)


class SaveDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingSaveDepth",
            display_name="Save Depth",
            category=GEOMETRY_CATEGORY,
            description="Saves the depth of a geometry at full precision, one file for each image. 0 stands for no "
            "depth in all formats.",
            inputs=[
                GEOMETRY.Input("geometry"),
                prefix_input("depth/ComfyUI"),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="png (16 bit)",
                    tooltip="png: linear depth in 65535 steps, with their size in the file. exr, npy, tiff: exact.",
                ),
                io.Combo.Input(
                    "unit",
                    options=["relative", "metre"],
                    default="relative",
                    tooltip="Noted in the file. Depth is relative unless a Metric Depth node or sensor gave it a unit.",
                ),
                io.Float.Input(
                    "step",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.0001,
                    tooltip="Depth of one grey level, PNG only: 0.001 for millimetres of metric depth. 0 uses the "
                    "whole range of each image.",
                ),
            ],
            outputs=[
                io.String.Output(
                    id="files", display_name="files", is_output_list=True, tooltip="Names below the output folder."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], filename_prefix, format, unit, step) -> io.NodeOutput:
        packet = read_geometry(geometry)
        step = (step or None) if FORMATS[format] == ".png" else None

        def write(path: Path, index: int) -> None:
            save_depth(path, packet.depth[index], packet.valid[index], unit=unit, step=step)

        count, height, width = packet.depth.shape
        saved = save_files(filename_prefix, FORMATS[format], range(count), write, width, height)
        # Browsers show 16-bit PNG; the other formats are listed without a picture.
        return io.NodeOutput(output_names(saved), ui={"images" if FORMATS[format] == ".png" else "files": saved})


def _files() -> list[str]:
    """Files of the input folder, and of the folders in it, that may hold depth."""
    base = Path(folder_paths.get_input_directory())
    found = (path for path in base.rglob("*") if path.suffix.lower() in LOAD_SUFFIXES and path.is_file())
    return sorted(path.relative_to(base).as_posix() for path in found)


def _input_path(name: str) -> Path:
    """The file of that name, in the input folder or the one that core's mark '[output]' names; else ValueError."""
    path = Path(os.path.abspath(folder_paths.get_annotated_filepath(name)))
    folders = folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory()
    if not any(path.is_relative_to(os.path.abspath(folder)) for folder in folders):
        raise ValueError(f"got the file name {name!r}, expected one inside ComfyUI's input folder {folders[0]}")
    return path


def _describe(loaded: LoadedDepth) -> str:
    known = loaded.depth[loaded.valid]
    height, width = loaded.depth.shape[1:]
    share = 100 * known.numel() / loaded.depth.numel()
    lines = [
        f"{width} x {height}, depth {float(known.min()):.4g} to {float(known.max()):.4g} "
        f"{loaded.unit or '(no unit noted)'}, {share:.4g} % of the pixels",
        *(f"Warning: {warning}." for warning in loaded.warnings),
    ]
    return "\n".join(lines)


NODES = [LoadDepth, SaveDepth]
