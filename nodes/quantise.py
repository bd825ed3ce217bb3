"""Writing a checkpoint in fewer bits."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..model.network.quantise import NOTES, quantise
from .native.progress import device, steps
from .notes import show_on_node
from .sockets import CATEGORY

FOLDER = "diffusion_models"


class QuantiseCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingQuantise",
            display_name="Quantise Checkpoint",
            category=CATEGORY,
            description="Writes a Modality Forcing checkpoint as a new, smaller file, which the loaders then read.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A bf16 or fp32 checkpoint in models/diffusion_models.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(NOTES),
                    default="int8",
                    tooltip="int8 (rotated; fast on 20 series cards and later), fp8 (40 series), mxfp8 and nvfp4 (50 "
                    "series), int4 (4.5 bits, 30 series; slow to write on a CPU). All but fp8 need comfy-kitchen.",
                ),
                io.String.Input(
                    "file_name",
                    default="",
                    tooltip="Name of the new file, without folders; it goes beside the old one. Empty: the old name "
                    "with the format after it. A file of that name is never overwritten.",
                ),
            ],
            outputs=[io.String.Output(display_name="file_name", tooltip="For Load Modality Forcing Model.")],
        )

    @classmethod
    def execute(cls, model_name: str, format: str, file_name: str) -> io.NodeOutput:
        source = Path(folder_paths.get_full_path_or_raise(FOLDER, model_name))
        target = target_path(source, file_name or f"{source.stem}_{format}.safetensors")
        try:
            quantise(source, target, format, steps(), device=device())
        except ImportError as error:
            raise ValueError(
                f"{format} needs the package comfy-kitchen, which newer ComfyUIs bring ({error}). Update ComfyUI, run "
                "'pip install comfy-kitchen' in its environment, or choose fp8"
            ) from error
        sizes = [path.stat().st_size / 1e9 for path in (source, target)]
        show_on_node(cls, f"{target.name}: {sizes[1]:.2f} GB, of {sizes[0]:.2f}. Press R to see it in the loaders.")
        return io.NodeOutput(target.name)


def target_path(source: Path, name: str) -> Path:
    """The new file beside the old one. ValueError for a name with folders or another ending."""
    name = name if name.endswith(".safetensors") else f"{name}.safetensors"
    if Path(name).name != name or "\\" in name or name.startswith("."):
        raise ValueError(f"got the file name {name!r}; expected a name without folders, such as 'model_int8'")
    return source.parent / name


NODES = [QuantiseCheckpoint]
