"""What other nodes have put on the model or the conditions of a run: made right for two modalities, or named.

Functions of core's guidance nodes take norms and differences over all channels. Here that would mix RGB with depth
divided by alpha, so the known ones run on each modality by itself, on its own state and level, as on a plain model.
"""

import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...model.diffusion.levels import per_sample
from ...model.diffusion.schedule import tilt, tilt_ratio
from .guidance import ModalityGuidance
from .latent_format import PARTS
from .notices import notice

# Keyed by the class of the node, which a function's qualified name begins with.
EACH_MODALITY = ("APG", "CFGNorm", "CFGZeroStar", "Mahiro", "RenormCFG", "RescaleCFG", "TCFG")
# These leave some of the noise in the last step, which an image hides and depth does not.
RGB_ONLY = ("EpsilonScaling", "TemporalScoreRescaling")
ONE_SAMPLE = ("RenormCFG", "TemporalScoreRescaling")  # they compare a tensor with a number, which fails for batches
REFUSED = {
    "SelfAttentionGuidance": "it reads the attention of a U-Net, which this model does not have",
    "LazyCache": "it keeps the noise of a step and would leave it in depth; EasyCache works",
}
NO_EFFECT = ("PerturbedAttentionGuidance",)
PATCHES = ("attn1_patch", "attn1_output_patch", "post_input")
TENSORS = ("denoised", "cond_denoised", "uncond_denoised")  # clean latents among a function's arguments
UNUSED_CONDITIONS = {
    "reference_latents": "Set Reference Latent",
    "guidance": "FluxGuidance (the model is not distilled; the sampler's cfg is its guidance)",
    "concat_latent_image": "InpaintModelConditioning (use Set Latent Noise Mask)",
    "gligen": "GLIGEN",
    "unclip_conditioning": "unCLIPConditioning",
}
FUNCTION_LISTS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")


def node_of(function: Any) -> str:
    """The class of the node that made a function: the first part of its qualified name."""
    return getattr(function, "__qualname__", type(function).__qualname__).split(".")[0]


def adapt(model_options: dict[str, Any], conds: list[dict[str, Any]], log2_alpha: float) -> None:
    """Refuse, name or adapt in place what the options of one run hold.

    Raises:
        ValueError: a node that cannot work with this model.
    """
    options = model_options["transformer_options"]
    for name in {*map(node_of, _functions(model_options)), getattr(options.get("easycache"), "name", "")}:
        if name in REFUSED:
            raise ValueError(f"{name} does not work with Modality Forcing: {REFUSED[name]}. Remove the node.")
    guidance = _guidance(model_options)
    if guidance is not None:
        _check_beside(guidance, model_options)
        functions = model_options["sampler_post_cfg_function"]
        functions.sort(
            key=lambda function: getattr(function, "__self__", None) is not guidance
        )  # it is guidance itself
    unused = {text for key, text in UNUSED_CONDITIONS.items() for cond in conds if cond.get(key) is not None}
    unused.update(name for name in map(node_of, _functions(model_options)) if name in NO_EFFECT)
    unused.update(_unused_patches(options))
    if unused:
        notice(f"No effect with a Modality Forcing model: {', '.join(sorted(unused))}.")
    for key in FUNCTION_LISTS:
        if key in model_options:
            model_options[key] = [_adapted(function, log2_alpha) for function in model_options[key]]
    if "sampler_cfg_function" in model_options:
        model_options["sampler_cfg_function"] = _adapted(model_options["sampler_cfg_function"], log2_alpha)


def _guidance(model_options: dict[str, Any]) -> ModalityGuidance | None:
    maker = getattr(model_options.get("sampler_calc_cond_batch_function"), "__self__", None)
    return maker if isinstance(maker, ModalityGuidance) else None


def _check_beside(guidance: ModalityGuidance, model_options: dict[str, Any]) -> None:
    names = [node_of(function) for function in _functions(model_options)]
    if "sampler_cfg_function" in model_options:
        raise ValueError(
            f"{node_of(model_options['sampler_cfg_function'])} and RGB-D Guidance both take guidance over; remove one."
        )
    others = [name for name in names if name in EACH_MODALITY]
    if others and not all(weights.always and weights.cfg != 1 for weights in guidance.weights.values()):
        raise ValueError(
            f"{', '.join(others)} needs guidance in all steps and in both modalities. With it, set 'RGB-D Guidance' to "
            "weights other than 1, from 0 to 1 of the run."
        )


def _functions(model_options: dict[str, Any]) -> Iterator[Any]:
    for key in FUNCTION_LISTS:
        yield from model_options.get(key, ())
    if "sampler_cfg_function" in model_options:
        yield model_options["sampler_cfg_function"]


def _unused_patches(options: dict[str, Any]) -> Iterator[str]:
    for kind, patches in options.get("patches", {}).items():
        if kind not in PATCHES:
            yield from (f"{node_of(patch)} ({kind})" for patch in patches)
    for kind, patches in options.get("patches_replace", {}).items():
        if kind != "dit":
            yield from (f"{node_of(patch)} ({kind} replacement)" for patch in patches.values())


def _adapted(function: Callable, log2_alpha: float) -> Callable:
    name = node_of(function)
    if name not in (*EACH_MODALITY, *RGB_ONLY):
        return function
    functions = {modality: _twin(function) for modality in (PARTS if name in EACH_MODALITY else ("rgb",))}

    def adapted(args: dict[str, Any]) -> Any:
        rows = _rows(args) if name in ONE_SAMPLE else [args]
        results = [_on_each(functions, row, log2_alpha) for row in rows]
        return torch.cat(results) if len(results) > 1 else results[0]

    return adapted


def _rows(args: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments for each sample of the batch."""
    tensors = {key: value for key, value in args.items() if isinstance(value, Tensor)}
    return [{**args, **{key: value[i : i + 1] for key, value in tensors.items()}} for i in range(len(args["input"]))]


def _twin(function: types.FunctionType) -> types.FunctionType:
    """The function with variables of its own: what APG remembers of one modality does not fit the other."""
    closure = tuple(types.CellType(cell.cell_contents) for cell in function.__closure__ or ())
    return types.FunctionType(function.__code__, function.__globals__, closure=closure)


def _on_each(functions: dict[str, Callable], args: dict[str, Any], log2_alpha: float) -> Any:
    """Call each modality's function on its channels; depth as itself at its own level, not as samplers carry it."""
    results = {m: function(_view(args, m, log2_alpha)) for m, function in functions.items()}
    alpha = 2.0**log2_alpha
    if isinstance(results["rgb"], list):  # before guidance: the clean latents of all conditions
        parts = [[clean[:, part] for clean in args["conds_out"]] for part in PARTS.values()]
        parts[: len(results)] = results.values()
        if "depth" in results:
            parts[1] = [clean / alpha for clean in parts[1]]
        return [torch.cat(pair, dim=1) for pair in zip(*parts, strict=True)]
    if "cond" in args and isinstance(args["cond"], Tensor):  # in place of guidance: input - clean
        noisy = _view(args, "depth", log2_alpha)["input"]
        x = args["input"][:, PARTS["depth"]]
        return torch.cat([results["rgb"], x - (noisy - results["depth"]) / alpha], dim=1)
    depth = results["depth"] / alpha if "depth" in results else args["denoised"][:, PARTS["depth"]]
    return torch.cat([results["rgb"], depth], dim=1)


def _view(args: dict[str, Any], modality: str, log2_alpha: float) -> dict[str, Any]:
    """The arguments as a model of this modality alone would give them."""
    part, scale = PARTS[modality], 2.0**log2_alpha if modality == "depth" else 1.0
    view = {**args, **{key: args[key][:, part] * scale for key in TENSORS if isinstance(args.get(key), Tensor)}}
    view["input"] = args["input"][:, part]
    if modality == "depth":
        view["input"] = view["input"] * per_sample(tilt_ratio(args["sigma"], log2_alpha), view["input"])
        view["sigma"] = view["timestep"] = tilt(args["sigma"], log2_alpha)
    if "conds_out" in args:
        view["conds_out"] = [clean[:, part] * scale for clean in args["conds_out"]]
    guidance = _guidance(args["model_options"])
    if guidance is not None:
        view["cond_scale"] = guidance.cfg(modality, args)
    for key in ("cond", "uncond"):
        if isinstance(args.get(key), Tensor):
            view[key] = view["input"] - view[f"{key}_denoised"]
    return view
