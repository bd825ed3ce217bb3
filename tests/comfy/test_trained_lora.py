"""A LoRA that the trainer made, through core's own LoRA loader, beside the checkpoint that it was merged into."""

import json
import os
from shutil import copyfile

import pytest
import random_model
import torch
from graphs import Graph, relative_error
from modality_forcing.model.demo.text import TextEncoder
from modality_forcing.model.diffusion.sampling import sample
from modality_forcing.model.network.checkpoint import load_transformer
from modality_forcing.model.training.__main__ import main
from modality_forcing.tasks.host.launch import keep_torchvision_importable
from safetensors.torch import load_file, save_file

keep_torchvision_importable()  # peft imports transformers, which does
CONFIG = """
output = "TMP/run"
model = { start = "MODEL" }
codec = { text = "" }
data = { kind = "latents", path = "TMP/store" }
lora = { rank = 4, alpha = 8, base = "float32" }
optimiser = { learning_rate = 1e-2, warmup_steps = 1 }
training = { steps = 4, batch = 4 }
log = { samples_every = 0, evaluate_every = 0, tensorboard = false, progress = false, checkpoint_every = 0 }
"""


def write_store(folder, words):
    """Random latents with random words."""
    folder.mkdir()
    generator, encoder = torch.Generator().manual_seed(0), TextEncoder.load(words)
    text = torch.randint(2, len(encoder.words), (12, encoder.length), generator=generator)
    depth = torch.rand(12, 256, 2, 2, generator=generator)
    part = {"rgb": torch.randn(12, 128, 2, 2, generator=generator), "depth": depth, "text": text}
    save_file({name: x.to(torch.int16 if name == "text" else torch.half) for name, x in part.items()},
              folder / "part-000000.safetensors")  # fmt: skip
    copyfile(words, folder / "words.json")
    (folder / "store.json").write_text(json.dumps({"text": "tokens", "far_code": 2.0, "mirror": False}))


def test_a_trained_lora_loads_in_core_and_does_what_merging_does(server, tmp_path):
    pytest.importorskip("peft")
    file = random_model.write(server.models / "modality_forcing_small" / "lora")
    write_store(tmp_path / "store", file.parent / "words.json")
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.replace("TMP", tmp_path.as_posix()).replace("MODEL", file.as_posix()))
    assert main(["train", str(config)]) == 0
    lora, merged = tmp_path / "run" / "lora.safetensors", tmp_path / "merged.safetensors"
    assert main(["merge", str(file), str(lora), str(merged), "--float32"]) == 0
    target = server.models / "loras" / "trained.safetensors"
    target.parent.mkdir(exist_ok=True)
    copyfile(lora, target)

    encoder = TextEncoder.load(file.parent / "words.json")
    context, null = encoder.encode(["a red ball on a table"]), encoder.encode([""])

    def by_nodes(strength: float) -> torch.Tensor:
        graph, out = Graph(), tmp_path / f"out{strength}.safetensors"
        loaded = graph.add("ModalityForcingLoadSmall", model_name=os.path.join("lora", file.name))
        adapted = graph.add(
            "LoraLoaderModelOnly", model=loaded, lora_name="trained.safetensors", strength_model=strength
        )
        schedule = graph.add("ModalityForcingSchedule", model=adapted, steps=3, shift=1.1, log2_alpha=2.0)
        texts = [graph.add("CLIPTextEncode", clip=loaded[1], text=text) for text in ("a red ball on a table", "")]
        sampled = graph.add(
            "SamplerCustom",
            model=schedule,
            add_noise=True,
            noise_seed=3,
            cfg=2.0,
            positive=texts[0],
            negative=texts[1],
            sampler=graph.add("KSamplerSelect", sampler_name="euler"),
            sigmas=schedule[1],
            latent_image=graph.add("ModalityForcingEmptyLatent", width=64, height=48, batch_size=1),
        )
        graph.add("TestSaveLatent", latent=sampled, file=str(out))
        server.run(graph.prompt)
        return load_file(out)["samples"]

    def plain(checkpoint) -> torch.Tensor:
        noise = torch.randn((1, 384, 3, 4), generator=torch.manual_seed(3)).split([128, 256], dim=1)
        options = {"steps": 3, "mode": "joint", "cfg": 2.0, "log2_alpha": 2.0}
        return torch.cat(sample(load_transformer(checkpoint), *noise, context, null, **options), dim=1)

    with_lora, without = plain(merged), plain(file)
    assert relative_error(without, with_lora) > 0.01
    assert relative_error(by_nodes(1.0), with_lora) < 1e-4
    assert relative_error(by_nodes(0.0), without) < 1e-4
