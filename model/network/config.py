"""Sizes of the transformer, and how to read them off a checkpoint's tensor shapes."""

from collections.abc import Mapping
from dataclasses import dataclass

RGB_CHANNELS = 128  # one FLUX.2 latent token: 32 autoencoder channels x 2 x 2
DEPTH_PATCH = 16  # depth is coded in 16 x 16 pixel patches, the footprint of one RGB token
DEPTH_CHANNELS = DEPTH_PATCH**2
BLOCKS = ("double_blocks", "single_blocks", "depth_decoder_blocks")  # the transformer's lists of them

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
        for name in ("hidden_size", "num_heads", "mlp_size", "text_width", "rgb_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
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

    Raises KeyError for the first tensor it needs and does not find, ValueError for tensors of other dimensions and for
    blocks that are not numbered from 0 without gaps.
    """
    hidden_size, rgb_channels = _dimensions(shapes, "img_in.weight", 2)
    (head_size,) = _dimensions(shapes, "double_blocks.0.img_attn.norm.query_norm.scale", 1)
    return TransformerConfig(
        hidden_size=hidden_size,
        num_heads=hidden_size // max(head_size, 1),
        double_blocks=_count_blocks(shapes, "double_blocks"),
        single_blocks=_count_blocks(shapes, "single_blocks"),
        decoder_blocks=_count_blocks(shapes, "depth_decoder_blocks"),
        mlp_size=_dimensions(shapes, "double_blocks.0.img_mlp.0.weight", 2)[0] // 2,
        text_width=_dimensions(shapes, "txt_in.weight", 2)[1],
        rgb_channels=rgb_channels,
        depth_channels=_dimensions(shapes, "depth_in.weight", 2)[1] if "depth_in.weight" in shapes else 0,
        cross_stream="cross_alpha_img" in shapes,
    )


def _dimensions(shapes: Shapes, key: str, count: int) -> tuple[int, ...]:
    shape = shapes[key]
    if len(shape) != count:
        raise ValueError(f"{key} has the shape {tuple(shape)}; expected {count} dimension{'s' * (count > 1)}")
    return shape


def _count_blocks(shapes: Shapes, name: str) -> int:
    numbers = {key.split(".", 2)[1] for key in shapes if key.startswith(f"{name}.")}
    odd = numbers - {str(number) for number in range(len(numbers))}
    if odd:
        raise ValueError(f"{len(numbers)} {name} should be numbered 0 to {len(numbers) - 1}; found {min(odd)[:20]!r}")
    return len(numbers)
