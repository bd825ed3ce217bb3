"""What surrounds a whole sampling run: what it is given is checked, made right where it can be, or refused."""

import math
from collections import OrderedDict
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import torch
from torch import Tensor

from ...model.diffusion.schedule import on_base_levels
from .foreign import adapt
from .latent_format import PARTS
from .model import OPTIONS_KEY, ModalityForcingModel, TwoClockSampling, given_key
from .plain_runs import check_sides, check_tail

WRAPPER_KEY = "modality_forcing"
PIXELS = {"core": 8, "ours": 16}  # to a cell of an area: core's nodes divide by 8 whatever the model
REMEMBERED = 64

# Fingerprints of the latents that unfinished runs have returned -> the log2_alpha that they were made with.
_unfinished: OrderedDict[bytes, float] = OrderedDict()


def tilt_depth(patcher: Any, mu: float, log2_alpha: float, exact_depth: bool = False) -> Any:
    """A clone of the model with this shift and this tilt of depth's clock."""
    if not isinstance(patcher.model, ModalityForcingModel):
        raise ValueError(
            f"got a {type(patcher.model).__name__} model; expected a Modality Forcing model "
            "from 'Load Modality Forcing Model'."
        )
    for name, value in (("shift", mu), ("log2_alpha", log2_alpha)):
        if not math.isfinite(value):
            raise ValueError(f"got {name} {value}; expected a finite number. What is wired to it?")
    patcher = guard(patcher)
    sampling = _sampling(patcher.model.model_config, mu, log2_alpha)
    sampling.exact_depth = exact_depth
    patcher.add_object_patch("model_sampling", sampling)
    return patcher


def guard(patcher: Any) -> Any:
    """A clone of the model that checks a run's conditions before it starts; see `_run`."""
    patcher = patcher.clone()
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    patcher.remove_wrappers_with_key(kind, WRAPPER_KEY)
    patcher.add_wrapper_with_key(kind, WRAPPER_KEY, _run)
    return patcher


def _sampling(model_config: Any, mu: float, log2_alpha: float) -> TwoClockSampling:
    sampling = TwoClockSampling(model_config)
    sampling.set_parameters(shift=mu)
    sampling.log2_alpha = log2_alpha
    return sampling


def _run(executor, noise, latent_image, sampler, sigmas, *args, **kwargs) -> Tensor:
    """Wraps a whole sampling run of a guider."""
    guider = executor.class_obj
    groups = used_conditions(guider)
    conds = [cond for group in groups.values() for cond in group]
    for modality in PARTS:
        check_sides(modality, {n: any(given_key(modality) in cond for cond in group) for n, group in groups.items()})
    for cond in conds:
        _fit_area(cond, latent_image.shape[-2:])
    whole = {m for m in PARTS if conds and all(_replaces(cond.get(given_key(m))) for cond in conds)}

    tilted = guider.model_patcher
    sampling = tilted.get_model_object("model_sampling")
    log2_alpha = getattr(sampling, "log2_alpha", 0.0)  # core's own ModelSampling nodes have none
    if log2_alpha and "rgb" in whole:
        # With RGB given there is one clock: sigma is depth's level, on the schedule's own grid.
        log2_alpha, untilted = 0.0, _sampling(tilted.model.model_config, sampling.shift, 0.0)
        untilted.exact_depth = sampling.exact_depth
        guider.model_patcher = tilted.clone()
        guider.model_patcher.add_object_patch("model_sampling", untilted)
    options = guider.model_options.setdefault("transformer_options", {})
    shift = getattr(sampling, "shift", 0.0)
    exact = getattr(sampling, "exact_depth", False) or not on_base_levels(sigmas, shift)
    options[OPTIONS_KEY] = {"exact_depth": exact}
    if "depth" not in whole:
        check_tail(sigmas, shift, log2_alpha, exact)
    adapt(guider.model_options, conds, log2_alpha)
    _check_stage(latent_image, sigmas, log2_alpha)
    latent_image = _open_unknown(guider.model_options, latent_image, sigmas, whole)
    try:
        # A copy: core's uni_pc writes into the sigmas, which the node that made them keeps for the next run.
        output = executor(noise, latent_image, sampler, sigmas.clone(), *args, **kwargs)
    finally:
        guider.model_patcher = tilted
    if sigmas[-1] > 0:
        _unfinished[_fingerprint(output)] = log2_alpha
        while len(_unfinished) > REMEMBERED:
            _unfinished.popitem(last=False)
    return output


def used_conditions(guider: Any) -> dict[str, list[dict[str, Any]]]:
    """The guider's conditions by name, without those that it leaves out at guidance 1."""
    plain = type(guider).predict_noise is comfy.samplers.CFGGuider.predict_noise
    off = plain and math.isclose(guider.cfg, 1.0) and not guider.model_options.get("disable_cfg1_optimization")
    return {name: group for name, group in guider.conds.items() if group and not (off and name == "negative")}


def _replaces(given: Any) -> bool:
    return given is not None and given.replaces_modality


def _fit_area(cond: dict[str, Any], size: tuple[int, int]) -> None:
    """Bring a pixel area from core's cells of 8 pixels to ours of 16: the fewest that cover it."""
    area = cond.get("area")
    if area is None or area[0] == "percentage":
        return
    cells = PIXELS["ours"] // PIXELS["core"]
    spans = [(start // cells, -(-(start + length) // cells)) for length, start in zip(area[:2], area[2:], strict=True)]
    for (start, _), limit, side in zip(spans, size, ("height", "width"), strict=True):
        if start >= limit:
            raise ValueError(
                f"got an area that begins at {start * PIXELS['ours']} pixels of the {side}, the latent has "
                f"{limit * PIXELS['ours']}; move the area of 'Conditioning (Set Area)' into the picture."
            )
    cond["area"] = (*(stop - start for start, stop in spans), *(start for start, _ in spans))


def _check_stage(latent: Tensor, sigmas: Tensor, log2_alpha: float) -> None:
    """A later stage goes on from noise that another run has left, whose depth stands at that run's tilt."""
    if sigmas[0] >= 1 or not _unfinished or not latent.any():
        return
    made_with = _unfinished.get(_fingerprint(latent), log2_alpha)
    if made_with != log2_alpha:
        raise ValueError(
            f"got a latent that a run with log2_alpha {made_with:g} left unfinished, to be finished with log2_alpha "
            f"{log2_alpha:g}: depth's noise would not be that of its level. Use one 'RGB-D Schedule' for all stages, "
            "and give the image as a condition in all of them or in none."
        )


def _fingerprint(latent: Tensor) -> bytes:
    values = latent.flatten()
    return values[:: max(1, len(values) // 256)].float().cpu().numpy().tobytes()


def _open_unknown(model_options: dict[str, Any], latent: Tensor, sigmas: Tensor, whole: set[str]) -> Tensor:
    """What the latent does not know (NaN) is sampled, whatever the noise mask keeps. Returns the latent without NaN."""
    unknown = latent.isnan()
    if not unknown.any():
        return latent
    for modality, part in PARTS.items():
        if sigmas[0] < 1 and modality not in whole and unknown[:, part].flatten(1).all(1).any():
            raise ValueError(
                f"got a latent without {modality} for a run that begins at noise level {float(sigmas[0]):.2f} (denoise "
                f"below 1): {modality} cannot begin half-way from nothing. Connect a {modality} latent to 'Join RGB-D "
                "Latent' (for a picture without depth: 'Image as Condition' makes it), or set denoise to 1."
            )
    means = [latent[:, part].nanmean((1, 2, 3), keepdim=True).nan_to_num() for part in PARTS.values()]
    filled = [torch.where(unknown[:, p], m, latent[:, p]) for p, m in zip(PARTS.values(), means, strict=True)]
    other = model_options.get("denoise_mask_function")

    def opened(sigma: Tensor, mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        mask = mask if other is None else other(sigma, mask, extra_options=extra_options)
        return torch.where(unknown.to(mask.device), 1.0, mask)

    model_options["denoise_mask_function"] = opened
    return torch.cat(filled, dim=1)
