"""Processes, devices and precision: accelerate for the processes, torch's fully_shard where a model must be spread."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainingSection
from .optimisation import AveragedWeights, local

INSTALL = "training needs accelerate: pip install accelerate tensorboard tqdm"


def open_accelerator(training: TrainingSection) -> Any:
    """The accelerator of this process; processes are started by `accelerate launch` or `torchrun`."""
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError(INSTALL) from error
    # Unless told to use CPUs, accelerate lets processes on a machine without a GPU run side by side as strangers.
    several_on_cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    autocast = training.precision == "bfloat16" and training.sharding == "none"
    return Accelerator(
        cpu=several_on_cpu,
        mixed_precision="bf16" if autocast else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        step_scheduler_with_optimizer=False,
    )


class ParallelModel:
    """A transformer spread over the processes as the configuration says.

    `module` is the transformer itself, to be sampled from and saved; `training` is what the loss calls: the same
    weights, with gradients averaged over the processes. Weights are float32 in all cases.

    With bfloat16 and one copy per process the computation is autocast; with `fsdp` the gathered weights are bfloat16.
    In both the depth head stays float32, as in the released model: bfloat16 would show as bands in the depth.
    """

    def __init__(self, module: nn.Module, training: TrainingSection, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.sharded = training.sharding == "fsdp"
        dtype = getattr(torch, training.precision)
        module.gradient_checkpointing = training.gradient_checkpointing
        if self.sharded:
            self.module = self.training = shard(module, dtype, accelerator)
            return
        # Beside adapters, weights may be meant to stay in host memory.
        self.module = module if hasattr(module, "peft_config") else module.to(accelerator.device)
        head = getattr(module, "depth_final_layer", None)
        if dtype != torch.float32 and head is not None:
            head.forward = torch.autocast(accelerator.device.type, enabled=False)(head.forward)
        self.training = accelerator.prepare_model(self.module)
        if training.compile:
            self.training = torch.compile(self.training)

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around a backward pass. One copy for each process: gradients are exchanged in the last of a step only.

        Sharded gradients are exchanged in each pass: waiting would keep all of them, whole, in every process.
        """
        if self.sharded or last:
            yield
        else:
            with self.accelerator.no_sync(self.training):
                yield

    @contextmanager
    def averaged(self, averages: AveragedWeights) -> Iterator[None]:
        """The model computes with the averaged weights inside of this."""
        with averages.in_place():
            self._forget_gathered()
            yield
        self._forget_gathered()

    def _forget_gathered(self) -> None:
        """What is outside the blocks stays gathered after a forward pass: new weights would not be seen there."""
        from torch.distributed.fsdp import FSDPModule

        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def drop_unread(self, channels: int) -> None:
        """Without gradients of the input weights of RGB channels from `channels` on (see `ignore_channels`)."""
        gradient = self.module.img_in.weight.grad
        if gradient is not None:
            local(gradient)[:, channels:] = 0

    def clip(self, parameters: list[nn.Parameter], limit: float) -> Tensor:
        """Clip the gradient's norm over all processes; returns the norm before, a scalar on the device."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def shard(module: nn.Module, dtype: torch.dtype, accelerator: Any) -> nn.Module:
    """Spread a module's weights over all processes, block by block (torch's fully_shard, "FSDP2").

    Only the main process needs the weights; the module of the others may be on the meta device. The depth head is
    gathered and computed in float32, everything else in `dtype`.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    _start_group(accelerator)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))

    def policy(kind: torch.dtype) -> MixedPrecisionPolicy:
        # Inputs are cast by `_cast_inputs`: torch would cast the noise levels as well, which bfloat16 cannot hold.
        return MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32, cast_forward_inputs=False)

    state = module.state_dict() if accelerator.is_main_process else {}
    module.to("meta")
    module.register_forward_pre_hook(lambda _, args, kwargs: (_cast_inputs(args, dtype), kwargs), with_kwargs=True)
    for block in blocks(module):
        fully_shard(block, mesh=mesh, mp_policy=policy(dtype))
    if hasattr(module, "depth_final_layer"):
        fully_shard(module.depth_final_layer, mesh=mesh, mp_policy=policy(torch.float32))
    fully_shard(module, mesh=mesh, mp_policy=policy(dtype))
    module.to_empty(device=accelerator.device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(module, state, options=options)
    return module


def blocks(module: nn.Module) -> list[nn.Module]:
    """The transformer blocks, in order."""
    return [*module.double_blocks, *module.single_blocks, *getattr(module, "depth_decoder_blocks", [])]


def cast_inputs_to_weights(module: nn.Module) -> nn.Module:
    """Let a module take latents and text of any dtype; for the frozen teacher, which is kept in the compute dtype."""
    dtype = module.img_in.weight.dtype
    module.register_forward_pre_hook(lambda _, args, kwargs: (_cast_inputs(args, dtype), kwargs), with_kwargs=True)
    return module


def _cast_inputs(args: tuple, dtype: torch.dtype) -> tuple:
    """(rgb, depth, context, levels...): the levels stay float32."""
    return (*(None if x is None else x.to(dtype) for x in args[:3]), *args[3:])


def close(accelerator: Any) -> None:
    """Leave the group of processes together: one that ends early takes the others' connections down with it."""
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _start_group(accelerator: Any) -> None:
    """A process group of one, where the run was not started by a launcher: sharding needs one."""
    from torch import distributed

    if not distributed.is_initialized():
        backend = "nccl" if accelerator.device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
