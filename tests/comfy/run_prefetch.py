"""Run by test_memory.py in a process of its own: the blocks that core's queue is asked for, and the results, as JSON.

The queue is the host's; that this machine's processor is a GPU, and what would copy weights to it, stand in.
"""

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # in the place of this folder

from tasks.commands import import_as_package  # noqa: E402

import_as_package()

from modality_forcing.tasks.bench import cost  # noqa: E402


def main() -> None:
    cost.import_host()
    import comfy.model_management as management
    import comfy.model_prefetch
    import comfy.ops
    from modality_forcing.model.network.config import TransformerConfig
    from modality_forcing.nodes.native.transformer import NativeTransformer

    config = TransformerConfig(64, 2, double_blocks=2, single_blocks=3, decoder_blocks=2, mlp_size=192, text_width=48)
    torch.manual_seed(0)
    network = NativeTransformer(config, torch.float32, "cpu", operations=comfy.ops.disable_weight_init)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    inputs = torch.randn(1, 384, 4, 4), torch.rand(1, 2), torch.randn(1, 6, 48)
    names = {layer: name for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)}
    blocks = {block: name for name, block in network.named_modules() if name.count(".") == 1 and "blocks" in name}
    events = []

    def copied(layers, *_args, **_kwargs):
        for layer in layers:
            layer._prefetch = {"signature": None}
        events.append(["loaded", sorted({".".join(names[layer].split(".")[:2]) for layer in layers}), len(layers)])
        return None, False

    with torch.inference_mode():
        plain = network(*inputs)
        for layer in names:
            layer._v = object()
        for block, name in blocks.items():
            block.register_forward_pre_hook(lambda *_, name=name: events.append(["run", name]))
        management.is_device_cpu = lambda _device: False
        management.device_supports_non_blocking = lambda _device: True
        management.NUM_STREAMS = 1
        comfy.ops.cast_modules_with_vbar = copied
        management.ensure_pin_registerable = management.sync_stream = lambda *_args: None
        options = {"prefetch_dynamic_vbars": True}
        runs = []
        for wanted in (("rgb", "depth"), ("rgb",)):
            events.clear()
            out = network(*inputs, transformer_options=options, wanted=wanted)
            channels = slice(0, 384 if "depth" in wanted else 128)
            runs.append([list(events), torch.equal(out[:, channels], plain[:, channels])])
    left = [name for layer, name in names.items() if hasattr(layer, "_prefetch")]
    sys.stdout.write(json.dumps({"runs": runs, "left": left}) + "\n")


if __name__ == "__main__":
    main()
