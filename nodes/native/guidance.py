"""Guidance of RGB and of depth apart, on any guider and sampler that use core's guidance.

With C the prediction for the prompt, U for the empty one, and A a prediction without the other modality (its level at
t = 1, which the model knows as absent, as in UniDiffuser, arXiv 2303.06555), each modality becomes

    U + cfg (C - U) + (follow - 1) (B - A)

In the last term B and A are of one text: the empty one where the other modality is given (InstructPix2Pix's two
scales, arXiv 2211.09800) and U is computed, else the prompt (how much the two modalities of a joint run heed each
other). What no weight asks for is not computed.
"""

import uuid
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.samplers
import torch
from torch import Tensor

from ...model.diffusion.guidance import guide
from .latent_format import PARTS
from .model import ABSENT, OTHER


@dataclass(frozen=True)
class Weights:
    """Guidance of one modality: its weight, from start to end as fractions of the run, and how it heeds the other."""

    cfg: float = 1.0
    start: float = 0.0
    end: float = 1.0
    follow: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"got guidance from {self.start} to {self.end} of the run; expected 0 <= start < end <= 1")

    @property
    def always(self) -> bool:
        return self.start <= 0 and self.end >= 1


ROUNDING = 1e-6  # of a level in float32, so that a step at an end of the span falls on one side


class ModalityGuidance:
    """The two functions that core calls at each step: which predictions to make, and what becomes of them."""

    def __init__(self, weights: dict[str, Weights]) -> None:
        self.weights = weights
        self.separate: dict[str, Tensor] = {}  # modality -> prediction without the other one, of the step
        self.has_uncond = False

    def predict(self, args: dict[str, Any]) -> list[Tensor]:
        """In the place of `calc_cond_batch`: conditional and unconditional predictions, and those of `separate`."""
        conds, x, sigma = list(args["conds"]), args["input"], args["sigma"]
        sampled = [m for m in PARTS if not _is_given(m, conds[0], throughout=True)]
        weights = [self.cfg(m, args) for m in sampled]
        self.has_uncond = conds[1] is not None and any(weight != 1 for weight in weights)
        if not self.has_uncond:
            conds[1] = None
        follow = [m for m in sampled if self.weights[m].follow != 1]
        bases = [self._base(m, conds) for m in follow]
        heeded = any(base is conds[0] for base in bases)
        if self.has_uncond and not any(weights) and not heeded and not self._others(args["model_options"]):
            conds[0] = None
        if not follow:
            return comfy.samplers.calc_cond_batch(args["model"], conds, x, sigma, args["model_options"])
        present = [None if cond is None else _without(None, cond) for cond in conds]
        absent = [_without(OTHER[m], base) for m, base in zip(follow, bases, strict=True)]
        out = comfy.samplers.calc_cond_batch(args["model"], present + absent, x, sigma, args["model_options"])
        self.separate = dict(zip(follow, out[len(conds) :], strict=True))
        return out[: len(conds)]

    def combine(self, args: dict[str, Any]) -> Tensor:
        """After guidance, in its place: the clean latent (B,384,h,w) as samplers carry it."""
        cond, uncond = args["cond_denoised"], args["uncond_denoised"]
        parts = []
        for modality, part in PARTS.items():
            cfg, follow = self.cfg(modality, args), self.weights[modality].follow
            base = (uncond if self._is_two_scale(modality, args["cond"]) else cond)[:, part]
            separate = self.separate[modality][:, part] if modality in self.separate else None
            without = uncond[:, part] if self.has_uncond else None
            parts.append(guide(cond[:, part], without, cfg, base=base, separate=separate, follow=follow))
        self.separate = {}
        return torch.cat(parts, dim=1)

    def cfg(self, modality: str, args: dict[str, Any]) -> float:
        """The weight of a modality at the step of these arguments of a guidance function."""
        weights = self.weights[modality]
        if weights.always:
            return weights.cfg
        sampling = args["model"].model_sampling
        start, end = (float(sampling.percent_to_sigma(p)) for p in (weights.start, weights.end))
        return weights.cfg if end < float(args["sigma"][0]) - ROUNDING <= start else 1.0

    def _others(self, model_options: dict[str, Any]) -> bool:
        """Whether other nodes' functions read the predictions too."""
        after = model_options.get("sampler_post_cfg_function", ())
        others = [function for function in after if getattr(function, "__self__", None) is not self]
        return bool(others or model_options.get("sampler_pre_cfg_function"))

    def _base(self, modality: str, conds: list[Any]) -> list[dict[str, Any]]:
        return conds[1] if self._is_two_scale(modality, conds[0]) else conds[0]

    def _is_two_scale(self, modality: str, cond: list[dict[str, Any]]) -> bool:
        return self.has_uncond and _is_given(OTHER[modality], cond)


def _is_given(modality: str, conds: list[dict[str, Any]], throughout: bool = False) -> bool:
    """Whether a modality is given by some condition, or all of it by each and at all steps."""
    given = [f"{modality}_latent" in cond["model_conds"] for cond in conds]
    if not throughout or not all(given):
        return any(given) and not throughout
    conds = [cond["model_conds"] for cond in conds]
    spans = [cond[f"{modality}_span"].cond[0].tolist() for cond in conds]
    return all(f"{modality}_mask" not in c and s[1] >= 1 and s[2] <= 0 for c, s in zip(conds, spans, strict=True))


def _without(modality: str | None, conds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conditions with a modality absent; with none, marked alike, so that all run in one batch."""
    flags = comfy.conds.CONDRegular(torch.tensor([[float(name == modality) for name in PARTS]]))
    marked = [{**cond, "model_conds": {**cond["model_conds"], ABSENT: flags}} for cond in conds]
    if modality is not None:  # step caches keep their results by this
        marked = [{**cond, "uuid": uuid.uuid5(cond["uuid"], modality)} for cond in marked]
    return marked


def guided(patcher: Any, weights: dict[str, Weights]) -> Any:
    """A clone of the model with this guidance in the place of the sampler's own; see `is_plain`."""
    patcher, guidance = patcher.clone(), ModalityGuidance(weights)
    patcher.set_model_sampler_calc_cond_batch_function(guidance.predict)
    patcher.set_model_sampler_post_cfg_function(guidance.combine)
    if any(w.cfg != 1 for w in weights.values()):
        patcher.model_options["disable_cfg1_optimization"] = True
    return patcher


def is_plain(weights: dict[str, Weights]) -> bool:
    """Whether this is what core's own guider does with one weight.

    At 0 that would compute the prompt for nothing. Here the empty prompt runs alone: bit for bit what it gives by
    itself, and what core's guider gives but for rounding, since sums depend on how many rows a kernel is given.
    """
    of_all = list(weights.values())
    return of_all[0].cfg == of_all[1].cfg != 0 and all(w.always and w.follow == 1 for w in of_all)


def guider(patcher: Any, weights: dict[str, Weights], positive: Any, negative: Any) -> comfy.samplers.CFGGuider:
    """A guider for SamplerCustomAdvanced with this guidance."""
    plain = is_plain(weights)
    made = comfy.samplers.CFGGuider(patcher if plain else guided(patcher, weights))
    made.set_conds(positive, negative)
    made.set_cfg(weights["rgb"].cfg if plain else 1.0)
    return made
