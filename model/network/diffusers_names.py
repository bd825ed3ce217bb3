"""Our keys of FLUX.2's part of the network, and diffusers' (Flux2Transformer2DModel) that hold the same rows."""

import re

SWAPPED_HALVES = "final_layer.adaLN_modulation.1.weight"  # shift | scale here, scale | shift there

# Patterns of our keys, and the diffusers keys whose rows follow each other in them.
NAMES = {
    r"img_in\.(\w+)": (r"x_embedder.\1",),
    r"txt_in\.(\w+)": (r"context_embedder.\1",),
    r"time_in\.in_layer\.(\w+)": (r"time_guidance_embed.timestep_embedder.linear_1.\1",),
    r"time_in\.out_layer\.(\w+)": (r"time_guidance_embed.timestep_embedder.linear_2.\1",),
    r"(\w+_modulation\w*)\.lin\.(\w+)": (r"\1.linear.\2",),
    r"final_layer\.linear\.(\w+)": (r"proj_out.\1",),
    r"final_layer\.adaLN_modulation\.1\.(\w+)": (r"norm_out.linear.\1",),
    r"double_blocks\.(\d+)\.img_attn\.qkv\.(\w+)": tuple(rf"transformer_blocks.\1.attn.to_{x}.\2" for x in "qkv"),
    r"double_blocks\.(\d+)\.img_attn\.proj\.(\w+)": (r"transformer_blocks.\1.attn.to_out.0.\2",),
    r"double_blocks\.(\d+)\.img_attn\.norm\.([qk])\w+\.scale": (r"transformer_blocks.\1.attn.norm_\2.weight",),
    r"double_blocks\.(\d+)\.txt_attn\.qkv\.(\w+)": tuple(rf"transformer_blocks.\1.attn.add_{x}_proj.\2" for x in "qkv"),
    r"double_blocks\.(\d+)\.txt_attn\.proj\.(\w+)": (r"transformer_blocks.\1.attn.to_add_out.\2",),
    r"double_blocks\.(\d+)\.txt_attn\.norm\.([qk])\w+\.scale": (r"transformer_blocks.\1.attn.norm_added_\2.weight",),
    r"double_blocks\.(\d+)\.img_mlp\.0\.(\w+)": (r"transformer_blocks.\1.ff.linear_in.\2",),
    r"double_blocks\.(\d+)\.img_mlp\.2\.(\w+)": (r"transformer_blocks.\1.ff.linear_out.\2",),
    r"double_blocks\.(\d+)\.txt_mlp\.0\.(\w+)": (r"transformer_blocks.\1.ff_context.linear_in.\2",),
    r"double_blocks\.(\d+)\.txt_mlp\.2\.(\w+)": (r"transformer_blocks.\1.ff_context.linear_out.\2",),
    r"single_blocks\.(\d+)\.linear1\.(\w+)": (r"single_transformer_blocks.\1.attn.to_qkv_mlp_proj.\2",),
    r"single_blocks\.(\d+)\.linear2\.(\w+)": (r"single_transformer_blocks.\1.attn.to_out.\2",),
    r"single_blocks\.(\d+)\.norm\.([qk])\w+\.scale": (r"single_transformer_blocks.\1.attn.norm_\2.weight",),
}


def diffusers_keys(key: str) -> list[str]:
    """The diffusers keys that make up one of our keys, in order of rows. Raises KeyError for a key that has none."""
    for pattern, names in NAMES.items():
        match = re.fullmatch(pattern, key)
        if match:
            return [match.expand(name) for name in names]
    raise KeyError(key)
