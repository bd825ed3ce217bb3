"""``run.py bench quantise``: what each format of ``run.py quantise`` costs in accuracy, with and without kept layers.

Weights are rounded as the file has them and multiplied out in float32. What a device rounds on top (activations in 8 or
4 bits) shows in the last table, and is a GPU's to tell for pictures.

1. bundled model  file size, weights' relative error by group of layers; held-out scenes, image -> depth: AbsRel between
                  the depth of the rounded and of the whole model, and against the truth; prompts, joint: the picture's
                  RMS change (of 1) and the depth's AbsRel, which grows where two trajectories part
2. released size  bytes of the file, counted from the shapes of a bf16 checkpoint
3. wide layers    4096 x 4096 with heavy-tailed weights (Student's t, 4 degrees of freedom) and activations (3): the
                  output's relative error from rounded weights alone, and as ComfyUI multiplies
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ...model.demo import CODEC_FILE, WORDS_FILE
from ...model.demo.image_codec import ImageCodec
from ...model.demo.text import TextEncoder
from ...model.depth import codec as depth_codec
from ...model.depth.alignment import evaluate
from ...model.diffusion.sampling import sample
from ...model.network.checkpoint import expected_shapes, load_transformer
from ...model.network.config import TransformerConfig
from ...model.network.kitchen import CLASSES, multiplied_out
from ...model.network.quantise import NOTES, note_of, quantise, stored, stored_bytes
from .. import SMALL_MODEL
from ..small_model.held_out import MAX_CODE, held_out
from ..workflows.settings import SIDE

STEPS, GUIDANCE, LOG2_ALPHA = 8, 2.0, 2.0
GROUPS = {
    "double": "double_blocks",
    "single": "single_blocks",
    "decoder": "depth_decoder_blocks",
    "modulation": "modulation.lin",
    "inputs": "_in.weight",
    "time": "time_in",
    "heads": "final_layer",
}
WIDTH, ROWS = 4096, 256


class Bundled:
    """The bundled model's results on scenes that it has not seen, and on their captions, always from the same noise."""

    def __init__(self, count: int) -> None:
        self.scenes = held_out(count, style="mixed")
        self.codec = ImageCodec.load(SMALL_MODEL.parent / CODEC_FILE)
        words = TextEncoder.load(SMALL_MODEL.parent / WORDS_FILE)
        self.text, self.empty = words.encode(self.scenes.captions), words.encode([""])
        generator = torch.Generator().manual_seed(0)
        shape = (count, 384, SIDE // 16, SIDE // 16)
        self.rgb, self.depth = torch.randn(shape, generator=generator).split([128, 256], dim=1)
        with torch.no_grad():
            self.given = self.codec.encode(self.scenes.rgb)

    def image_to_depth(self, module: torch.nn.Module) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        _, codes = sample(module, self.given, self.depth, self.empty, None, steps=STEPS, mode="i2d")
        return depth_codec.decode(codes.clamp(0.01, MAX_CODE))

    def joint(self, module: torch.nn.Module) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        torch.manual_seed(0)
        settings = {"steps": STEPS, "mode": "joint", "cfg": GUIDANCE, "log2_alpha": LOG2_ALPHA}
        rgb, codes = sample(module, self.rgb, self.depth, self.text, self.empty, **settings)
        with torch.no_grad():
            return self.codec.decode(rgb).clamp(0, 1), depth_codec.decode(codes.clamp(0.01, MAX_CODE))


def abs_rel(predicted: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
    """Percent, scale and shift fitted."""
    return 100 * float(evaluate(predicted[0], reference[0], predicted[1], reference[1]).abs_rel.nanmean())


def group_errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> list[str]:
    """Relative error of all weights of a group, in percent."""
    cells = []
    for part in GROUPS.values():
        keys = [key for key in want if part in key and want[key].ndim == 2]
        off = sum(float((got[key] - want[key]).square().sum()) for key in keys)
        whole = sum(float(want[key].square().sum()) for key in keys)
        cells.append(f"{100 * (off / whole) ** 0.5:.2f}" if off else "kept")
    return cells


def bundled_table(count: int) -> None:
    bundled, module = Bundled(count), load_transformer(SMALL_MODEL)
    want, picture = module.state_dict(), bundled.joint(module)
    depth, truth = bundled.image_to_depth(module), (bundled.scenes.depth, bundled.scenes.valid)
    print(
        f"| format | kept | MB | {' | '.join(f'{name} %' for name in GROUPS)} | i2d change % | i2d truth % "
        "| joint picture | joint depth % |\n" + "|---" * (len(GROUPS) + 7) + "|"
    )
    size = SMALL_MODEL.stat().st_size / 1e6
    print(f"| as it is | | {size:.1f} |{' |' * len(GROUPS)} 0 | {abs_rel(depth, truth):.2f} | 0 | 0 |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in NOTES:
            for everything in (False, True):
                path = quantise(
                    SMALL_MODEL, Path(folder) / f"{name}{everything}.safetensors", name, everything=everything
                )
                rounded = load_transformer(path)
                new_depth, new_picture = bundled.image_to_depth(rounded), bundled.joint(rounded)
                rms = float((new_picture[0] - picture[0]).square().mean().sqrt())
                print(
                    f"| {name} | {'depth head' if everything else 'all outside the blocks'} "
                    f"| {path.stat().st_size / 1e6:.1f} | {' | '.join(group_errors(rounded.state_dict(), want))} "
                    f"| {abs_rel(new_depth, depth):.2f} | {abs_rel(new_depth, truth):.2f} | {rms:.4f} "
                    f"| {abs_rel(new_picture[1], picture[1]):.2f} |",
                    flush=True,
                )


def released_table() -> None:
    shapes = expected_shapes(TransformerConfig())
    print(
        "\n| format | GB of the released model, all outside the blocks kept | only the depth head kept |\n|---|---|---|"
    )
    for name in ("bf16", *NOTES):
        sizes = []
        for everything in (False, True):
            total = 0
            for key, shape in shapes.items():
                note = note_of(key, shape, name, everything) if name in NOTES else None
                total += stored_bytes(shape, note) if note else 2 * torch.Size(shape).numel()
            sizes.append(f"{total / 1e9:.1f}")
        print(f"| {name} | {' | '.join(sizes)} |")


def wide_table() -> None:
    torch.manual_seed(0)
    weight = torch.distributions.StudentT(4.0).sample((WIDTH, WIDTH)) * WIDTH**-0.5
    x = torch.distributions.StudentT(3.0).sample((ROWS, WIDTH))
    want = x @ weight.T
    print("\n| format | weights alone % | with activations % |\n|---|---|---|")
    for name in NOTES:
        note = note_of("single_blocks.0.linear2.weight", (WIDTH, WIDTH), name)
        parts = stored(weight, note)
        data = parts.pop("weight")
        rounded = (
            data.float() * parts["weight_scale"] if name == "fp8" else multiplied_out(data, parts, note, weight.shape)
        )
        alone = (x @ rounded.T - want).norm() / want.norm()
        whole = _as_host(x, weight, note)
        print(f"| {name} | {100 * alone:.2f} | {100 * (whole - want).norm() / want.norm():.2f} |", flush=True)


def _as_host(x: Tensor, weight: Tensor, note: dict) -> Tensor:
    """The product as ComfyUI's quantised layer has it: activations rounded too, by a scale of their own."""
    from comfy_kitchen.tensor import QuantizedTensor, TensorCoreFP8Layout

    layout = CLASSES.get(note["format"], TensorCoreFP8Layout)
    settings = {key: note[key] for key in ("convrot", "convrot_groupsize", "group_size") if key in note}
    if note["format"] == "int8_tensorwise":
        settings["per_channel"] = True
    if note["format"] == "float8_e4m3fn":
        settings["scale"] = weight.abs().amax() / torch.finfo(torch.float8_e4m3fn).max
    stored_weight = QuantizedTensor.from_float(weight.bfloat16(), layout.__name__, **settings)
    x = x.bfloat16()
    if note["format"] in ("float8_e4m3fn", "mxfp8", "nvfp4"):
        of_x = {"scale": x.abs().amax().float() / torch.finfo(torch.float8_e4m3fn).max} if "scale" in settings else {}
        x = QuantizedTensor.from_float(x, layout.__name__, **of_x)
        return x.dequantize().float() @ stored_weight.dequantize().float().T  # no CPU multiplies these as they are
    return torch.nn.functional.linear(x, stored_weight).float()


def main(arguments: list[str]) -> int:
    """Measure and print three tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py bench quantise", description=__doc__)
    parser.add_argument("--count", type=int, default=8, help="scenes and prompts (8)")
    options = parser.parse_args(arguments)
    bundled_table(options.count)
    released_table()
    wide_table()
    return 0
