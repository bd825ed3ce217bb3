"""Loading a small model, bundled or self-trained: its transformer, its words as CLIP and its image codec as VAE.

A small model is a folder with transformer files in the released layout, image_codec.safetensors and words.json.
"""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..model.demo import CODEC_FILE, WORDS_FILE
from ..model.demo.image_codec import ImageCodec
from ..model.demo.text import TextEncoder
from .native.loading import load_model
from .native.small_clip import small_clip
from .native.small_vae import SmallVAE, preview_of
from .sockets import CATEGORY

FOLDER = "modality_forcing_small"
BUNDLED = Path(__file__).resolve().parent.parent / "model" / "demo" / "weights"

INSTEAD = "Taken in place of the small model's, with the other two. Not connected, or muted: the small model."

for _folder in (Path(folder_paths.models_dir) / FOLDER, BUNDLED):
    folder_paths.add_model_folder_path(FOLDER, str(_folder))


class LoadSmall(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]
        return io.Schema(
            node_id="ModalityForcingLoadSmall",
            display_name="Load Small Model",
            category=CATEGORY,
            description="Loads a small model with its word list and its image codec. In a graph it takes "
            "the places of 'Load Modality Forcing Model', 'Load CLIP' and 'Load VAE'.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[name for name in names if Path(name).name != CODEC_FILE],
                    tooltip=f"A transformer file in a folder below models/{FOLDER} that also holds {CODEC_FILE} and "
                    f"{WORDS_FILE}, or the one that comes with this pack.",
                ),
                io.Model.Input("model", optional=True, tooltip=INSTEAD),
                io.Clip.Input("clip", optional=True, tooltip=INSTEAD),
                io.Vae.Input("vae", optional=True, tooltip=INSTEAD),
            ],
            outputs=[
                io.Model.Output(id="loaded_model", display_name="model"),
                io.Clip.Output(
                    id="loaded_clip", display_name="clip", tooltip="Knows a short list of words; others are left out."
                ),
                io.Vae.Output(
                    id="loaded_vae", display_name="vae", tooltip="128 channels at 1/16 of the size, like FLUX.2's."
                ),
            ],
        )

    @classmethod
    def execute(cls, model_name: str, model=None, clip=None, vae=None) -> io.NodeOutput:
        if (model, clip, vae) != (None, None, None):
            return io.NodeOutput(*_all_three(model=model, clip=clip, vae=vae))
        path = Path(folder_paths.get_full_path_or_raise(FOLDER, model_name))
        missing = [name for name in (CODEC_FILE, WORDS_FILE) if not (path.parent / name).is_file()]
        if missing:
            raise ValueError(
                f"{path.parent} does not hold {' and '.join(missing)}; a small model is a folder with its transformer, "
                f"{CODEC_FILE} and {WORDS_FILE}. Copy them from where it was trained."
            )
        words = TextEncoder.load(path.parent / WORDS_FILE)
        model = load_model(str(path))
        width = model.model.diffusion_model.config.text_width
        if width != words.width:
            raise ValueError(
                f"{path.name} takes text {width} wide, but the list in {path.parent / WORDS_FILE} gives {words.width}: "
                "these files are not of one training. Copy them together."
            )
        codec = ImageCodec.load(path.parent / CODEC_FILE)
        model.model.latent_format.rgb_preview = preview_of(ImageCodec.load(path.parent / CODEC_FILE))
        return io.NodeOutput(model, small_clip(words), SmallVAE(codec))


def _all_three(**given: Any) -> list[Any]:
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(
            f"got no {' and no '.join(missing)} beside what is connected; expected model, clip and vae, which belong "
            "together. Connect all three, or none of them for the small model."
        )
    return list(given.values())


NODES = [LoadSmall]
