"""Depth maps from and to files."""

import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..model.depth.files import LOAD_SUFFIXES, LoadedDepth, load_depth, png_far, save_depth
from ..model.depth.pictures import MEANINGS, RANGES
from ..model.geometry.camera import intrinsics_from_fov_x
from ..model.geometry.packets import Geometry, make_geometry, read_geometry
from .native.metadata import workflow_of
from .notes import show_on_node
from .output_files import files_output, output_names, prefix_input, save_files
from .pictures import colours_for
from .sockets import FOV_TOOLTIP, GEOMETRY, GEOMETRY_CATEGORY, near_far_inputs

FORMATS = {"png (16 bit)": ".png", "exr (32 bit)": ".exr", "npy (32 bit)": ".npy", "tiff (32 bit)": ".tiff"}
CROWDED = 1 / 256  # as good as 8 bits for half of the picture


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
                    options=_LISTING.below(folder_paths.get_input_directory()),
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
                io.String.Input(
                    "channel",
                    default="",
                    optional=True,
                    tooltip="For EXR: the channel (Z, layer.Z), layer or part to read; part:channel where several have "
                    "one. Empty: Z, or what comes closest. The notes say what was read.",
                ),
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
    def execute(cls, file, meaning, scale, near, far, fov_x_deg, image=None, channel="") -> io.NodeOutput:
        path = _input_path(file)
        loaded = load_depth(path, meaning, scale=scale or None, near=near, far=far, channel=channel.strip())
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
                    "whole range.",
                ),
                io.Combo.Input(
                    "range_from",
                    options=list(RANGES),
                    default="per image",
                    optional=True,
                    tooltip="Where the levels of a PNG end, if step is 0. per batch: one step for all images, as a "
                    "sequence needs. fixed: at far.",
                ),
                io.Float.Input(
                    "far",
                    default=10.0,
                    min=1e-6,
                    max=1e9,
                    step=0.1,
                    optional=True,
                    tooltip="Depth of the last level for a fixed range, in the unit of the depth. Deeper is clipped.",
                ),
                io.Float.Input(
                    "clip_percent",
                    default=0.0,
                    min=0.0,
                    max=50.0,
                    step=0.1,
                    optional=True,
                    tooltip="Share of the pixels, in percent, that may be clipped at the far end of a measured range, "
                    "so that a few of sky do not take the levels from the rest. What is clipped is counted.",
                ),
            ],
            outputs=[files_output()],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, geometry, filename_prefix, format, unit, step, **levels: Any) -> io.NodeOutput:
        packet, suffix, notes = read_geometry(geometry), FORMATS[format], workflow_of(cls)
        count, height, width = packet.depth.shape
        step = (step or None) if suffix == ".png" else None
        fars = [None] * count if step or suffix != ".png" else _last_levels(packet, **levels)

        def write(path: Path, index: int) -> None:
            maps = packet.depth[index], packet.valid[index]
            save_depth(path, *maps, unit=unit, step=step, far=fars[index], notes=notes)

        saved = save_files(filename_prefix, suffix, range(count), write, width, height)
        if suffix == ".png" and not step:
            _report_levels(cls, packet, fars)
        # Browsers show 16-bit PNG; the other formats are listed without a picture.
        return io.NodeOutput(output_names(saved), ui={"images" if suffix == ".png" else "files": saved})


def _last_levels(
    packet: Geometry, range_from: str = "per image", far: float = 10.0, clip_percent: float = 0.0
) -> list[float]:
    """The depth of a PNG's last level for each image."""
    count = len(packet.depth)
    if range_from == "fixed":
        return [far] * count
    if range_from == "per batch":
        return [png_far(packet.depth, packet.valid, clip_percent)] * count
    return [png_far(packet.depth[i], packet.valid[i], clip_percent) for i in range(count)]


def _report_levels(node: type[io.ComfyNode], packet: Geometry, fars: list[float]) -> None:
    """Say how many pixels were clipped, and where one far pixel took nearly all levels from the rest."""
    lines, known = [], int(packet.valid.sum())
    clipped = [int((packet.valid[i] & (packet.depth[i] > far)).sum()) for i, far in enumerate(fars)]
    if any(clipped):
        lines.append(f"{sum(clipped)} pixels ({100 * sum(clipped) / known:.3g} %) lie beyond the range and are clipped")
    halves = [png_far(packet.depth[i], packet.valid[i], 50.0) / far for i, far in enumerate(fars)]
    crowded = [str(i) for i, half in enumerate(halves) if half < CROWDED and packet.valid[i].any()]
    if crowded:
        lines.append(
            f"half of the pixels of image {', '.join(crowded)} lie within {round(65535 * min(halves))} of the 65535 "
            "levels: set clip_percent or a fixed range, or save EXR"
        )
    if lines:
        show_on_node(node, "\n".join(lines), warning=True)


class _Listing:
    """The depth files below a folder, listed again only when one of its folders has changed."""

    def __init__(self) -> None:
        self.base = ""
        self.changed: dict[str, int] = {}
        self.files: list[str] = []

    def below(self, base: str) -> list[str]:
        if base != self.base or any(_time(folder) != time for folder, time in self.changed.items()):
            self.base, self.changed, self.files = base, {}, []
            for folder, _, names in os.walk(base):
                self.changed[folder] = _time(folder)
                own = Path(folder).relative_to(base)
                self.files += [(own / name).as_posix() for name in names if name.lower().endswith(LOAD_SUFFIXES)]
            self.files.sort()
        return self.files


def _time(folder: str) -> int:
    """When something was last added to or removed from a folder; 0 where there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


_LISTING = _Listing()


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
        f"{loaded.read}, {width} x {height}, depth {float(known.min()):.4g} to {float(known.max()):.4g} "
        f"{loaded.unit or '(no unit noted)'}, {share:.4g} % of the pixels",
        *(f"Warning: {warning}." for warning in loaded.warnings),
    ]
    return "\n".join(lines)


NODES = [LoadDepth, SaveDepth]
