"""``run.py bench quantise``: what each format of ``run.py quantise`` costs in accuracy, with and without kept layers.

Weights are rounded as the file has them and multiplied out in float32. What a device rounds on top (activations in 8 or
4 bits) shows in the last table, and is a GPU's to tell for pictures.

1. bundled model  file size, weights' relative error by group of layers; held-out scenes, image -> depth: AbsRel between
                  the depth of the rounded and of the whole model, and against the truth; prompts, joint: the picture's
                  RMS change (of 1) and the depth's AbsRel, which grows where two trajectories part
2. networks       one of random, heavy-tailed weights with heads of 128, and the golden checkpoints where a folder holds
                  them: the same for one call on noise, relative error of the RGB velocity and of the clean depth
3. released size  bytes of the file, counted from the shapes of a bf16 checkpoint
4. wide layers    4096 x 4096 with heavy-tailed weights (Student's t, 4 degrees of freedom) and activations (3): the
                  output's relative error from rounded weights alone, and as ComfyUI multiplies
"""

import argparse
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from ...model.diffusion.sampling import sample
from ...model.network.checkpoint import expected_shapes, load_transformer, save_transformer
from ...model.network.config import TransformerConfig
from ...model.network.kitchen import CLASSES
from ...model.network.quantise import NOTES, note_of, quantise, stored, stored_bytes
from ...model.network.quantised import dequantised
from ...model.network.transformer import ModalityForcingTransformer
from .. import SMALL_MODEL
from .bundled import Bundled, Depth, abs_rel, decoded, rms
from .tables import heading, show

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
WIDE_HEADS = TransformerConfig(256, 2, double_blocks=2, single_blocks=2, decoder_blocks=1, mlp_size=768, text_width=64)


class Rounded:
    """Results of the bundled model's modules on the same scenes, captions and noise."""

    def __init__(self, count: int) -> None:
        self.bundled = Bundled(count)

    def image_to_depth(self, module: torch.nn.Module) -> Depth:
        torch.manual_seed(0)
        b = self.bundled
        return decoded(sample(module, b.given, b.depth, b.empty, None, steps=STEPS, mode="i2d")[1])

    def joint(self, module: torch.nn.Module) -> tuple[Tensor, Depth]:
        torch.manual_seed(0)
        b, settings = self.bundled, {"steps": STEPS, "mode": "joint", "cfg": GUIDANCE, "log2_alpha": LOG2_ALPHA}
        rgb, codes = sample(module, b.rgb, b.depth, b.text, b.empty, **settings)
        return b.picture(rgb), decoded(codes)


def group_errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> list[str]:
    """Relative error of all weights of a group, in percent."""
    cells = []
    for part in GROUPS.values():
        keys = [key for key in want if part in key and want[key].ndim == 2]
        off = sum(float((got[key] - want[key]).square().sum()) for key in keys)
        whole = sum(float(want[key].square().sum()) for key in keys)
        cells.append(f"{100 * (off / whole) ** 0.5:.2f}" if off else "kept")
    return cells


def in_all_formats(source: Path) -> Iterator[tuple[list[str], dict[str, Tensor], torch.nn.Module]]:
    """First cells of a row (format, kept, MB), the weights and the module, for every format with and without kept."""
    with tempfile.TemporaryDirectory() as folder:
        for name, everything in product(NOTES, (False, True)):
            path = quantise(source, Path(folder) / f"{name}{everything}.safetensors", name, everything=everything)
            module = load_transformer(path)
            kept = "depth head" if everything else "all outside the blocks"
            yield [name, kept, f"{path.stat().st_size / 1e6:.1f}"], module.state_dict(), module


def bundled_table(count: int) -> None:
    results, module = Rounded(count), load_transformer(SMALL_MODEL)
    want, picture = module.state_dict(), results.joint(module)
    depth, truth = results.image_to_depth(module), results.bundled.truth
    changes = ("i2d change %", "i2d truth %", "joint picture", "joint depth %")
    heading("format", "kept", "MB", *(f"{name} %" for name in GROUPS), *changes)
    size = f"{SMALL_MODEL.stat().st_size / 1e6:.1f}"
    show("as it is", "", size, *[""] * len(GROUPS), "0", f"{abs_rel(depth, truth):.2f}", "0", "0")
    for cells, weights, rounded in in_all_formats(SMALL_MODEL):
        new_depth, new_picture = results.image_to_depth(rounded), results.joint(rounded)
        show(
            *cells,
            *group_errors(weights, want),
            f"{abs_rel(new_depth, depth):.2f}",
            f"{abs_rel(new_depth, truth):.2f}",
            f"{rms(new_picture[0], picture[0]):.4f}",
            f"{abs_rel(new_picture[1], picture[1]):.2f}",
        )


def networks_table(golden: Path | None) -> None:
    heading("network", "format", "kept", "MB", *(f"{name} %" for name in GROUPS), "velocity %", "depth %")
    with tempfile.TemporaryDirectory() as folder:
        wide_heads = Path(folder) / "heads_of_128.safetensors"
        save_transformer(_heavy_tailed(WIDE_HEADS).bfloat16(), wide_heads)
        found = sorted(golden.glob("*.checkpoint.safetensors")) if golden else []
        for source in (wide_heads, *found):
            module = load_transformer(source)
            want, outputs = module.state_dict(), _one_call(module)
            for cells, weights, rounded in in_all_formats(source):
                off = (
                    100 * (got - out).norm() / out.norm() for got, out in zip(_one_call(rounded), outputs, strict=True)
                )
                name = source.name.partition(".")[0].replace("_", " ")
                show(name, *cells, *group_errors(weights, want), *(f"{value:.2f}" for value in off))


def _heavy_tailed(config: TransformerConfig) -> ModalityForcingTransformer:
    module, student = ModalityForcingTransformer(config), torch.distributions.StudentT(4.0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.copy_(student.sample(parameter.shape) * parameter.shape[1] ** -0.5)
    return module


@torch.inference_mode()
def _one_call(module: ModalityForcingTransformer) -> tuple[Tensor, Tensor]:
    """The RGB velocity and the clean depth of a batch of noise."""
    generator, width = torch.Generator().manual_seed(0), module.config.text_width
    shapes = ((4, 128, 4, 4), (4, 256, 4, 4), (4, 16, width))
    levels = torch.linspace(0.2, 0.9, 4)
    return module(*(torch.randn(shape, generator=generator) for shape in shapes), levels, levels.flip(0))


def released_table() -> None:
    shapes = expected_shapes(TransformerConfig())
    heading("format", "GB of the released model, all outside the blocks kept", "only the depth head kept")
    for name in ("bf16", *NOTES):
        sizes = []
        for everything in (False, True):
            total = 0
            for key, shape in shapes.items():
                note = note_of(key, shape, name, everything) if name in NOTES else None
                total += stored_bytes(shape, note) if note else 2 * torch.Size(shape).numel()
            sizes.append(f"{total / 1e9:.1f}")
        show(name, *sizes)


def wide_table() -> None:
    torch.manual_seed(0)
    weight = torch.distributions.StudentT(4.0).sample((WIDTH, WIDTH)) * WIDTH**-0.5
    x = torch.distributions.StudentT(3.0).sample((ROWS, WIDTH))
    want = x @ weight.T
    heading("format", "weights alone %", "with activations %")
    for name in NOTES:
        note = note_of("single_blocks.0.linear2.weight", (WIDTH, WIDTH), name)
        parts = stored(weight, note)
        rounded = dequantised(parts.pop("weight"), parts, note, weight.shape)
        alone = (x @ rounded.T - want).norm() / want.norm()
        whole = _as_host(x, weight, note)
        show(name, f"{100 * alone:.2f}", f"{100 * (whole - want).norm() / want.norm():.2f}")


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
    """Measure and print four tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py bench quantise", description=__doc__)
    parser.add_argument("--count", type=int, default=8, help="scenes and prompts (8)")
    parser.add_argument("--golden", type=Path, help="a folder of golden checkpoints")
    options = parser.parse_args(arguments)
    bundled_table(options.count)
    networks_table(options.golden)
    released_table()
    wide_table()
    return 0
