"""Run by test_memory.py in a process of its own: the bundled model under ComfyUI's dynamic VRAM, as JSON.

Core's ModelPatcherDynamic, its queue, casts and sampler run as they are. What stands in: a name of this machine's
processor is the GPU, and comfy-aimdo's memory of a GPU, which has room for everything or for a part of the weights.
"""

import ctypes
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # in the place of this folder

from tasks.commands import import_as_package  # noqa: E402

import_as_package()

from modality_forcing.tasks import SMALL_MODEL  # noqa: E402
from modality_forcing.tasks.bench import cost  # noqa: E402

GPU = torch.device("cpu", 0)  # for torch the processor too, for ComfyUI another device than "cpu"
EVERYTHING, A_PART = 1 << 30, 4 << 20


class Memory:
    """In the place of comfy-aimdo's ModelVBAR: what fits into `room` bytes stays, the rest is never there."""

    room, pinned = 0, 0

    def __init__(self, size, _device):
        self.space, self.used, self.ends = ctypes.create_string_buffer(int(size)), 0, {}

    def alloc(self, size):
        start = ctypes.addressof(self.space) + self.used
        self.used += -(-size // 512) * 512
        self.ends[start] = self.used
        return self, start, size

    def fault(self, address, _size):
        if self.ends[address] > Memory.room:
            return None
        Memory.pinned += 1
        return (ctypes.c_uint32 * 1)(1)

    def unpin(self, _address, _size):
        Memory.pinned -= 1

    def prioritize(self):
        return None

    def loaded_size(self):
        return min(self.used, Memory.room)

    def free_memory(self, _size):
        return 0


class HostBuffer:
    """In the place of comfy-aimdo's, for pinned memory, which is switched off here."""

    size = 0

    def __init__(self, *_sizes):
        pass


def stand_in() -> None:
    """Make core take the GPU for one, and give it memory there."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.ops
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_vbar
    import comfy_aimdo.torch

    management.is_device_cpu = lambda _device: False
    management.device_supports_non_blocking = lambda _device: True
    management.get_torch_device = lambda: GPU
    management.NUM_STREAMS = 1
    management.args.disable_pinned_memory = management.args.fast_disk = True
    comfy_aimdo.model_vbar.ModelVBAR = Memory
    comfy_aimdo.host_buffer.HostBuffer = HostBuffer
    comfy_aimdo.torch.aimdo_to_tensor = lambda alloc, _device: torch.frombuffer(
        (ctypes.c_uint8 * alloc[2]).from_address(alloc[1]), dtype=torch.uint8
    )
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    cast = comfy.ops.cast_bias_weight
    comfy.ops.cast_bias_weight = lambda layer, x=None, dtype=None, device=None, bias_dtype=None, **more: cast(
        layer, x, x.dtype if dtype is None else dtype, GPU, bias_dtype, **more
    )


def main() -> None:
    cost.import_host()
    import comfy.samplers
    from modality_forcing.model.diffusion.given import Given
    from modality_forcing.nodes.native.loading import load_model
    from modality_forcing.nodes.native.model import given_key

    torch.manual_seed(0)
    noise, depth = torch.randn(1, 384, 4, 4), torch.rand(1, 256, 4, 4)

    def sampled(patcher, given):
        conds = {given_key("depth"): Given(depth, None, 1.0, 0.0, 1.0)} if given else {}
        texts = torch.randn(2, 1, 6, patcher.model.diffusion_model.config.text_width, generator=torch.manual_seed(1))
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(*([[text, conds]] for text in texts))
        guider.set_cfg(2.0)
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.6, 0.0])
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)

    plain = {given: sampled(load_model(str(SMALL_MODEL)), given) for given in (False, True)}
    stand_in()
    runs = []
    for room, given in ((EVERYTHING, False), (A_PART, False), (A_PART, True)):
        Memory.room = room
        patcher = load_model(str(SMALL_MODEL))
        layers, events = watched(patcher.model.diffusion_model)
        is_equal = torch.equal(sampled(patcher, given), plain[given])
        kept = [hasattr(layer, "_v_weight") for layer in layers if hasattr(layer, "_v")]
        left = Memory.pinned + sum(hasattr(layer, "_prefetch") for layer in layers)
        runs.append(
            {"patcher": type(patcher).__name__, "equal": is_equal, "events": events, "kept": kept, "left": left}
        )
    sys.stdout.write(json.dumps(runs) + "\n")


def watched(network):
    """All layers; and a list that gets for each block that runs its name, how many of its weights the GPU's memory is
    for, how many of these are fetched, and how many of other blocks."""
    events = []
    blocks = {module: name for name, module in network.named_modules() if name.count(".") == 1 and "blocks" in name}

    def seen(block, _inputs):
        own = [layer for layer in block.modules() if hasattr(layer, "_v")]
        fetched = [layer for layer in network.modules() if hasattr(layer, "_prefetch")]
        events.append([blocks[block], len(own), len(set(own) & set(fetched)), len(set(fetched) - set(own))])

    for block in blocks:
        block.register_forward_pre_hook(seen)
    return list(network.modules()), events


if __name__ == "__main__":
    main()
