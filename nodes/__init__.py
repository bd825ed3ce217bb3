"""ComfyUI nodes, one file per topic."""

from . import conditions, demo, depth, images, latents, models

NODES = [*models.NODES, *latents.NODES, *conditions.NODES, *depth.NODES, *images.NODES, *demo.NODES]
