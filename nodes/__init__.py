"""ComfyUI nodes, one file per topic."""

from . import (
    camera,
    conditions,
    depth,
    depth_files,
    ensemble,
    guidance,
    images,
    latents,
    lora,
    mesh,
    metric,
    models,
    pictures,
    pointcloud,
    previews,
    quantise,
    scene,
    small_model,
    sparse,
    splats,
    tiles,
    upscale,
    video,
    views,
)

NODES = [
    *models.NODES,
    *quantise.NODES,
    *lora.NODES,
    *latents.NODES,
    *conditions.NODES,
    *depth.NODES,
    *images.NODES,
    *small_model.NODES,
    *previews.NODES,
]
NODES += [*pictures.NODES, *depth_files.NODES, *metric.NODES, *camera.NODES]
NODES += [*pointcloud.NODES, *mesh.NODES, *views.NODES, *splats.NODES]
NODES += [*upscale.NODES, *ensemble.NODES, *tiles.NODES, *video.NODES, *sparse.NODES, *scene.NODES]
NODES += guidance.NODES
