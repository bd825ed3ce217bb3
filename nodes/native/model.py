"""The transformer as a native ComfyUI model, with a clock for each modality.

The joint latent is (B, 128 + 256, h, w): the FLUX.2 latent, then the 256 pixels of each depth patch. Core's samplers
see one tensor with one sigma, which is the RGB level. Depth may follow its own clock t_depth = f_alpha(sigma): the
samplers then carry y = x_depth * sigma / t_depth, which obeys y = (1 - sigma) (x0 / alpha) + sigma eps, that is: plain
flow matching of depth divided by alpha. So depth is divided by alpha on the way in, multiplied on the way out, and
turned into x_depth at t_depth in front of the network; every core sampler is right as it stands.
"""

import math
from typing import Any

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor

from ...model.diffusion.given import Given, Held
from ...model.diffusion.levels import depth_velocity, per_sample
from ...model.diffusion.schedule import tilt, tilt_ratio
from ...model.network.config import TransformerConfig
from .latent_format import JOINT_CHANNELS, PARTS, scale_depth
from .plain_runs import PlainRun
from .transformer import NativeTransformer

TEXT_TOKENS = 512  # of the released model, where a text's length is not known yet
OPTIONS_KEY = "modality_forcing"  # of the transformer options: what holds for one sampling run
ABSENT = "absent_modalities"  # of the model's conditions: (B,2), not 0 where a modality is to be taken as absent
OTHER = {"rgb": "depth", "depth": "rgb"}


def given_key(modality: str) -> str:
    """Where a conditioning's dictionary holds the `Given` of a modality."""
    return f"modality_forcing_{modality}"


class TwoClockSampling(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
    """FLUX flow matching; `log2_alpha` tilts depth's clock against sigma.

    `exact_depth`: a run's depth ends as the network's own, not as the release's clamped step leaves it.
    """

    log2_alpha = 0.0
    exact_depth = False


class PackedLevels:
    """Carries the levels past core's cast of every keyword argument that has a dtype."""

    def __init__(self, values: Tensor) -> None:
        self.values = values


def live_bytes(config: TransformerConfig, tokens: int, bytes_each: int, fused: bool) -> int:
    """Bytes of activations alive at once, at most, in the single blocks: `run.py bench cost` counts them.

    First linear layer of the block, beside it the tokens, queries, keys and the like; a rotation that is not fused
    holds queries or keys in float32.
    """
    beside = (5.1 if fused else 7.2) * config.hidden_size
    return int(tokens * (3 * config.hidden_size + 2 * config.mlp_size + beside) * bytes_each)


class ModalityForcingModel(comfy.model_base.Flux):
    """A Flux subclass only so that core maps diffusers' LoRA names; FLUX's own conditioning is left out."""

    def __init__(self, model_config: Any, device: Any = None) -> None:
        super().__init__(model_config, comfy.model_base.ModelType.FLUX, device=device, unet_model=NativeTransformer)
        self.memory_usage_factor_conds = ()
        self.model_sampling = TwoClockSampling(model_config)
        self.plain_run = PlainRun()

    @property
    def log2_alpha(self) -> float:
        return getattr(self.model_sampling, "log2_alpha", 0.0)  # core's own ModelSampling nodes have none

    @property
    def shift(self) -> float:
        return getattr(self.model_sampling, "shift", 0.0)

    def memory_required(self, input_shape: Any, cond_shapes: dict[str, Any] | None = None) -> float:
        """Bytes that a call on (B,384,h,w) holds at once beside the weights, with a tenth to spare."""
        management = comfy.model_management
        if not (management.xformers_enabled() or management.pytorch_attention_flash_attention()):
            return super().memory_required(input_shape, cond_shapes or {})  # attention in parts: core's own guess
        texts = [shape[1] for shape in (cond_shapes or {}).get("c_crossattn", ())]
        tokens = input_shape[0] * (max(texts, default=TEXT_TOKENS) + len(PARTS) * math.prod(input_shape[2:]))
        network = self.diffusion_model
        dtype = self.manual_cast_dtype or self.get_dtype()
        return 1.1 * live_bytes(network.config, tokens, management.dtype_size(dtype), network.kernels.fused)

    def concat_cond(self, **_kwargs: Any) -> None:
        return None

    def encode_adm(self, **_kwargs: Any) -> None:
        return None

    def process_timestep(self, timestep: Tensor, levels: PackedLevels | None = None, **_kwargs: Any) -> Tensor:
        return levels.values

    def process_latent_in(self, latent: Tensor) -> Tensor:
        if latent.isnan().any():
            raise ValueError(
                "got a latent with unknown parts (NaN) and a model that does not know of them. Put 'RGB-D Schedule' "
                "between the loader and the sampler, or load the model with 'Load Modality Forcing Model'."
            )
        if latent.shape[1] != JOINT_CHANNELS:
            raise ValueError(
                f"got a latent of {latent.shape[1]} channels; Modality Forcing samples {JOINT_CHANNELS}: RGB, depth. "
                "Put a plain FLUX.2 latent through 'Join RGB-D Latent', or start from 'Empty RGB-D Latent'."
            )
        return scale_depth(super().process_latent_in(latent), 2.0**-self.log2_alpha)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return super().process_latent_out(scale_depth(latent, 2.0**self.log2_alpha))

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
        given = {modality for modality in PARTS if kwargs.get(given_key(modality)) is not None}
        self.plain_run.note(kwargs["prompt_type"], kwargs["noise"], given)
        for modality in PARTS:
            given = kwargs.get(given_key(modality))
            if given is not None and given.strength > 0:
                out.update(self._given_conds(modality, given, kwargs["noise"], kwargs["device"]))
        return out

    def _given_conds(self, modality: str, given: Given, noise: Tensor, device: Any) -> dict[str, Any]:
        noise = noise[:, PARTS[modality]]
        _check_given(modality, given, noise)
        end = given.end
        if given.mask is not None:
            # With a mask the modality is sampled, at one level: less strength lets go of the given part earlier.
            end = given.start + given.strength * (given.end - given.start)
        span = [given.strength, *(float(self.model_sampling.percent_to_sigma(p)) for p in (given.start, end))]
        span.append(given.noise_level)
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
        run = transformer_options.get(OPTIONS_KEY)
        exact = run["exact_depth"] if run else self.plain_run.begin(transformer_options, self.shift, self.log2_alpha)
        clocks = {"rgb": sigma, "depth": tilt(sigma, self.log2_alpha)}
        state = {m: x[:, c].float() for m, c in PARTS.items()}
        state["depth"] = state["depth"] * per_sample(tilt_ratio(sigma, self.log2_alpha), state["depth"])
        levels, held = dict(clocks), {}
        for modality in PARTS:
            cond = {name: kwargs.pop(f"{modality}_{name}", None) for name in ("latent", "noise", "span", "mask")}
            if cond["latent"] is None:
                continue
            hold = Held(**cond, sigma=sigma, modality=modality)
            levels[modality] = hold.level(clocks[modality], clocks[OTHER[modality]])
            state[modality] = hold.put(state[modality], levels[modality])
            held[modality] = hold
        absent = kwargs.pop(ABSENT, None)
        if absent is not None:
            state, levels = _without(absent.to(x.device) > 0, state, levels)
        wanted = [m for m in PARTS if m not in held or not held[m].complete]

        joint = torch.cat(list(state.values()), dim=1)
        # Core returns x - sigma * output. At sigma 1 the network's output comes back without dividing by a small sigma.
        one = torch.ones_like(sigma)
        packed = PackedLevels(torch.stack(list(levels.values()), dim=1))
        output = joint - super()._apply_model(
            joint, one, c_concat, c_crossattn, control, transformer_options, levels=packed, wanted=wanted, **kwargs
        )
        head = {m: output[:, c] for m, c in PARTS.items()}
        t_rgb, t_depth = (per_sample(levels[m], x) for m in ("rgb", "depth"))
        clean = {"rgb": state["rgb"] - t_rgb * head["rgb"], "depth": head["depth"]}
        if not exact:
            # Equal to the head where t >= 0.05; below, what the released sampler's clamped velocity implies.
            velocity = depth_velocity(state["depth"], head["depth"], levels["depth"])
            clean["depth"] = state["depth"] - t_depth * velocity
        for modality, hold in held.items():
            clean[modality] = hold.result(clean[modality], head["depth"] if modality == "depth" else clean["rgb"])
        return scale_depth(torch.cat(list(clean.values()), dim=1), 2.0**-self.log2_alpha)


def _without(absent: Tensor, state: dict[str, Tensor], levels: dict[str, Tensor]) -> tuple[dict, dict]:
    """State and levels with the absent modalities (B,2) as noise at t = 1, the same noise at each call."""
    generator = torch.Generator().manual_seed(0)
    states, new_levels = {}, {}
    for modality, is_absent in zip(PARTS, absent.unbind(1), strict=True):
        now = state[modality]
        noise = torch.randn(now.shape[1:], generator=generator).to(now)
        states[modality] = torch.where(per_sample(is_absent, now), noise, now)
        new_levels[modality] = torch.where(is_absent, 1.0, levels[modality])
    return states, new_levels


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
