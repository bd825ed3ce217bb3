"""Tests with tiny models, some of which import diffusers and transformers; training runs over random latents."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from modality_forcing.model.demo.text import TextEncoder
from modality_forcing.model.training.__main__ import main
from modality_forcing.model.training.config import load
from modality_forcing.tasks.host.launch import keep_torchvision_importable
from safetensors.torch import save_file

keep_torchvision_importable()
sys.path.append(str(Path(__file__).resolve().parent))  # for live_memory.py

CONFIG = """
output = "TMP/run"
[model]
hidden_size = 32
num_heads = 2
double_blocks = 1
single_blocks = 1
decoder_blocks = 1
freeze_image = false
[data]
kind = "latents"
path = "TMP/store"
[optimiser]
learning_rate = 1e-2
warmup_steps = 1
[training]
steps = 8
batch = 8
[log]
every = 1
checkpoint_every = 3
samples_every = 0
evaluate_every = 0
tensorboard = false
progress = false
"""


@pytest.fixture(autouse=True)
def forget_precision() -> Iterator[Callable[[], None]]:
    """After each test, and when it is called: Accelerate holds one precision for the whole process."""

    def forget() -> None:
        if "accelerate.state" in sys.modules:
            sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)

    yield forget
    forget()


@pytest.fixture
def path(tmp_path) -> Path:
    """A configuration over a store of random latents."""
    store = tmp_path / "store"
    random_store(store, 30)
    file = tmp_path / "run.toml"
    file.write_text(CONFIG.replace("TMP", tmp_path.as_posix()), encoding="utf-8")
    return file


def random_store(store: Path, n: int) -> None:
    """A folder of `n` encoded samples of 32 x 32 pixels."""
    generator = torch.Generator().manual_seed(0)
    store.mkdir()
    depth = torch.rand(n, 256, 2, 2, generator=generator) * 1.5
    depth[torch.rand(depth.shape, generator=generator) < 0.3] = torch.nan
    part = {
        "rgb": torch.randn(n, 128, 2, 2, generator=generator).half(),
        "depth": depth.half(),
        "text": torch.randint(0, 9, (n, 6), generator=generator).to(torch.int16),
    }
    part |= {f"{name}_mirrored": part[name].flip(0).contiguous() for name in ("rgb", "text")}
    save_file(part, store / "part-000000.safetensors")
    TextEncoder(tuple("abcdefg"), 6).save(store / "words.json")
    (store / "store.json").write_text(json.dumps({"text": "tokens", "far_code": 2.0, "mirror": True}))


@pytest.fixture
def train(path):
    """Trains in this process, with changed settings; returns the configuration."""

    def run(*changes: str):
        assert main(["train", str(path), *(part for change in changes for part in ("--set", change))]) == 0
        return load(path, list(changes))

    return run
