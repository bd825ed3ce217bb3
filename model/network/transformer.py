"""The Modality Forcing transformer (arXiv 2606.13676): a FLUX.2 transformer with a depth stream and depth's own level.

Letters in shape comments: B batch, h and w latent rows and columns, C channels, L tokens, D hidden width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import TransformerConfig
from .layers import (
    AttentionFunction,
    DoubleBlock,
    Embedder,
    Head,
    Modulation,
    ModulationLayer,
    SingleBlock,
    rotary_table,
    timestep_embedding,
    torch_attention,
)

TIMESTEP_WIDTH = 256
IMAGE_TIME, DEPTH_TIME = 0, 1  # first rotary axis: tells the two modalities apart at the same row and column


class ModalityForcingTransformer(nn.Module):
    """Predicts the RGB velocity and the clean depth from noisy RGB, noisy depth, text and one level per modality.

    Text and image tokens are modulated by the RGB level, depth tokens by the depth level. With `depth=None` (or a
    configuration without depth) the same weights are a plain FLUX.2 text-to-image transformer.
    """

    attention: AttentionFunction = staticmethod(torch_attention)
    gradient_checkpointing: bool = False  # keep only the blocks' inputs and run each block again in the backward pass

    def __init__(
        self,
        config: TransformerConfig,
        dtype: torch.dtype | None = None,
        device: Any = None,
        operations: Any = nn,
        depth_head_operations: Any = None,
    ) -> None:
        """`operations` and `depth_head_operations` (the same unless given) make the layers that carry weights."""
        super().__init__()
        self.config = config
        D = config.hidden_size
        kwargs: dict[str, Any] = {"dtype": dtype, "device": device}

        def linear(inputs: int) -> nn.Module:
            return operations.Linear(inputs, D, bias=False, **kwargs)

        def embedder() -> Embedder:
            return Embedder(TIMESTEP_WIDTH, D, operations, **kwargs)

        def single_blocks(count: int) -> nn.ModuleList:
            sizes = (D, config.mlp_size, config.head_size)
            return nn.ModuleList(SingleBlock(*sizes, operations, **kwargs) for _ in range(count))

        self.img_in = linear(config.rgb_channels)
        self.txt_in = linear(config.text_width)
        self.time_in = embedder()
        self.double_blocks = nn.ModuleList(
            DoubleBlock(config.streams, D, config.mlp_size, config.head_size, operations, **kwargs)
            for _ in range(config.double_blocks)
        )
        self.single_blocks = single_blocks(config.single_blocks)
        for name in config.streams:
            setattr(self, f"double_stream_modulation_{name}", ModulationLayer(D, 2, operations, **kwargs))
        self.single_stream_modulation = ModulationLayer(D, 1, operations, **kwargs)
        self.final_layer = Head(D, config.rgb_channels, operations, **kwargs)
        if not config.has_depth:
            return

        self.depth_in = linear(config.depth_channels)
        self.time_in_depth = embedder()
        if config.cross_stream:
            self.time_in_depth_to_img = embedder()
            self.time_in_rgb_to_depth = embedder()
            self.cross_alpha_img = nn.Parameter(torch.zeros(1, dtype=torch.float32, device=device))
            self.cross_alpha_depth = nn.Parameter(torch.zeros(1, dtype=torch.float32, device=device))
        self.single_stream_modulation_depth = ModulationLayer(D, 1, operations, **kwargs)
        self.depth_decoder_blocks = single_blocks(config.decoder_blocks)
        self.depth_decoder_modulation = ModulationLayer(D, 1, operations, **kwargs)
        # Depth is a smooth ramp over [0, 2): in bfloat16 (8 bits) its output would show bands.
        self.depth_final_layer = Head(
            D, config.depth_channels, depth_head_operations or operations, dtype=torch.float32, device=device
        )

    def forward(
        self,
        rgb: Tensor,
        depth: Tensor | None,
        context: Tensor,
        t_rgb: Tensor,
        t_depth: Tensor | None = None,
        *,
        control: dict[str, Any] | None = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict both modalities.

        Args:
            rgb: (B,128,h,w) noisy RGB latent at level t_rgb.
            depth: (B,256,h,w) noisy depth latent at level t_depth, or None to run without depth tokens.
            context: (B,L,C) text embedding.
            t_rgb, t_depth: (B,) noise levels, 0 clean to 1 noise.
            control: ComfyUI control residuals for the image tokens.
            transformer_options: ComfyUI's dictionary of block replacements and attention overrides.

        Returns:
            RGB velocity (B,128,h,w) in the dtype of rgb, and clean depth (B,256,h,w) in float32 (None without depth).
        """
        options = dict(transformer_options or {})
        h, w = rgb.shape[-2:]
        tokens = {"txt": self.txt_in(context), "img": self.img_in(to_tokens(rgb))}
        if depth is not None:
            tokens["depth"] = self.depth_in(to_tokens(depth.to(rgb.dtype)))
        vec_rgb, vec_depth = self._condition(t_rgb, t_depth if depth is not None else None, rgb.dtype)
        rotary = rotary_table(position_ids(tokens, h, w), self.config.head_size, self.config.rope_theta)

        tokens = self._double(tokens, vec_rgb, vec_depth, rotary, control, options)
        tokens = self._single(tokens, vec_rgb, vec_depth, rotary, control, options)
        rgb_velocity = to_latent(self.final_layer(tokens["img"], vec_rgb), h, w)
        if depth is None:
            return rgb_velocity, None
        decoded = self._decode_depth(tokens["depth"], vec_depth, rotary, options)
        return rgb_velocity, to_latent(self.depth_final_layer(decoded.float(), vec_depth.float()), h, w)

    def _condition(self, t_rgb: Tensor, t_depth: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Conditioning vectors (B,D) of the two modalities; each also sees the other's level in "v2" models."""
        of_rgb = timestep_embedding(t_rgb).to(dtype)
        vec_rgb = self.time_in(of_rgb)
        if t_depth is None:
            return vec_rgb, None
        of_depth = timestep_embedding(t_depth).to(dtype)
        vec_depth = self.time_in_depth(of_depth)
        if self.config.cross_stream:
            vec_rgb = vec_rgb + self.cross_alpha_img.to(vec_rgb) * self.time_in_depth_to_img(of_depth)
            vec_depth = vec_depth + self.cross_alpha_depth.to(vec_depth) * self.time_in_rgb_to_depth(of_rgb)
        return vec_rgb, vec_depth

    def _double(self, tokens, vec_rgb, vec_depth, rotary, control, options) -> dict[str, Tensor]:
        """The double blocks. `options` may replace a block, as ComfyUI's `patches_replace` does for FLUX."""
        modulations = {
            name: getattr(self, f"double_stream_modulation_{name}")(vec_depth if name == "depth" else vec_rgb)
            for name in tokens
        }
        options.update(block_type="double", total_blocks=len(self.double_blocks))
        for i, block in enumerate(self.double_blocks):
            options["block_index"] = i

            def run(args: dict[str, Any], block: DoubleBlock = block) -> dict[str, Tensor]:
                streams = {name: args[name] for name in modulations}
                return self._run(block, streams, args["vec"], args["pe"], args["transformer_options"])

            args = {**tokens, "vec": modulations, "pe": rotary, "transformer_options": options}
            out = _replaceable(run, ("double_block", i), args, options)
            tokens = {name: out[name] for name in tokens}
            tokens["img"] = _add_control(tokens["img"], control, "input", i)
        return tokens

    def _single(self, tokens, vec_rgb, vec_depth, rotary, control, options) -> dict[str, Tensor]:
        """The single blocks, over the concatenation [text, image, depth]."""
        lengths = [x.shape[1] for x in tokens.values()]
        (modulation,) = self.single_stream_modulation(vec_rgb)
        if "depth" in tokens:
            (of_depth,) = self.single_stream_modulation_depth(vec_depth)
            modulation = _per_token(modulation, sum(lengths[:-1]), of_depth, lengths[-1])
        x = torch.cat(list(tokens.values()), dim=1)  # (B,L,D)
        image = slice(lengths[0], lengths[0] + lengths[1])
        options.update(
            block_type="single", total_blocks=len(self.single_blocks), img_slice=[lengths[0], lengths[0] + lengths[1]]
        )
        for i, block in enumerate(self.single_blocks):
            options["block_index"] = i

            def run(args: dict[str, Any], block: SingleBlock = block) -> dict[str, Tensor]:
                return {"img": self._run(block, args["img"], args["vec"], args["pe"], args["transformer_options"])}

            args = {"img": x, "vec": modulation, "pe": rotary, "transformer_options": options}
            x = _replaceable(run, ("single_block", i), args, options)["img"]
            if control is not None:
                x = torch.cat(
                    [x[:, : image.start], _add_control(x[:, image], control, "output", i), x[:, image.stop :]], 1
                )
        return dict(zip(tokens, x.split(lengths, dim=1), strict=True))

    def _decode_depth(self, x: Tensor, vec_depth: Tensor, rotary: tuple[Tensor, Tensor], options: dict) -> Tensor:
        """The depth decoder: single blocks over the depth tokens alone, which are the last of the sequence."""
        (modulation,) = self.depth_decoder_modulation(vec_depth)
        table = (rotary[0][-x.shape[1] :], rotary[1][-x.shape[1] :])
        options.update(block_type="depth_decoder", total_blocks=len(self.depth_decoder_blocks))
        for i, block in enumerate(self.depth_decoder_blocks):
            options["block_index"] = i
            x = self._run(block, x, modulation, table, options)
        return x

    def _run(self, block: nn.Module, tokens: Any, modulation: Any, rotary: Any, options: dict[str, Any]) -> Any:
        args = (tokens, modulation, rotary, self.attention, options)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


def to_tokens(latent: Tensor) -> Tensor:
    """(B,C,h,w) -> (B,h*w,C), row-major."""
    return latent.flatten(2).transpose(1, 2)


def to_latent(tokens: Tensor, h: int, w: int) -> Tensor:
    """(B,h*w,C) -> (B,C,h,w)."""
    return tokens.transpose(1, 2).unflatten(2, (h, w))


def position_ids(tokens: dict[str, Tensor], h: int, w: int) -> Tensor:
    """Rotary ids (L,4), axes (time, row, column, sequence): text counts on the last axis, grids on the middle two."""
    device = tokens["img"].device
    text = torch.zeros(tokens["txt"].shape[1], 4, device=device)
    text[:, 3] = torch.arange(text.shape[0], device=device)
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    parts = [text]
    for time in (IMAGE_TIME, DEPTH_TIME)[: len(tokens) - 1]:
        grid = torch.stack([torch.full_like(rows, time), rows, columns, torch.zeros_like(rows)], dim=-1)  # (h,w,4)
        parts.append(grid.flatten(0, 1).float())
    return torch.cat(parts)


def _per_token(first: Modulation, first_length: int, second: Modulation, second_length: int) -> Modulation:
    """One modulation for a sequence whose first tokens follow `first` and the others `second`: fields (B,L,D)."""
    return Modulation(
        *(
            torch.cat([a.expand(-1, first_length, -1), b.expand(-1, second_length, -1)], dim=1)
            for a, b in zip(first, second, strict=True)
        )
    )


def _replaceable(run, key: tuple[str, int], args: dict[str, Any], options: dict[str, Any]) -> dict[str, Tensor]:
    """Call a block, or what the host put in its place (ComfyUI's `patches_replace["dit"]`)."""
    replacement = options.get("patches_replace", {}).get("dit", {}).get(key)
    return run(args) if replacement is None else replacement(args, {"original_block": run})


def _add_control(image: Tensor, control: dict[str, Any] | None, place: str, index: int) -> Tensor:
    """Add a control residual (B,L',D) to the first L' image tokens."""
    residuals = (control or {}).get(place) or []
    residual = residuals[index] if index < len(residuals) else None
    if residual is None:
        return image
    length = residual.shape[1]
    return torch.cat([image[:, :length] + residual, image[:, length:]], dim=1)
