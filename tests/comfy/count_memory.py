"""Run by test_memory.py in a process of its own: what a step costs at the released size, and what the model reserves
over what one call really holds, as JSON.

Counted on torch's meta device; the memory at the released width with fewer blocks: the most is held inside one block.
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
    import comfy.ops
    from modality_forcing.model.network.config import TransformerConfig
    from modality_forcing.nodes.native.model import ModalityForcingModel
    from modality_forcing.nodes.native.transformer import NativeTransformer

    config = TransformerConfig(double_blocks=1, single_blocks=2, decoder_blocks=1)
    operations = comfy.ops.disable_weight_init
    with torch.device("meta"):
        network = NativeTransformer(config, dtype=torch.bfloat16, device="meta", operations=operations)
    model = ModalityForcingModel.__new__(ModalityForcingModel)
    torch.nn.Module.__init__(model)
    model.diffusion_model, model.manual_cast_dtype = network, None
    comfy.model_management.pytorch_attention_flash_attention = lambda: True  # the attention of GPUs
    ratios = {}
    for side in (512, 768, 1024):
        for batch in (1, 2, 8, 16):  # up to a batch of 8 with guidance
            grid = side // 16
            joint = torch.empty(batch, 384, grid, grid, dtype=torch.bfloat16, device="meta")
            text = torch.empty(batch, 512, config.text_width, dtype=torch.bfloat16, device="meta")
            levels = torch.empty(batch, 2, device="meta")
            with torch.inference_mode(), cost.Counter() as counter:
                network(joint, levels, text)
            reserved = model.memory_required(list(joint.shape), {"c_crossattn": [list(text.shape)]})
            ratios[f"{side} x {batch}"] = reserved / counter.peak
    step = {"fused": network.kernels.fused, **cost.count(cost.native_call(512))}
    sys.stdout.write(json.dumps({"step": step, "ratios": ratios}) + "\n")


if __name__ == "__main__":
    main()
