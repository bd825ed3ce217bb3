"""Checkpoints to continue from: written whole or not at all, the last few kept.

Torch's distributed checkpoint format, so a run can be continued with another number of processes. Weights, averages and
optimiser state are all there is: data order, levels and noise are functions of the seed and the step (`order`), and so
is the learning rate, hence there are no generator states or schedulers to save.
"""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import Config, ConfigError, decisive, fingerprint
from .optimisation import AveragedWeights

NOTES = "run.json"
PREFIX = "step-"


def save(
    folder: Path,
    step: int,
    config: Config,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    averages: AveragedWeights,
    accelerator: Any,
) -> Path:
    """Write the state after `step` steps to folder/step-<step>, from all processes together; drop the oldest ones.

    The files are written beside the final name, which appears only when all of them are complete.
    """
    from torch.distributed import checkpoint as dcp

    final = folder / f"{PREFIX}{step:08d}"
    part = folder / f".{final.name}.part"
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    accelerator.wait_for_everyone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that one process saves alone, which is meant
        dcp.save(_state(module, optimiser, averages), checkpoint_id=part)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        notes = {"step": step, "fingerprint": fingerprint(config), "settings": decisive(config)}
        (part / NOTES).write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        for old in list_checkpoints(folder)[: -config.log.keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load(
    path: Path, config: Config, module: nn.Module, optimiser: torch.optim.Optimizer, averages: AveragedWeights
) -> int:
    """Bring module, optimiser and averages to a checkpoint's state; returns the number of steps done.

    Raises:
        ConfigError: the checkpoint comes from a run with other settings; lists them.
    """
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    notes = json.loads((path / NOTES).read_text(encoding="utf-8"))
    if notes["fingerprint"] != fingerprint(config):
        now = json.loads(json.dumps(decisive(config)))
        changed = [
            f"{key}: {notes['settings'].get(key)!r} then, {now.get(key)!r} now"
            for key in sorted(now.keys() | notes["settings"].keys())
            if notes["settings"].get(key) != now.get(key)
        ]
        raise ConfigError(
            f"{path} was made with other settings, so this run would not be its continuation: {'; '.join(changed)}. "
            "Put them back, or choose another output folder."
        )
    state = _state(module, optimiser, averages)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=path)
        set_state_dict(
            module,
            optimiser,
            model_state_dict=state["model"],
            optim_state_dict=state["optimiser"],
            options=StateDictOptions(),
        )
    return notes["step"]


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / NOTES).is_file())


def _state(module: nn.Module, optimiser: torch.optim.Optimizer, averages: AveragedWeights) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimiser_state = get_state_dict(module, optimiser)
    return {"model": model, "optimiser": optimiser_state, "averages": averages.averages}
