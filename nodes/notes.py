"""What a node tells its user beside its outputs: in ComfyUI's log, and as text on the node."""

import logging

from comfy_api.latest import io

log = logging.getLogger("modality_forcing")


def show_on_node(node: type[io.ComfyNode], text: str, *, warning: bool = False) -> None:
    """Put the text on the node that runs (its schema must have the hidden unique_id) and into the log.

    Some frontends take it for HTML, and names of files and channels are a stranger's: brackets become look-alikes.
    """
    # Not at import time: the server module is there in a running ComfyUI only.
    from server import PromptServer

    log.log(logging.WARNING if warning else logging.INFO, "%s: %s", node.define_schema().display_name, text)
    text = text.replace("<", "\u2039").replace(">", "\u203a")
    if node.hidden.unique_id is not None:
        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)
