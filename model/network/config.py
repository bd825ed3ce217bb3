"""Sizes of the transformer, and how to read them off a checkpoint's tensor shapes."""

from collections.abc import Mapping
from dataclasses import dataclass

RGB_CHANNELS = 128  # one FLUX.2 latent token: 32 autoencoder channels x 2 x 2
DEPTH_PATCH = 16  # depth is coded in 16 x 16 pixel patches, the footprint of one RGB token
DEPTH_CHANNELS = DEPTH_PATCH**2

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of one transformer. The defaults are the released 9 B model (Modality Forcing, arXiv 2606.13676).

    `depth_channels = 0` leaves the depth stream out: that is a plain FLUX.2-shaped text-to-image transformer.
    """

    hidden_size: int = 4096
    num_heads: int = 32
    double_blocks: int = 8
    single_blocks: int = 24
    decoder_blocks: int = 4
    mlp_size: int = 12288
    text_width: int = 12288
    rgb_channels: int = RGB_CHANNELS
    depth_channels: int = DEPTH_CHANNELS
    cross_stream: bool = True  # "v2": each timestep embedding also sees the other modality's level
    rope_theta: int = 2000

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_size % 8:
            raise ValueError(
                f"hidden_size {self.hidden_size} over {self.num_heads} heads gives heads of "
                f"{self.hidden_size / self.num_heads:g}; expected a multiple of 8 (4 rotary axes of whole pairs)"
            )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def has_depth(self) -> bool:
        return self.depth_channels > 0

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the token streams of the double blocks, in sequence order."""
        return ("txt", "img", "depth") if self.has_depth else ("txt", "img")


VARIANTS = {
    "flux_rgbd_9b_v2": TransformerConfig(),
    "flux_rgbd_9b_v1": TransformerConfig(cross_stream=False),
}


def config_from_shapes(shapes: Shapes) -> TransformerConfig:
    """Read the sizes off the tensor shapes of an unprefixed state dict.

    Raises KeyError for the first tensor it needs and does not find.
    """
    hidden_size, rgb_channels = shapes["img_in.weight"]
    (head_size,) = shapes["double_blocks.0.img_attn.norm.query_norm.scale"]
    return TransformerConfig(
        hidden_size=hidden_size,
        num_heads=hidden_size // head_size,
        double_blocks=_count_blocks(shapes, "double_blocks."),
        single_blocks=_count_blocks(shapes, "single_blocks."),
        decoder_blocks=_count_blocks(shapes, "depth_decoder_blocks."),
        mlp_size=shapes["double_blocks.0.img_mlp.0.weight"][0] // 2,
        text_width=shapes["txt_in.weight"][1],
        rgb_channels=rgb_channels,
        depth_channels=shapes["depth_in.weight"][1] if "depth_in.weight" in shapes else 0,
        cross_stream="cross_alpha_img" in shapes,
    )


def _count_blocks(shapes: Shapes, prefix: str) -> int:
    indices = {key[len(prefix) :].split(".", 1)[0] for key in shapes if key.startswith(prefix)}
    return 1 + max((int(index) for index in indices if index.isdigit()), default=-1)
