"""What a run tells its user beside its result: in ComfyUI's log, and as text on the node that samples."""

import logging
import sys

log = logging.getLogger("modality_forcing")


def notice(text: str) -> None:
    """Show the text on the node that runs, and write it into the log."""
    log.warning(text)
    module = sys.modules.get("server")  # there in a running ComfyUI only
    server = getattr(module.PromptServer, "instance", None) if module else None
    if server is not None and server.last_node_id is not None:
        server.send_progress_text(text, server.last_node_id)
