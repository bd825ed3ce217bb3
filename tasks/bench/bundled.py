"""What measurements of the bundled model share: scenes that it has not seen, their captions, the noise, and errors."""

import torch
from torch import Tensor

from ...model.demo import CODEC_FILE, WORDS_FILE
from ...model.demo.image_codec import ImageCodec
from ...model.demo.text import TextEncoder
from ...model.depth import codec as depth_codec
from ...model.depth.alignment import evaluate
from .. import SMALL_MODEL
from ..small_model.held_out import MAX_CODE, held_out
from ..workflows.settings import SIDE

Depth = tuple[Tensor, Tensor]  # depth (B,H,W), and where it is valid


class Bundled:
    """Held-out scenes, the bundled model's codec and texts for them, and always the same noise."""

    def __init__(self, count: int) -> None:
        self.scenes = held_out(count, style="mixed")
        self.truth: Depth = (self.scenes.depth, self.scenes.valid)
        self.codec = ImageCodec.load(SMALL_MODEL.parent / CODEC_FILE)
        words = TextEncoder.load(SMALL_MODEL.parent / WORDS_FILE)
        self.text, self.empty = words.encode(self.scenes.captions), words.encode([""])
        generator = torch.Generator().manual_seed(0)
        shape = (count, 384, SIDE // 16, SIDE // 16)
        self.rgb, self.depth = torch.randn(shape, generator=generator).split([128, 256], dim=1)
        self.given = self.codec_latent(self.scenes.rgb)

    def codec_latent(self, pictures: Tensor) -> Tensor:
        """(B,3,H,W) in [0, 1] -> (B,128,h,w)."""
        with torch.no_grad():
            return self.codec.encode(pictures)

    def picture(self, rgb: Tensor) -> Tensor:
        """(B,128,h,w) -> (B,3,H,W) in [0, 1]."""
        with torch.no_grad():
            return self.codec.decode(rgb).clamp(0, 1)


def decoded(codes: Tensor) -> Depth:
    """Depth of codes (B,256,h,w), capped."""
    return depth_codec.decode(codes.clamp(0.01, MAX_CODE))


def abs_rel(predicted: Depth, reference: Depth) -> float:
    """Percent, scale and shift fitted."""
    return 100 * float(evaluate(predicted[0], reference[0], predicted[1], reference[1]).abs_rel.nanmean())


def rms(predicted: Tensor, reference: Tensor) -> float:
    """Of pictures, of 1."""
    return float((predicted - reference).square().mean().sqrt())
