"""The workflow that made a file, as core's save nodes keep it."""

import json

from comfy.cli_args import args
from comfy_api.latest import io


def workflow_of(node: type[io.ComfyNode]) -> dict[str, str]:
    """JSON texts by name: the prompt, and what the browser adds (the workflow). Empty with --disable-metadata. The
    node's schema must have the hidden prompt and extra_pnginfo."""
    if args.disable_metadata:
        return {}
    prompt, extra = node.hidden.prompt, node.hidden.extra_pnginfo
    found = {} if prompt is None else {"prompt": prompt}
    return {name: json.dumps(value) for name, value in (found | (extra or {})).items()}
