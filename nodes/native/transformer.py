"""The network as ComfyUI runs it: its calling convention, kernels, wrappers and layers."""

from typing import Any

import comfy.ops
import comfy.patcher_extension
import torch

from ...model.network.config import TransformerConfig
from ...model.network.transformer import ModalityForcingTransformer
from .kernels import HostKernels
from .latent_format import JOINT_CHANNELS, PARTS


class NativeTransformer(ModalityForcingTransformer):
    """The transformer with ComfyUI's calling convention, kernels and layers."""

    kernels = HostKernels()

    def __init__(self, transformer: TransformerConfig, dtype=None, device=None, operations=None, **_sizes: Any) -> None:
        # Operations of quantised files would bring the depth head to bfloat16; these keep its float32.
        super().__init__(transformer, dtype, device, operations, depth_head_operations=comfy.ops.manual_cast)
        self.dtype = dtype
        self.in_channels = JOINT_CHANNELS  # RenormCFG reads it

    def forward(self, x, timestep, context=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        """x: (B,384,h,w); timestep: (B,2) levels of RGB and depth -> (B,384,h,w) velocity and clean depth, float32."""
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        if "easycache" in transformer_options:
            # EasyCache holds output - input of a step, in place on its input. With the input added to the output it
            # holds the velocity of RGB and the clean depth, which is what changes little.
            seen, kwargs["seen_as"] = x.float(), x.dtype
            executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._with_input, self, wrappers)
            return executor.execute(seen.clone(), timestep, context, control, transformer_options, **kwargs) - seen
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, control, transformer_options, **kwargs)

    def _with_input(self, x, *args, seen_as: torch.dtype, **kwargs):
        return x + self._forward(x.to(seen_as), *args, **kwargs)

    def _forward(self, x, timestep, context=None, control=None, transformer_options={}, wanted=PARTS, **_kwargs):  # noqa: B006
        velocity, depth = super().forward(
            x[:, PARTS["rgb"]],
            x[:, PARTS["depth"]],
            context,
            *timestep.unbind(1),
            control=control,
            transformer_options=transformer_options,
            wanted=tuple(wanted),
        )
        results = {"rgb": velocity, "depth": depth}
        heads = [x.new_zeros(x[:, part].shape) if results[m] is None else results[m] for m, part in PARTS.items()]
        return torch.cat([head.float() for head in heads], dim=1)
