"""Checkpoints to continue from: written whole or not at all, the last few kept, checked before they are used.

Torch's distributed checkpoint format, so a run can be continued with another number of processes. Weights, averages and
optimiser state are all there is: data order, levels and noise are functions of the seed and the step (`order`), and so
is the learning rate, hence there are no generator states or schedulers to save.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import Config, ConfigError, decisive
from .optimisation import AveragedWeights

LOG = logging.getLogger(__name__)
NOTES = "run.json"
PREFIX = "step-"
DAMAGED = "damaged-"  # put before the name of a checkpoint that cannot be used


class SaveFailed(OSError):
    """A checkpoint could not be written; those before it are as they were."""


class DamagedCheckpoint(ValueError):
    """None of a run's checkpoints can be used."""


def save(
    folder: Path,
    step: int,
    config: Config,
    module: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    averages: AveragedWeights,
    accelerator: Any,
) -> Path:
    """Write the state after `step` steps to folder/step-<step>, from all processes together; drop the oldest ones.

    The files are written beside the final name, which appears only when all of them are complete.

    Raises:
        SaveFailed: in all processes, where one of them could not write (the disk is full, for instance). Nothing is
            left of the attempt, and no older checkpoint has been dropped.
    """
    from torch.distributed import checkpoint as dcp

    from .checkpoint_files import sums

    final = folder / f"{PREFIX}{step:08d}"
    part = folder / f".{final.name}.part"
    main = accelerator.is_main_process

    def make_room() -> None:
        if main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)

    def write() -> dict[str, list[int]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that one process saves alone, which is meant
            dcp.save(state, checkpoint_id=part)
        return sums(part, accelerator.process_index)

    def finish() -> None:
        if main:
            notes = {"step": step, "settings": decisive(config), "files": files}
            (part / NOTES).write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
            for old in list_checkpoints(folder)[: -config.log.keep]:
                shutil.rmtree(old)

    state = _state(module, optimisers, averages)
    try:
        _together(accelerator, make_room)
        files = {name: each for found in _together(accelerator, write) for name, each in found.items()}
        _together(accelerator, finish)
    except (SaveFailed, KeyboardInterrupt) as error:
        if main:
            shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            raise
        last = next(reversed(list_checkpoints(folder)), None)
        raise SaveFailed(
            f"could not save {final}: {error}. Is the disk full? "
            + (f"{last} is whole, and the same command continues there" if last else "There is no checkpoint yet")
        ) from error
    return final


def load(
    path: Path, config: Config, module: nn.Module, optimisers: list[torch.optim.Optimizer], averages: AveragedWeights
) -> int:
    """Bring module, optimisers and averages to a checkpoint's state; returns the number of steps done.

    Raises:
        ConfigError: the checkpoint comes from a run with other settings; lists them.
    """
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import set_state_dict

    from .checkpoint_files import Planner, Reader

    notes = json.loads((path / NOTES).read_text(encoding="utf-8"))
    defaults = json.loads(json.dumps(decisive(Config(output=""))))  # of settings that there were not yet
    now, then = json.loads(json.dumps(decisive(config))), notes["settings"]
    changed = [
        f"{key}: {then.get(key, defaults[key])!r} then, {now[key]!r} now"
        for key in sorted(now)
        if then.get(key, defaults[key]) != now[key]
    ]
    if changed:
        raise ConfigError(
            f"{path} was made with other settings, so this run would not be its continuation: {'; '.join(changed)}. "
            "Put them back; or choose another output folder, where model.start can take the finished model on."
        )
    state = _state(module, optimisers, averages)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, storage_reader=Reader(path), planner=Planner())
        set_state_dict(
            module,
            optimisers,
            model_state_dict=state["model"],
            optim_state_dict=state["optimiser"],
            options=_options(module),
        )
    return notes["step"]


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / NOTES).is_file())


def newest_whole(folder: Path, accelerator: Any) -> Path | None:
    """The newest checkpoint whose files are what was written, or None where there is no checkpoint.

    Newer ones that are damaged are kept under another name. All processes read, each a part of the files.

    Raises:
        DamagedCheckpoint: there are checkpoints, but not one that is whole.
    """
    found = list_checkpoints(folder)
    damaged: list[tuple[Path, str]] = []
    for path in reversed(found):
        problem = _damage(path, accelerator)
        if not problem:
            break
        damaged.append((path, problem))
    else:
        if found:
            list_of_all = "; ".join(f"{path.name}: {problem}" for path, problem in damaged)
            raise DamagedCheckpoint(
                f"no checkpoint in {folder} is whole ({list_of_all}). Delete them to begin anew, or put a copy back."
            )
        return None
    for broken, problem in damaged:
        LOG.warning("%s is damaged (%s); going on from %s. It is kept as %s", broken, problem, path, _kept(broken).name)
        if accelerator.is_main_process:
            shutil.rmtree(_kept(broken), ignore_errors=True)
            broken.rename(_kept(broken))
    return path


def _kept(path: Path) -> Path:
    return path.with_name(DAMAGED + path.name)


def _damage(path: Path, accelerator: Any) -> str:
    """What is wrong with a checkpoint, the same in all processes; "" if nothing is."""
    from accelerate.utils import gather_object

    from .checkpoint_files import damage

    try:
        notes = json.loads((path / NOTES).read_text(encoding="utf-8"))
        step, files = notes["step"], notes.get("files")
        problem = "" if path.name == f"{PREFIX}{step:08d}" else f"{NOTES} is of step {step}"
        if files is None:
            LOG.warning("%s was written without sums: whether its data are whole is not known", path)
        elif not problem:
            problem = damage(path, files, accelerator.process_index, accelerator.num_processes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{NOTES} cannot be read: {error}"
    return next(filter(None, gather_object([problem])), "")


def _together(accelerator: Any, work: Callable[[], Any]) -> list[Any]:
    """Every process' result; SaveFailed in all of them where one could not write."""
    from accelerate.utils import gather_object
    from torch.distributed.checkpoint import CheckpointException

    try:
        outcome = (work(), "")
    except CheckpointException as error:
        failures = [failure for failure, _ in error.failures.values()]
        if any(isinstance(failure, KeyboardInterrupt) for failure in failures):  # torch wraps this one as well
            raise KeyboardInterrupt from error
        outcome = (None, "; ".join(map(_said, failures)))
    except (OSError, RuntimeError) as error:  # torch's writer knows the second only
        outcome = (None, _said(error))
    outcomes = gather_object([outcome])
    wrong = [message for _, message in outcomes if message]
    if wrong:
        raise SaveFailed(wrong[0])
    return [value for value, _ in outcomes]


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _state(module: nn.Module, optimisers: list[torch.optim.Optimizer], averages: AveragedWeights) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimiser_state = get_state_dict(module, optimisers, options=_options(module))
    return {"model": model, "optimiser": optimiser_state, "averages": averages.averages}


def _options(module: nn.Module) -> Any:
    """Beside adapters the frozen weights are not saved: they are those of the file that training began from."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    adapted = hasattr(module, "peft_config")
    return StateDictOptions(ignore_frozen_params=adapted, strict=not adapted)
