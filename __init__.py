"""Modality Forcing for ComfyUI: images and their depth, together or either from the other. The entry point."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES, preview_results
from .nodes.native import detection

WEB_DIRECTORY = "./web"

detection.register()


class ModalityForcingExtension(ComfyExtension):
    async def on_load(self) -> None:
        preview_results.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> ModalityForcingExtension:
    return ModalityForcingExtension()
