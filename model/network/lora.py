"""LoRAs of FLUX.2 and of ours: which weight a name in a file means, and which stream that weight serves."""

import re
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from .diffusers_names import SWAPPED_HALVES, diffusers_keys

STREAMS = ("image", "text", "depth")
# What follows the name of a layer in a file: LoRA, LyCORIS (LoHa, LoKr, OFT), whole differences.
ENDS = re.compile(
    r"\.(lora_(up|down|mid|A|B)\b.*|lora\.(up|down)\b.*|lora_linear_layer\b.*|hada_\w+|lokr_\w+|oft_\w+|a[12]\.weight|"
    r"b[12]\.weight|alpha|dora_scale|diff|diff_b|set_weight|reshape_weight|w_norm|b_norm|rescale|on_input)$"
)
UP_ENDS = (".lora_up.weight", ".lora_B.weight", ".lora.up.weight")
DOWN_ENDS = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight")
Rows = slice | None  # of the weight that a part of a LoRA changes; None: all


def layer_names(keys: Iterable[str]) -> set[str]:
    """The layers that a file's keys speak of, by the file's own names."""
    return {ENDS.sub("", key) for key in keys}


def names_of(key: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Rows]]:
    """The names under which files know a weight ("double_blocks.0.img_attn.qkv.weight"), and the rows that each means.

    ComfyUI's, the released prefix `dit.`, none, kohya's and LyCORIS' for our names; for those of diffusers also theirs.
    """
    layer = key.removesuffix(".weight")
    for prefix in ("diffusion_model.", "dit.", "model.diffusion_model.", ""):
        yield f"{prefix}{layer}", None
    for prefix in ("lora_unet_", "lycoris_"):
        yield f"{prefix}{layer.replace('.', '_')}", None
    try:
        sources = diffusers_keys(key)
    except KeyError:
        return
    if key == SWAPPED_HALVES:
        return
    size = shape[0] // len(sources)
    for index, source in enumerate(sources):
        rows = slice(index * size, (index + 1) * size) if len(sources) > 1 else None
        source = source.removesuffix(".weight")
        for prefix in ("transformer.", "diffusion_model.", "base_model.model.", ""):
            yield f"{prefix}{source}", rows
        for prefix in ("lora_transformer_", "lora_unet_", "lycoris_"):
            yield f"{prefix}{source.replace('.', '_')}", rows


def stream_of(key: str) -> str:
    """Which of `STREAMS` a weight serves; what all tokens share counts as image."""
    if re.search(r"(^|[._])txt_|_txt\.", key):
        return "text"
    return "depth" if "depth" in key else "image"


def depth_twin(key: str) -> str | None:
    """Depth's own weight of a double block, which began as a copy of the image's; None for all others."""
    twin = re.sub(r"(double_blocks\.\d+\.)img_", r"\1depth_", key)
    return None if twin == key else twin


def check_sizes(name: str, tensors: Mapping[str, Tensor], shape: tuple[int, ...], rows: Rows) -> None:
    """ValueError if a LoRA pair does not fit the (N,K) weight that its name means."""
    want = (rows.stop - rows.start if rows else shape[0], shape[1])
    up = next((tensors[name + end] for end in UP_ENDS if name + end in tensors), None)
    down = next((tensors[name + end] for end in DOWN_ENDS if name + end in tensors), None)
    if up is not None and down is not None and (up.shape[0], down.shape[1]) != want:
        raise ValueError(
            f"{name} changes a weight of {up.shape[0]} x {down.shape[1]}; this model's has {want[0]} x {want[1]}. The "
            "LoRA is of another model (FLUX.2 klein has several sizes): expected one of the size that this began with"
        )
