"""All that touches ComfyUI's internals: outside of this folder no node imports `comfy.*`."""
