"""The one file that touches ComfyUI's internals: it makes the transformer a native ComfyUI model.

The joint latent is (B, 128 + 256, h, w): the FLUX.2 latent, then the 256 pixels of each depth patch. Core's samplers
see one tensor with one sigma, which is the RGB level. Depth may follow its own clock t_depth = f_alpha(sigma): the
samplers then carry y = x_depth * sigma / t_depth, which obeys y = (1 - sigma) (x0 / alpha) + sigma eps, that is: plain
flow matching of depth divided by alpha. So depth is divided by alpha on the way in, multiplied on the way out, and
turned into x_depth at t_depth in front of the network; every core sampler is right as it stands.
"""

import json
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.ldm.modules.attention
import comfy.model_base
import comfy.model_sampling
import comfy.ops
import comfy.patcher_extension
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ..model.depth.codec import unpatchify
from ..model.diffusion.given import Given, Held
from ..model.diffusion.levels import depth_velocity, per_sample
from ..model.diffusion.schedule import DEFAULT_MU, tilt, tilt_ratio
from ..model.network.checkpoint import FILE_MARKER, check_shapes, dequantised, find_prefix, read_header
from ..model.network.config import DEPTH_CHANNELS, RGB_CHANNELS, TransformerConfig
from ..model.network.transformer import ModalityForcingTransformer

JOINT_CHANNELS = RGB_CHANNELS + DEPTH_CHANNELS
CHANNELS = {"rgb": slice(0, RGB_CHANNELS), "depth": slice(RGB_CHANNELS, JOINT_CHANNELS)}
OTHER = {"rgb": "depth", "depth": "rgb"}
WRAPPER_KEY = "modality_forcing"
QUANTISATION_METADATA = "_quantization_metadata"


def given_key(modality: str) -> str:
    """Where a conditioning's dictionary holds the `Given` of a modality."""
    return f"modality_forcing_{modality}"


class JointLatent(comfy.latent_formats.LatentFormat):
    """RGB and depth side by side in the channels, one 16 x 16 patch per position."""

    latent_channels = JOINT_CHANNELS
    spacial_downscale_ratio = 16

    def __init__(self) -> None:
        flux2 = comfy.latent_formats.Flux2()
        factors = torch.tensor(flux2.latent_rgb_factors)
        bias = torch.tensor(flux2.latent_rgb_factors_bias or [0.0, 0.0, 0.0])[:, None, None]
        reshape = flux2.latent_rgb_factors_reshape
        # (B,128,h,w) -> (B,3,*,*) in [-1, 1]; the loader of a small model puts that model's own codec here.
        self.rgb_preview = lambda x: torch.einsum("bchw,cd->bdhw", reshape(x), factors.to(x)) + bias.to(x)
        # Core's linear previewer multiplies by these factors; the picture is already made by the reshape.
        self.latent_rgb_factors = torch.eye(3).tolist()
        self.latent_rgb_factors_reshape = self.preview

    def preview(self, latent: Tensor) -> Tensor:
        """(B,384,h,w) -> (B,3,8h,16w) in [-1, 1]: RGB on the left, depth on the right, near = white."""
        rgb = self.rgb_preview(latent[:, CHANNELS["rgb"]].float())
        depth = torch.nn.functional.avg_pool2d(unpatchify(latent[:, CHANNELS["depth"]].float()), 2)  # (B,8h,8w)
        # The range is the picture's own, since samplers carry depth divided by alpha.
        low, high = depth.amin((1, 2), keepdim=True), depth.amax((1, 2), keepdim=True)
        depth = 1 - 2 * (depth - low) / (high - low).clamp_min(1e-6)
        rgb = torch.nn.functional.interpolate(rgb, depth.shape[1:], mode="nearest").to(depth)
        return torch.cat([rgb.clamp(-1, 1), depth[:, None].expand(-1, 3, -1, -1)], dim=-1)


class TwoClockSampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
    """FLUX flow matching; `log2_alpha` tilts depth's clock against sigma."""

    log2_alpha = 0.0


class NativeTransformer(ModalityForcingTransformer):
    """The transformer with ComfyUI's calling convention, attention and layers."""

    def __init__(self, transformer: TransformerConfig, dtype=None, device=None, operations=None, **_sizes: Any) -> None:
        # Operations of quantised files would bring the depth head to bfloat16; these keep its float32.
        super().__init__(transformer, dtype, device, operations, depth_head_operations=comfy.ops.manual_cast)
        self.dtype = dtype

    @staticmethod
    def attention(q: Tensor, k: Tensor, v: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        return comfy.ldm.modules.attention.optimized_attention(
            q, k, v, q.shape[1], skip_reshape=True, transformer_options=transformer_options
        )

    def forward(self, x, timestep, context=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        """x: (B,384,h,w); timestep: (B,2) levels of RGB and depth -> (B,384,h,w) velocity and clean depth, float32."""
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, control, transformer_options, **kwargs)

    def _forward(self, x, timestep, context=None, control=None, transformer_options={}, **_kwargs):  # noqa: B006
        velocity, depth = super().forward(
            x[:, CHANNELS["rgb"]],
            x[:, CHANNELS["depth"]],
            context,
            *timestep.unbind(1),
            control=control,
            transformer_options=transformer_options,
        )
        return torch.cat([velocity.float(), depth], dim=1)


class Levels:
    """Carries the levels past core's cast of every keyword argument that has a dtype."""

    def __init__(self, values: Tensor) -> None:
        self.values = values


class ModalityForcingModel(comfy.model_base.Flux):
    """A Flux subclass only so that core maps diffusers' LoRA names; FLUX's own conditioning is left out."""

    def __init__(self, model_config: Any, device: Any = None) -> None:
        super().__init__(model_config, comfy.model_base.ModelType.FLUX, device=device, unet_model=NativeTransformer)
        self.memory_usage_factor_conds = ()
        self.model_sampling = TwoClockSampling(model_config)

    @property
    def log2_alpha(self) -> float:
        return getattr(self.model_sampling, "log2_alpha", 0.0)  # core's own ModelSampling nodes have none

    def concat_cond(self, **_kwargs: Any) -> None:
        return None

    def encode_adm(self, **_kwargs: Any) -> None:
        return None

    def process_timestep(self, timestep: Tensor, levels: Levels | None = None, **_kwargs: Any) -> Tensor:
        return levels.values

    def process_latent_in(self, latent: Tensor) -> Tensor:
        if latent.shape[1] != JOINT_CHANNELS:
            raise ValueError(
                f"got a latent of {latent.shape[1]} channels; Modality Forcing samples {JOINT_CHANNELS}: RGB, depth. "
                "Put a plain FLUX.2 latent through 'Join RGB-D Latent', or start from 'Empty RGB-D Latent'."
            )
        return _scale_depth(super().process_latent_in(latent), 2.0**-self.log2_alpha)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return super().process_latent_out(_scale_depth(latent, 2.0**self.log2_alpha))

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """The text, and what is given, as ComfyUI conditions."""
        text = kwargs.get("cross_attn")
        width = self.diffusion_model.config.text_width
        if text is None or text.shape[-1] != width:
            got = "no text embedding" if text is None else f"a text embedding {text.shape[-1]} wide"
            raise ValueError(
                f"got {got}; this model expects one {width} wide. The released model takes a Qwen3-8B text encoder, "
                "loaded by Load CLIP with type 'flux2'."
            )
        # Not CONDCrossAttn: that pads by repeating tokens, which is wrong under rotary text positions.
        out = {"c_crossattn": comfy.conds.CONDRegular(text)}
        for modality in CHANNELS:
            given = kwargs.get(given_key(modality))
            if given is not None and given.strength > 0:
                out.update(self._given_conds(modality, given, kwargs["noise"], kwargs["device"]))
        return out

    def _given_conds(self, modality: str, given: Given, noise: Tensor, device: Any) -> dict[str, Any]:
        noise = noise[:, CHANNELS[modality]]
        _check_given(modality, given, noise)
        end = given.end
        if given.mask is not None:
            # With a mask the modality is sampled, at one level: less strength lets go of the given part earlier.
            end = given.start + given.strength * (given.end - given.start)
        span = [given.strength, *(float(self.model_sampling.percent_to_sigma(p)) for p in (given.start, end))]
        if not noise.any():  # core's DisableNoise: holes and partial strength need noise all the same
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(noise.shape, generator=generator).to(noise)
        conds = {
            "latent": comfy.conds.CONDNoiseShape(given.latent.to(device, torch.float32)),
            "noise": comfy.conds.CONDNoiseShape(noise),
            "span": comfy.conds.CONDRegular(torch.tensor([span], device=device)),
        }
        if given.mask is not None:
            conds["mask"] = comfy.conds.CONDNoiseShape(given.mask.to(device))
        return {f"{modality}_{name}": cond for name, cond in conds.items()}

    def _apply_model(
        self,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options={},  # noqa: B006
        **kwargs,
    ):
        """x: (B,384,h,w) as the sampler carries it, t: (B,) sigma -> the clean latent, likewise scaled, float32."""
        sigma = t.float()
        clocks = {"rgb": sigma, "depth": tilt(sigma, self.log2_alpha)}
        state = {m: x[:, c].float() for m, c in CHANNELS.items()}
        state["depth"] = state["depth"] * per_sample(tilt_ratio(sigma, self.log2_alpha), state["depth"])
        levels, held = dict(clocks), {}
        for modality in CHANNELS:
            cond = {name: kwargs.pop(f"{modality}_{name}", None) for name in ("latent", "noise", "span", "mask")}
            if cond["latent"] is None:
                continue
            hold = Held(**cond, sigma=sigma)
            levels[modality] = hold.level(clocks[modality], clocks[OTHER[modality]])
            state[modality] = hold.put(state[modality], levels[modality])
            held[modality] = hold

        joint = torch.cat(list(state.values()), dim=1)
        # Core returns x - sigma * output. At sigma 1 the network's output comes back without dividing by a small sigma.
        one = torch.ones_like(sigma)
        packed = Levels(torch.stack(list(levels.values()), dim=1))
        output = joint - super()._apply_model(
            joint, one, c_concat, c_crossattn, control, transformer_options, levels=packed, **kwargs
        )
        head = {m: output[:, c] for m, c in CHANNELS.items()}
        t_rgb, t_depth = (per_sample(levels[m], x) for m in ("rgb", "depth"))
        clean = {
            "rgb": state["rgb"] - t_rgb * head["rgb"],
            # Equal to the head where t >= 0.05; below, what the released sampler's clamped velocity implies.
            "depth": state["depth"] - t_depth * depth_velocity(state["depth"], head["depth"], levels["depth"]),
        }
        for modality, hold in held.items():
            clean[modality] = hold.result(clean[modality], head["depth"] if modality == "depth" else clean["rgb"])
        return _scale_depth(torch.cat(list(clean.values()), dim=1), 2.0**-self.log2_alpha)


class ModalityForcingConfig(comfy.supported_models_base.BASE):
    """Registers the model with ComfyUI's detection by the tensor that no FLUX.2 file has."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}
    sampling_settings = {"shift": DEFAULT_MU}
    supported_inference_dtypes = [torch.bfloat16, torch.float32]
    latent_format = JointLatent

    @classmethod
    def matches(cls, unet_config, state_dict=None, unet_key_prefix=""):
        return state_dict is not None and f"{unet_key_prefix}depth_in.weight" in state_dict

    def get_model(self, state_dict, prefix="", device=None):
        for dtype in (self.unet_config.get("dtype"), self.manual_cast_dtype):
            if dtype == torch.float16:
                raise ValueError(
                    "got float16 as the model's type, in which Modality Forcing overflows to NaN. "
                    "Use bf16, fp32 or fp8, and start ComfyUI without --fp16-unet."
                )
        shapes = {k.removeprefix(prefix): tuple(v.shape) for k, v in state_dict.items() if k.startswith(prefix)}
        config = check_shapes(shapes, "The checkpoint")
        # As FLUX, with image and depth tokens instead of image tokens alone.
        self.memory_usage_factor = 2 * 3.1 * 4 * config.hidden_size / 2604
        self.unet_config = {
            "transformer": config,
            "dtype": self.unet_config.get("dtype"),
            # Core reads these to map diffusers' LoRA names.
            "hidden_size": config.hidden_size,
            "depth": config.double_blocks,
            "depth_single_blocks": config.single_blocks,
        }
        return ModalityForcingModel(self, device=device)

    def process_unet_state_dict(self, state_dict):
        """The depth head is float32 in memory: where a file quantised it, it is multiplied out."""
        return dequantised(state_dict, "depth_final_layer.")


def register() -> None:
    """Add the model to those that ComfyUI detects. Safe to call again."""
    models = comfy.supported_models.models
    models[:] = [ModalityForcingConfig, *(m for m in models if m.__name__ != ModalityForcingConfig.__name__)]


def load_model(path: str, model_options: dict[str, Any] | None = None, disable_dynamic: bool = False):
    """Load a checkpoint as a ComfyUI model patcher.

    Raises:
        CheckpointError: the file does not fit; checked on its header, before any weight is read.
    """
    read_header(path)
    state, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    prefix = find_prefix(state)
    state = {key.removeprefix(prefix): state.pop(key) for key in list(state)}
    state, metadata = _describe_quantisation(state, metadata or {}, prefix)
    delegate = {"disable_dynamic": True} if disable_dynamic else {}  # ComfyUI 0.3 does not know the argument
    patcher = comfy.sd.load_diffusion_model_state_dict(
        state, model_options=model_options or {}, metadata=metadata, **delegate
    )
    patcher.cached_patcher_init = (load_model, (path, model_options))
    return guard(patcher)


def _describe_quantisation(state: dict[str, Tensor], metadata: dict[str, str], prefix: str) -> tuple[dict, dict]:
    """Bring quantised files to the one description, by layer, that all versions of ComfyUI read.

    Files of the older kind mark themselves as a whole, and ComfyUI 0.3 then also puts layers into fp8 that are not: the
    depth head would lose the float32 that it needs.
    """
    if state.pop(FILE_MARKER, None) is not None:
        scales = [key for key in state if key.endswith(".scale_weight")]
        layers = {key.removesuffix(".scale_weight"): {"format": "float8_e4m3fn"} for key in scales}
        for layer in layers:
            state[f"{layer}.weight_scale"] = state.pop(f"{layer}.scale_weight")
            state.pop(f"{layer}.scale_input", None)
    elif QUANTISATION_METADATA in metadata:
        layers = json.loads(metadata[QUANTISATION_METADATA])["layers"]
        layers = {name.removeprefix(prefix): what for name, what in layers.items()}
    else:
        return state, metadata
    return state, {**metadata, QUANTISATION_METADATA: json.dumps({"format_version": "1.0", "layers": layers})}


def tilt_depth(patcher: Any, mu: float, log2_alpha: float) -> Any:
    """A clone of the model with this shift and this tilt of depth's clock."""
    if not isinstance(patcher.model, ModalityForcingModel):
        raise ValueError(
            f"got a {type(patcher.model).__name__} model; expected a Modality Forcing model "
            "from 'Load Modality Forcing Model'."
        )
    patcher = guard(patcher)
    patcher.add_object_patch("model_sampling", _sampling(patcher.model.model_config, mu, log2_alpha))
    return patcher


def guard(patcher: Any) -> Any:
    """A clone of the model that checks a run's conditions before it starts; see `_check_run`."""
    patcher = patcher.clone()
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    patcher.remove_wrappers_with_key(kind, WRAPPER_KEY)
    patcher.add_wrapper_with_key(kind, WRAPPER_KEY, _check_run)
    return patcher


def _sampling(model_config: Any, mu: float, log2_alpha: float) -> TwoClockSampling:
    sampling = TwoClockSampling(model_config)
    sampling.set_parameters(shift=mu)
    sampling.log2_alpha = log2_alpha
    return sampling


def _check_run(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Wraps a whole sampling run: refuses one-sided conditions, and drops the tilt where only depth is sampled."""
    guider = executor.class_obj
    for modality in CHANNELS:
        _check_pairs(modality, guider.conds)
    conds = [cond for group in guider.conds.values() for cond in group]
    given = [cond.get(given_key("rgb")) for cond in conds]
    sampling = guider.model_patcher.get_model_object("model_sampling")
    if not getattr(sampling, "log2_alpha", 0) or not all(g is not None and g.replaces_modality for g in given):
        return executor(*args, **kwargs)
    # With RGB given there is one clock: sigma is depth's level, on the schedule's own grid.
    tilted = guider.model_patcher
    guider.model_patcher = tilted.clone()
    guider.model_patcher.add_object_patch("model_sampling", _sampling(tilted.model.model_config, sampling.shift, 0.0))
    try:
        return executor(*args, **kwargs)
    finally:
        guider.model_patcher = tilted


def _check_pairs(modality: str, conds: dict[str, list[dict[str, Any]]]) -> None:
    has = {name: any(given_key(modality) in cond for cond in group) for name, group in conds.items() if group}
    if any(has.values()) and not all(has.values()):
        with_it = ", ".join(name for name, value in has.items() if value)
        without = ", ".join(name for name, value in has.items() if not value)
        node = {"rgb": "Image as Condition", "depth": "Depth as Condition"}[modality]
        raise ValueError(
            f"the {modality} condition is on {with_it} but not on {without}, so guidance would compare two different "
            f"tasks. Connect both outputs of '{node}', positive and negative, to the sampler."
        )


def _check_given(modality: str, given: Given, noise: Tensor) -> None:
    batch, (h, w) = noise.shape[0], noise.shape[-2:]
    gh, gw = given.latent.shape[-2:]
    if (gh, gw) != (h, w):
        raise ValueError(
            f"the given {modality} is {gw * 16} x {gh * 16} pixels, the latent to sample {w * 16} x {h * 16}. Use the "
            "'latent' output of the condition node, or an empty latent of the same size."
        )
    for what, tensor in (("given", given.latent), ("mask of the given", given.mask)):
        if tensor is not None and tensor.shape[0] not in (1, batch):
            raise ValueError(
                f"the {what} {modality} has a batch of {tensor.shape[0]}, the latent to sample one of {batch}; "
                "expected 1 (shared by all samples) or the same number."
            )


def _scale_depth(latent: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return latent
    return torch.cat([latent[:, CHANNELS["rgb"]], latent[:, CHANNELS["depth"]] * factor], dim=1)
