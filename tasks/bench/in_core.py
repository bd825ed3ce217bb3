"""The bundled model in this process, under ComfyUI's own samplers, with its calls counted."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...model.diffusion.given import Given
from ...model.diffusion.schedule import DEFAULT_MU, shift
from .. import SMALL_MODEL
from .bundled import Bundled, Depth, decoded
from .cost import import_host


@dataclass(frozen=True)
class Setting:
    """A run. span: share of it from which to which guidance acts; cache: EasyCache's threshold, 0 without; exact: as
    `exact_depth` of RGB-D Schedule, for a reference; scheduler: of ComfyUI, in the place of RGB-D Schedule's sigmas;
    shift, spread: of these, see `diffusion.schedule.shift`; every: steps from one unconditional call to the next."""

    solver: str
    steps: int
    log2_alpha: float = 0.0
    cfg: float = 1.0
    span: tuple[float, float] = (0.0, 1.0)
    cache: float = 0.0
    exact: bool = False
    scheduler: str = ""
    shift: float = DEFAULT_MU
    spread: float = 1.0
    every: int = 1


@dataclass(frozen=True)
class Result:
    """rgb (B,128,h,w) and codes of depth (B,256,h,w); calls: of the network for each picture, guided steps counting
    two."""

    rgb: Tensor
    codes: Tensor
    calls: float

    @property
    def depth(self) -> Depth:
        return decoded(self.codes)


class InCore:
    """Runs settings on the scenes of a `Bundled`, all from the same noise."""

    def __init__(self, bundled: Bundled) -> None:
        self.host = import_host()
        from ...nodes.native.loading import load_model

        self.bundled, self.count = bundled, len(bundled.given)
        self.noise = torch.cat([bundled.rgb, bundled.depth], dim=1)
        self.patcher = load_model(str(SMALL_MODEL))
        self.rows = 0
        self.patcher.model.diffusion_model.img_in.register_forward_hook(self._counted)

    def _counted(self, _layer: Any, _inputs: Any, output: Tensor) -> None:
        self.rows += len(output)

    def schedulers(self) -> list[str]:
        """The names of ComfyUI's schedulers."""
        import comfy.samplers

        return list(comfy.samplers.SCHEDULER_NAMES)

    def joint(self, setting: Setting) -> Result:
        return self._run(setting, self.bundled.text, {})

    def image_to_depth(self, setting: Setting, rgb: Tensor) -> Result:
        """rgb: (B,128,h,w), given."""
        from ...nodes.native.model import given_key

        return self._run(setting, self.bundled.empty, {given_key("rgb"): Given(rgb, None, 1.0, 0.0, 1.0)})

    def _run(self, setting: Setting, text: Tensor, given: dict[str, Given]) -> Result:
        import comfy.samplers

        from ...nodes.native.guidance import Weights, guider
        from ...nodes.native.run_checks import tilt_depth

        patcher = tilt_depth(self.patcher, setting.shift, setting.log2_alpha, setting.exact)
        if setting.cache:
            from comfy_extras.nodes_easycache import EasyCacheNode

            (patcher,) = EasyCacheNode.execute(patcher, setting.cache, 0.15, 0.95, False).args
        texts = ([[words.expand(self.count, -1, -1), dict(given)]] for words in (text, self.bundled.empty))
        weights = Weights(setting.cfg, *setting.span)
        made = guider(patcher, {"rgb": weights, "depth": weights}, *texts)
        if setting.every > 1:
            made.model_options["sampler_calc_cond_batch_function"] = HeldGuidance(setting.every)
        sampler = comfy.samplers.sampler_object(setting.solver)
        sigmas = shift(torch.linspace(1, 0, setting.steps + 1, dtype=torch.float64), setting.shift, setting.spread)
        if setting.scheduler:
            sampling = patcher.get_model_object("model_sampling")
            sigmas = comfy.samplers.calculate_sigmas(sampling, setting.scheduler, setting.steps)
        self.rows = 0
        out = made.sample(self.noise, torch.zeros_like(self.noise), sampler, sigmas.float(), disable_pbar=True, seed=0)
        rgb, codes = out.split([128, 256], dim=1)
        return Result(rgb, codes, self.rows / self.count)


class HeldGuidance:
    """In the place of core's `calc_cond_batch`: an unconditional call at every n-th step only.

    In between, what it differed by from the conditional prediction is held (arXiv 2312.12487 fits it).
    """

    def __init__(self, every: int) -> None:
        self.every, self.step, self.difference = every, 0, None

    def __call__(self, args: dict[str, Any]) -> list[Tensor]:
        import comfy.samplers

        with_prompt, empty = args["conds"]
        whole = self.step % self.every == 0
        conds = [with_prompt, empty if whole else None]
        out = comfy.samplers.calc_cond_batch(args["model"], conds, args["input"], args["sigma"], args["model_options"])
        if whole:
            self.difference = out[0] - out[1]
        self.step += 1
        return [out[0], out[0] - self.difference]
