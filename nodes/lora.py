"""LoRAs with a strength for each stream."""

import folder_paths
from comfy_api.latest import io

from ..model.network.lora import STREAMS
from .native.lora import apply_lora
from .notes import show_on_node
from .sockets import CATEGORY

FOLDER = "loras"
SERVES = {
    "image": "the image stream, and the single blocks that all tokens share",
    "text": "the text stream of the double blocks",
    "depth": "the depth stream: what the LoRA holds for depth, and the copy of the image part below",
}


class LoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        strengths = [
            io.Float.Input(
                f"strength_{stream}",
                default=1.0,
                min=-100.0,
                max=100.0,
                step=0.01,
                tooltip=f"Strength for {SERVES[stream]}. 0 none, 1 as trained; no unit.",
            )
            for stream in STREAMS
        ]
        return io.Schema(
            node_id="ModalityForcingLora",
            display_name="LoRA for RGB-D",
            category=CATEGORY,
            description="Applies a FLUX.2 klein LoRA, or one of this model, with a strength for each stream, and says "
            "what of it matched.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A .safetensors file in models/loras, by the names of ComfyUI, diffusers, kohya, LyCORIS.",
                ),
                *strengths,
                io.Boolean.Input(
                    "image_part_on_depth",
                    default=False,
                    tooltip="Apply the image part of the double blocks to depth's too, with depth's strength: depth's "
                    "weights there began as a copy of the image's.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", id="with_lora")],
        )

    @classmethod
    def execute(cls, model, lora_name: str, image_part_on_depth: bool, **strengths: float) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise(FOLDER, lora_name)
        by_stream = {stream: strengths[f"strength_{stream}"] for stream in STREAMS}
        patched, report = apply_lora(model, path, by_stream, image_part_on_depth)
        show_on_node(cls, f"{lora_name}: {report}", warning=bool(report.unmatched))
        return io.NodeOutput(patched)


NODES = [LoadLora]
