"""``run.py pictures samples``: what the bundled small model makes of captions, as docs/small_model.jpg.

The captions are those of the first held-out scenes, none left out and none tried twice. Under each: the generated
image, its depth, both as a point cloud seen from the side, and the scene that the caption was written for.
"""

import textwrap

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...model.demo import CODEC_FILE, WORDS_FILE
from ...model.demo.image_codec import ImageCodec
from ...model.demo.text import TextEncoder
from ...model.depth.codec import decode
from ...model.depth.pictures import depth_picture
from ...model.diffusion.sampling import sample
from ...model.geometry.packets import make_geometry
from ...model.geometry.pointcloud import point_clouds
from ...model.geometry.pose import camera_pose
from ...model.geometry.render import render_views
from ...model.network.checkpoint import load_transformer
from ...model.resize import resize_images
from .. import ROOT, SMALL_MODEL
from ..small_model.held_out import held_out
from ..workflows.settings import CRACKS, DEPTH_GUIDANCE, EDGE, FAR, IMAGE_GUIDANCE, SIDE, SIDE_VIEW, STEPS

SHEET = ROOT / "docs" / "small_model.jpg"
COUNT = 4
LOG2_ALPHA, SEED = 0.0, 0  # both at once, as the workflows have it for this model
TILE, GAP, TEXT_HEIGHT, LINE, FONT = 202, 6, 98, 31, 12  # of the sheet, in pixels; letters in a line
BACKGROUND = (0.07, 0.07, 0.08)
VIEW = {**SIDE_VIEW, "yaw_deg": 7.0, "pitch_deg": -4.0}


def rows() -> tuple[list[str], dict[str, Tensor]]:
    """Captions, and what the sheet shows of each as (B,H,W,3) in 0..1."""
    scenes = held_out(COUNT)
    codec = ImageCodec.load(SMALL_MODEL.parent / CODEC_FILE)
    words = TextEncoder.load(SMALL_MODEL.parent / WORDS_FILE)
    generator = torch.Generator().manual_seed(SEED)
    cells = SIDE // 16
    noise = [torch.randn(COUNT, channels, cells, cells, generator=generator) for channels in (128, 256)]
    latent, code = sample(
        load_transformer(SMALL_MODEL),
        *noise,
        words.encode(scenes.captions),
        words.encode([""]),
        steps=STEPS,
        mode="joint",
        cfg=IMAGE_GUIDANCE,
        depth_cfg=DEPTH_GUIDANCE,
        log2_alpha=LOG2_ALPHA,
    )
    image = codec.decode(latent).clamp(0, 1).movedim(1, -1)
    depth, valid = decode(code)
    near = valid & (depth < FAR)
    packet = make_geometry(depth, near, scenes.intrinsics, image)
    clouds = point_clouds(packet, edge_threshold=EDGE)
    pose = camera_pose(**VIEW)
    poses = pose.expand(COUNT, -1, -1)
    view = render_views(clouds, poses, scenes.intrinsics, SIDE, SIDE, cracks=CRACKS, background=BACKGROUND)
    return scenes.captions, {
        "image": image,
        "depth": depth_picture(depth, near, colour_map="turbo", invalid_colour="black"),
        "point cloud": view.image,
        "the captions' own scenes": scenes.rgb.movedim(1, -1),
    }


def main(arguments: list[str]) -> int:
    """Write the sheet; returns the exit status."""
    captions, pictures = rows()
    step = TILE + GAP
    canvas = Image.new("RGB", (GAP + COUNT * step, TEXT_HEIGHT + len(pictures) * step), "white")
    draw = ImageDraw.Draw(canvas)
    for column, caption in enumerate(captions):
        draw.multiline_text((GAP + column * step, 4), textwrap.fill(caption, LINE), (0, 0, 0), font_size=FONT)
        for row, tiles in enumerate(pictures.values()):
            tile = resize_images(tiles[column : column + 1], TILE, TILE)[0]
            picture = Image.fromarray((tile * 255).round().clamp(0, 255).byte().numpy())
            canvas.paste(picture, (GAP + column * step, TEXT_HEIGHT + row * step))
    canvas.save(SHEET, quality=88, optimize=True)
    print(f"{SHEET}  {SHEET.stat().st_size / 1024:.0f} kB; rows: {', '.join(pictures)}")
    return 0
