"""Modality Forcing for ComfyUI: images and their depth, together or either from the other. The entry point."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES, preview_results
from .nodes.native import detection

WEB_DIRECTORY = "./web"

detection.register()


class ModalityForcingExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> ModalityForcingExtension:
    preview_results.register()  # not in on_load, which ComfyUI 0.3.75 never calls
    return ModalityForcingExtension()
