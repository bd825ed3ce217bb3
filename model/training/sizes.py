"""Sizes of text-to-image transformers that people start from, as rows.

FLUX.2-klein's are those of its files. Of the paper's scaling study (Modality Forcing, arXiv 2606.13676) width, 30
layers and "FFN 3x" are published, and how many parameters there are. Inferred, and chosen here so that those come out
within 2.2 % (0.366, 0.817 and 3.24 billion for 0.37, 0.8 and 3.3): 8 of the 30 layers double, as in FLUX.2, and 22
single; the two halves of the gated FFN together 3 widths; heads of 128; text from Qwen3-4B. With 3 widths for each
half, as in FLUX.2 itself, no split of 30 layers is below 0.43 billion.
"""

from dataclasses import replace

from ..network.config import TransformerConfig
from .config import ModelSection


def _paper(width: int) -> TransformerConfig:
    return _plain(width, width // 128, 8, 22, 3 * width // 2, text_width=7680)


def _plain(width: int, heads: int, double: int, single: int, mlp: int, text_width: int) -> TransformerConfig:
    return TransformerConfig(width, heads, double, single, 0, mlp, text_width, depth_channels=0, cross_stream=False)


SIZES = {
    "flux2_klein_9b": _plain(4096, 32, 8, 24, 12288, text_width=12288),
    "flux2_klein_4b": _plain(3072, 24, 5, 20, 9216, text_width=7680),
    "paper_370m": _paper(1024),
    "paper_800m": _paper(1536),
    "paper_3b": _paper(3072),
}


def sizes_of(model: ModelSection, text_width: int | None) -> TransformerConfig:
    """The sizes of a fresh text-to-image model: those of a row, or the configuration's own, for a text encoder's width.

    `text_width` None: the row's.
    """
    if model.variant:
        row = SIZES[model.variant]
        return replace(row, text_width=text_width or row.text_width)
    mlp, width = model.mlp_ratio * model.hidden_size, text_width or TransformerConfig.text_width
    return _plain(model.hidden_size, model.num_heads, model.double_blocks, model.single_blocks, mlp, width)
