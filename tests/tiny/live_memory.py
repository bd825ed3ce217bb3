"""Bytes that tensors hold while a step of the trainer runs, on any device."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the storages that are alive after each operation; `peak`: the most. `held`: what was there."""

    def __init__(self, held):
        super().__init__()
        self.found, self.peak = {}, 0
        for tensor in held:
            self._note(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf)
        self.peak = max(self.peak, self._bytes())
        return result

    def _note(self, tensor):
        tensor = getattr(tensor, "_local_tensor", tensor)
        if hasattr(tensor, "__tensor_flatten__"):  # weights in 8 bits are tensors around tensors
            for name in tensor.__tensor_flatten__()[0]:
                self._note(getattr(tensor, name))
            return
        storage = tensor.untyped_storage()
        self.found[id(storage)] = weakref.ref(storage)

    def _bytes(self):
        alive = {number: storage for number, reference in self.found.items() if (storage := reference()) is not None}
        self.found = {number: self.found[number] for number in alive}
        return sum(storage.nbytes() for storage in alive.values())


def peak_of_a_step(trainer, log):
    """Bytes of a step, after two others have made what stays."""
    batches, parts = trainer.batches(0), trainer.parts
    for step in range(2):
        trainer.update(step, batches, log)
    moments = [value for each in parts.optimisers for state in each.state.values() for value in state.values()]
    teacher = [] if parts.teacher is None else list(parts.teacher.parameters())
    held = [*parts.model.module.parameters(), *parts.averages.averages.values(), *moments, *teacher]
    with LiveMemory(held) as live:
        trainer.update(2, batches, log)
    return live.peak
