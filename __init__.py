"""Modality Forcing for ComfyUI: images and their depth, together or either from the other. The entry point."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES
from .nodes.native.detection import register

WEB_DIRECTORY = "./web"

register()


class ModalityForcingExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> ModalityForcingExtension:
    return ModalityForcingExtension()
