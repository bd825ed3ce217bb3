"""What surrounds a whole sampling run: the schedule on the model, and checks of what the run is given."""

from typing import Any

import comfy.patcher_extension
from torch import Tensor

from .latent_format import PARTS
from .model import ModalityForcingModel, TwoClockSampling, given_key

WRAPPER_KEY = "modality_forcing"


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
    for modality in PARTS:
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
