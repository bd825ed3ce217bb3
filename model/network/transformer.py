"""The Modality Forcing transformer (arXiv 2606.13676): a FLUX.2 transformer with a depth stream and depth's own level.

Letters in shape comments: B batch, h and w latent rows and columns, C channels, L tokens, D hidden width.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import TransformerConfig
from .kernels import Fetch, Kernels, Options, Table
from .layers import DoubleBlock, Embedder, Head, ModulationLayer, SingleBlock, timestep_embedding

TIMESTEP_WIDTH = 256
IMAGE_TIME, DEPTH_TIME = 0, 1  # first rotary axis: tells the two modalities apart at the same row and column
MODALITIES = ("rgb", "depth")


class ModalityForcingTransformer(nn.Module):
    """Predicts the RGB velocity and the clean depth from noisy RGB, noisy depth, text and one level per modality.

    Text and image tokens are modulated by the RGB level, depth tokens by the depth level. With `depth=None` (or a
    configuration without depth) the same weights are a plain FLUX.2 text-to-image transformer.
    """

    kernels = Kernels()
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
        if config.decoder_blocks:
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
        transformer_options: Options | None = None,
        wanted: Collection[str] = MODALITIES,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Predict both modalities.

        Args:
            rgb: (B,128,h,w) noisy RGB latent at level t_rgb.
            depth: (B,256,h,w) noisy depth latent at level t_depth, or None to run without depth tokens.
            context: (B,L,C) text embedding.
            t_rgb, t_depth: (B,) noise levels, 0 clean to 1 noise.
            control: ComfyUI control residuals for the image tokens.
            transformer_options: ComfyUI's dictionary of block replacements and attention overrides.
            wanted: the modalities to predict. What only the other one needs is not computed.

        Returns:
            RGB velocity (B,128,h,w) in the dtype of rgb, and clean depth (B,256,h,w) in float32. None for what is not
            wanted, and for depth without depth tokens.
        """
        options = dict(transformer_options or {})
        h, w = rgb.shape[-2:]
        tokens = {"txt": self.txt_in(context), "img": self.img_in(to_tokens(rgb))}
        if depth is not None:
            tokens["depth"] = self.depth_in(to_tokens(depth.to(rgb.dtype)))
        vec_rgb, vec_depth = self._condition(t_rgb, t_depth if depth is not None else None, rgb.dtype)
        tokens, ids = self.kernels.embedded(tokens, position_ids(tokens, h, w), options)
        table = self.kernels.rotary(torch.cat(list(ids.values())), self.config.head_size, self.config.rope_theta)

        decoder = self.depth_decoder_blocks if "depth" in wanted and depth is not None else ()
        blocks = [*self.double_blocks, *self.single_blocks, *decoder]
        fetch = self.kernels.prefetch(blocks, rgb.device, options)
        tokens = self._double(tokens, vec_rgb, vec_depth, table, control, options, fetch)
        last = next(iter(wanted)) if len(wanted) == 1 and depth is not None else None
        parts = self._single(tokens, vec_rgb, vec_depth, table, control, options, fetch, last)
        del tokens
        rgb_velocity = depth_x0 = None
        if "rgb" in wanted:
            image = parts.pop("rgb")[:, -h * w :]
            rgb_velocity = to_latent(self.final_layer(image, vec_rgb, self.kernels), h, w)
        if "depth" in wanted and depth is not None:
            decoded = self._decode_depth(parts.pop("depth"), vec_depth, table, options, fetch)
            depth_x0 = to_latent(self.depth_final_layer(decoded.float(), vec_depth.float(), self.kernels), h, w)
        fetch(None)
        return rgb_velocity, depth_x0

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

    def _double(self, tokens, vec_rgb, vec_depth, table, control, options, fetch) -> dict[str, Tensor]:
        """The double blocks. `options` may replace a block, as ComfyUI's `patches_replace` does for FLUX."""
        modulations = {
            name: getattr(self, f"double_stream_modulation_{name}")(
                vec_depth if name == "depth" else vec_rgb, self.kernels
            )
            for name in tokens
        }
        text = tokens["txt"].shape[1]
        options.update(block_type="double", total_blocks=len(self.double_blocks))
        options["img_slice"] = [text, text + tokens["img"].shape[1]]
        for i, block in enumerate(self.double_blocks):
            options["block_index"] = i
            fetch(block)

            def run(args: dict[str, Any], block: DoubleBlock = block) -> dict[str, Tensor]:
                streams = {name: args[name] for name in modulations}
                return self._run(block, streams, args["vec"], args["pe"], args["transformer_options"])

            replacement = _replacement(("double_block", i), options)
            args = {**tokens, "vec": modulations, "pe": table, "transformer_options": options}
            out = run(args) if replacement is None else replacement(args, {"original_block": run})
            tokens = {name: out[name] for name in tokens}
            del args, out
            tokens["img"] = _add_control(tokens["img"], control, "input", i)
        return tokens

    def _single(self, tokens, vec_rgb, vec_depth, table, control, options, fetch, last) -> dict[str, Tensor]:
        """The single blocks, over [text, image] at the RGB level, then depth at its own: parts "rgb" and "depth".

        `last`: the only part that anything reads of the last block, or None.
        """
        text = tokens["txt"].shape[1]
        parts = {"rgb": torch.cat([tokens.pop("txt"), tokens.pop("img")], dim=1)}
        modulations = {"rgb": self.single_stream_modulation(vec_rgb, self.kernels)[0]}
        if "depth" in tokens:
            parts["depth"] = tokens.pop("depth")
            modulations["depth"] = self.single_stream_modulation_depth(vec_depth, self.kernels)[0]
        lengths = [x.shape[1] for x in parts.values()]
        if options.get("patches") or options.get("patches_replace"):
            last = None  # they expect whole sequences
        options.update(block_type="single", total_blocks=len(self.single_blocks))
        for i, block in enumerate(self.single_blocks):
            options["block_index"] = i
            fetch(block)

            def run(args: dict[str, Any], block: SingleBlock = block) -> dict[str, Tensor]:
                whole = dict(zip(modulations, args["img"].split(lengths, dim=1), strict=True))
                out = self._run(block, whole, args["vec"], args["pe"], args["transformer_options"])
                return {"img": torch.cat(list(out.values()), dim=1)}

            replacement = _replacement(("single_block", i), options)
            if replacement is None:
                only = last if i == len(self.single_blocks) - 1 else None
                parts = self._run(block, parts, modulations, table, options, only)
            else:
                args = {"img": torch.cat(list(parts.values()), dim=1), "vec": modulations, "pe": table}
                out = replacement({**args, "transformer_options": options}, {"original_block": run})
                parts = dict(zip(modulations, out["img"].split(lengths, dim=1), strict=True))
            if "rgb" in parts:
                parts["rgb"] = _add_control(parts["rgb"], control, "output", i, start=text)
        return parts

    def _decode_depth(self, x: Tensor, vec_depth: Tensor, table: Table, options: Options, fetch: Fetch) -> Tensor:
        """The depth decoder: single blocks over the depth tokens alone, which are the last of the sequence."""
        if not len(self.depth_decoder_blocks):
            return x
        modulations = {"depth": self.depth_decoder_modulation(vec_depth, self.kernels)[0]}
        table = self.kernels.part(table, -x.shape[1], None)
        options.update(block_type="depth_decoder", total_blocks=len(self.depth_decoder_blocks))
        options["img_slice"] = [0, x.shape[1]]
        parts = {"depth": x}
        for i, block in enumerate(self.depth_decoder_blocks):
            options["block_index"] = i
            fetch(block)
            parts = self._run(block, parts, modulations, table, options)
        return parts["depth"]

    def _run(self, block: nn.Module, tokens: Any, modulations: Any, table: Table, options: Options, *more: Any) -> Any:
        args = (tokens, modulations, table, self.kernels, options, *more)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


def to_tokens(latent: Tensor) -> Tensor:
    """(B,C,h,w) -> (B,h*w,C), row-major."""
    return latent.flatten(2).transpose(1, 2)


def to_latent(tokens: Tensor, h: int, w: int) -> Tensor:
    """(B,h*w,C) -> (B,C,h,w)."""
    return tokens.transpose(1, 2).unflatten(2, (h, w))


def position_ids(tokens: dict[str, Tensor], h: int, w: int) -> dict[str, Tensor]:
    """Rotary ids (L_s,4) of each stream, axes (time, row, column, sequence): text counts on the last, grids on the
    middle two."""
    device = tokens["img"].device
    text = torch.zeros(tokens["txt"].shape[1], 4, device=device)
    text[:, 3] = torch.arange(text.shape[0], device=device)
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    ids = {"txt": text}
    for name, time in (("img", IMAGE_TIME), ("depth", DEPTH_TIME)):
        if name in tokens:
            grid = torch.stack([torch.full_like(rows, time), rows, columns, torch.zeros_like(rows)], dim=-1)  # (h,w,4)
            ids[name] = grid.flatten(0, 1).float()
    return ids


def _replacement(key: tuple[str, int], options: Options) -> Any:
    """What the host put in a block's place (ComfyUI's `patches_replace["dit"]`), or None."""
    return options.get("patches_replace", {}).get("dit", {}).get(key)


def _add_control(x: Tensor, control: dict[str, Any] | None, place: str, index: int, start: int = 0) -> Tensor:
    """Add a control residual (B,L',D) to the tokens from `start` on."""
    residuals = (control or {}).get(place) or []
    residual = residuals[index] if index < len(residuals) else None
    if residual is None:
        return x
    stop = start + residual.shape[1]
    return torch.cat([x[:, :start], x[:, start:stop] + residual, x[:, stop:]], dim=1)
