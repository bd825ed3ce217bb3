"""Pictures larger than the model was trained at, in tiles: image -> depth, and every other run."""

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..model.depth.tiles import check_tiles, count_tiles, tiled
from ..model.resize import checked_colours
from .image_to_depth import GEOMETRY_OUTPUT, at_once_input, fov_input, geometry_of, run_inputs
from .latents import PATCH, check_known, modality_latent
from .native.image_to_depth import ImageToDepth
from .native.tiles import tiled_model
from .sockets import CATEGORY


def _tile_inputs(smaller: str) -> list[io.Input]:
    return [
        io.Int.Input(
            "tile",
            default=512,
            min=64,
            max=4096,
            step=16,
            tooltip=f"Side of a tile in pixels: the size that the model was trained at. {smaller}",
        ),
        io.Int.Input(
            "overlap",
            default=256,
            min=0,
            max=2048,
            step=16,
            tooltip="Pixels that neighbouring tiles share. Half a tile is best; less is faster.",
        ),
    ]


class TiledDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingTiledDepth",
            display_name="Depth in Tiles (image to depth)",
            category=CATEGORY,
            description="Estimates the depth of a large image: once small, as a whole, then tile by tile for detail. "
            "All tiles share the scale of the whole. Memory is that of one tile.",
            inputs=[
                *run_inputs("One or a batch, of any size."),
                *_tile_inputs("Images that fit into one tile are estimated as a whole."),
                io.Float.Input(
                    "denoise",
                    default=0.25,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the steps that each tile takes, from the whole image's depth. More adds more of "
                    "its own; 1 starts each tile from noise.",
                ),
                at_once_input(),
                fov_input(),
            ],
            outputs=[GEOMETRY_OUTPUT],
        )

    @classmethod
    def execute(
        cls, image: Tensor, vae, noise, guider, sampler, sigmas, tile, overlap, denoise, at_once, fov_x_deg
    ) -> io.NodeOutput:
        image = checked_colours(image)
        estimates = len(image) * count_tiles(*image.shape[1:3], tile, overlap)
        estimate = ImageToDepth(noise, guider, sampler, sigmas, vae, at_once=at_once, estimates=estimates)
        depth, valid = tiled(estimate, image.cpu(), tile, overlap, denoise)
        return io.NodeOutput(geometry_of(torch.where(valid, depth, torch.nan), image, fov_x_deg))


class TileModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingTileModel",
            display_name="RGB-D Tiles (model)",
            category=CATEGORY,
            description="Lets the model see a latent that is larger than it was trained at in overlapping tiles, which "
            "are blended at each step: for second passes and large pictures, with any sampler, guider and condition. "
            "Memory is that of one tile.",
            inputs=[
                io.Model.Input("model", tooltip="From 'RGB-D Schedule', or from 'RGB-D Guidance (model)'."),
                *_tile_inputs("A latent that fits into one tile is sampled as without this node."),
                io.Latent.Input(
                    "reference",
                    optional=True,
                    tooltip="Depth of the whole picture, of any size: the joint latent of the first pass, or 'Encode "
                    "Geometry Depth' of a small estimate. All tiles are kept at its scale.",
                ),
            ],
            outputs=[io.Model.Output(id="tiled", display_name="model")],
        )

    @classmethod
    def execute(cls, model: Any, tile: int, overlap: int, reference: dict[str, Any] | None = None) -> io.NodeOutput:
        check_tiles(tile, overlap)
        codes = None
        if reference is not None:
            codes = modality_latent(reference, "depth")
            check_known(codes, "the reference")
        return io.NodeOutput(tiled_model(model, tile // PATCH, overlap // PATCH, codes))


NODES = [TiledDepth, TileModel]
