"""Nodes for the tests alone: tensors from and to files, and a network with a known answer in place of the real one."""

from pathlib import Path

import comfy.controlnet
import comfy.patcher_extension
import torch
from comfy_api.latest import ComfyExtension, io
from comfy_api.torch_helpers import set_torch_compile_wrapper
from safetensors.torch import load_file, save_file

CATEGORY = "tests"
RGB_CHANNELS = 128


def _schema(node_id: str, inputs: list, outputs: list, output_node: bool = False) -> io.Schema:
    return io.Schema(node_id=node_id, category=CATEGORY, inputs=inputs, outputs=outputs, is_output_node=output_node)


def _loader(name: str, output, wrap) -> type[io.ComfyNode]:
    """A node class that reads one tensor of a safetensors file and hands it on as `output`."""

    class Loader(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            inputs = [io.String.Input("file"), io.String.Input("key")]
            return _schema(name, inputs, [output.Output()])

        @classmethod
        def execute(cls, file, key):
            return io.NodeOutput(wrap(load_file(file)[key]))

    return Loader


class FixedNoise:
    seed = 0

    def __init__(self, values):
        self.values = values

    def generate_noise(self, _latent):
        return self.values


class SaveLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema("TestSaveLatent", [io.Latent.Input("latent"), io.String.Input("file")], [], output_node=True)

    @classmethod
    def execute(cls, latent, file):
        save_file({"samples": latent["samples"].contiguous()}, Path(file))
        return io.NodeOutput()


class SaveGeometry(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Custom("MOGE_GEOMETRY").Input("geometry"), io.String.Input("file")]
        return _schema("TestSaveGeometry", inputs, [], output_node=True)

    @classmethod
    def execute(cls, geometry, file):
        save_file({k: v.contiguous() for k, v in geometry.items()}, Path(file))
        return io.NodeOutput()


class SaveDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Custom("MOGE_GEOMETRY").Input("geometry"), io.String.Input("file")]
        return _schema("TestSaveDepth", inputs, [], output_node=True)

    @classmethod
    def execute(cls, geometry, file):
        save_file({"depth": geometry["depth"].contiguous()}, Path(file))
        return io.NodeOutput()


class SaveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema("TestSaveImage", [io.Image.Input("image"), io.String.Input("file")], [], output_node=True)

    @classmethod
    def execute(cls, image, file):
        save_file({"image": image.contiguous()}, Path(file))
        return io.NodeOutput()


class PartialLoad(io.ComfyNode):
    """One prediction with all weights loaded and one with almost none, as on a small card: a batch of two."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.Conditioning.Input("text")]
        return _schema("TestPartialLoad", inputs, [io.Latent.Output(id="latent")])

    @classmethod
    def execute(cls, model, text):
        model = model.clone()
        device = model.load_device
        x = torch.randn((1, 384, 4, 4), generator=torch.manual_seed(0))
        call = {"c_crossattn": text[0][0].to(device), "transformer_options": {}}
        results = []
        for budget_bytes in (0, 4096):  # 0 is no limit
            model.detach()
            model.load(device, lowvram_model_memory=budget_bytes, full_load=budget_bytes == 0)
            results.append(model.model.apply_model(x.to(device), torch.full((1,), 0.7, device=device), **call).cpu())
        if not any(getattr(m, "comfy_cast_weights", False) for m in model.model.modules()):
            raise RuntimeError("no layer was left to be loaded when it is used")
        model.detach()
        return io.NodeOutput({"samples": torch.cat(results)})


class LowMemory(io.ComfyNode):
    """Leaves almost all weights where they are until they are used, as core does on a small card."""

    @classmethod
    def define_schema(cls):
        return _schema("TestLowMemory", [io.Model.Input("model")], [io.Model.Output(id="low")])

    @classmethod
    def execute(cls, model):
        def lower(executor, guider, *args, **kwargs):
            patcher = guider.model_patcher
            patcher.partially_unload(patcher.offload_device, patcher.model_size())
            if not any(getattr(m, "comfy_cast_weights", False) for m in patcher.model.modules()):
                raise RuntimeError("no layer was left to be loaded when it is used")
            return executor(guider, *args, **kwargs)

        model = model.clone()
        model.add_wrapper(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, lower)
        return io.NodeOutput(model)


class CountPasses(io.ComfyNode):
    """Writes a line for each call of the network: how many rows its batch has, and the largest side of its grid."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.String.Input("file")]
        return _schema("TestCountPasses", inputs, [io.Model.Output(id="counted")])

    @classmethod
    def execute(cls, model, file):
        def count(executor, x, *args, **kwargs):
            with Path(file).open("a", encoding="utf-8") as lines:
                lines.write(f"{len(x)} {max(x.shape[-2:])}\n")
            return executor(x, *args, **kwargs)

        model = model.clone()
        model.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, count)
        return io.NodeOutput(model)


class Compile(io.ComfyNode):
    """As core's TorchCompileModel, without a C++ compiler; writes a line for each graph: its operations."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.String.Input("file")]
        return _schema("TestCompile", inputs, [io.Model.Output(id="compiled")])

    @classmethod
    def execute(cls, model, file):
        def backend(module, _inputs):
            with Path(file).open("a", encoding="utf-8") as lines:
                lines.write(f"{sum(node.op.startswith('call') for node in module.graph.nodes)}\n")
            return module.forward

        model = model.clone()
        set_torch_compile_wrapper(model=model, backend=backend)
        return io.NodeOutput(model)


class GaussianModel(io.ComfyNode):
    """The exact prediction for data ~ N(mean, std^2) instead of the network: noise then flows to mean + std * noise."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.Float.Input("mean"), io.Float.Input("std")]
        return _schema("TestGaussianModel", inputs, [io.Model.Output(id="gaussian")])

    @classmethod
    def execute(cls, model, mean, std):
        def predict(_executor, x, timestep, *_args, **_kwargs):
            t_rgb, t_depth = (t.reshape(-1, 1, 1, 1) for t in timestep.unbind(1))
            rgb, depth = x[:, :RGB_CHANNELS], x[:, RGB_CHANNELS:]
            velocity = (rgb - _clean(rgb, t_rgb, mean, std)) / t_rgb
            return torch.cat([velocity, _clean(depth, t_depth, mean, std)], dim=1)

        model = model.clone()
        model.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, predict)
        return io.NodeOutput(model)


def _clean(x, t, mean, std):
    """E[x0 | x_t] for Gaussian data and flow matching."""
    signal = 1 - t
    return mean + std**2 * signal / (signal**2 * std**2 + t**2) * (x - signal * mean)


class AttentionPatches(io.ComfyNode):
    """What other packs put into core's FLUX: patches of the tokens, of attention's inputs and of its output."""

    @classmethod
    def define_schema(cls):
        return _schema("TestAttentionPatches", [io.Model.Input("model")], [io.Model.Output(id="patched")])

    @classmethod
    def execute(cls, model):
        def after_input(args):
            return {**args, "img": args["img"] + 0.5}

        def before(q, k, v, pe, attn_mask, extra_options):
            return {"q": 1.5 * q, "k": k, "v": v, "pe": pe, "attn_mask": attn_mask}

        def after(attended, extra_options):
            start, stop = extra_options["img_slice"]
            attended[:, start:stop] *= 0.5
            return attended

        model = model.clone()
        for patch, kind in ((after_input, "post_input"), (before, "attn1_patch"), (after, "attn1_output_patch")):
            model.set_model_patch(patch, kind)
        return io.NodeOutput(model)


class RecordingControl(comfy.controlnet.ControlBase):
    """A ControlNet that adds nothing, and writes the hint it is asked to work with to a file."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def get_control(self, *_args, **_kwargs):
        save_file({"hint": self.cond_hint_original.contiguous()}, Path(self.file))

    def copy(self):
        copied = RecordingControl(self.file)
        self.copy_to(copied)
        return copied


class ControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return _schema("TestControlNet", [io.String.Input("file")], [io.ControlNet.Output(id="control")])

    @classmethod
    def execute(cls, file):
        return io.NodeOutput(RecordingControl(file))


class TestExtension(ComfyExtension):
    async def get_node_list(self):
        return [
            _loader("TestConditioning", io.Conditioning, lambda tensor: [[tensor, {}]]),
            _loader("TestLatent", io.Latent, lambda tensor: {"samples": tensor}),
            _loader("TestImage", io.Image, lambda tensor: tensor),
            _loader("TestMask", io.Mask, lambda tensor: tensor),
            _loader("TestNoise", io.Noise, FixedNoise),
            SaveLatent,
            SaveGeometry,
            SaveDepth,
            SaveImage,
            PartialLoad,
            CountPasses,
            LowMemory,
            Compile,
            GaussianModel,
            AttentionPatches,
            ControlNet,
        ]


async def comfy_entrypoint():
    return TestExtension()
