"""Load Small Model: its MODEL, CLIP and VAE in core's own nodes, beside the plain modules."""

import os
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import pytest
import random_model
import torch
from graphs import Graph, Node, relative_error
from modality_forcing.model.demo.image_codec import ImageCodec
from modality_forcing.model.demo.text import TextEncoder
from modality_forcing.model.diffusion.sampling import sample
from modality_forcing.model.network.checkpoint import load_transformer
from modality_forcing.model.scenes import generate
from modality_forcing.tasks.host.server import GraphError, Server
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-4
FOLDER = "modality_forcing_small"


@dataclass
class Small:
    """A small model that the server offers as `name`, and its files."""

    server: Server
    folder: Path
    name: str
    out: Path

    def add(self, graph: Graph) -> Node:
        return graph.add("ModalityForcingLoadSmall", model_name=self.name)

    def run(self, graph: Graph, kind: str, **value) -> torch.Tensor:
        file = self.out / f"{len(list(self.out.iterdir()))}.safetensors"
        graph.add(f"TestSave{kind}", file=str(file), **value)
        self.server.run(graph.prompt)
        (tensor,) = load_file(file).values()
        return tensor

    def tensor(self, graph: Graph, kind: str, value: torch.Tensor) -> Node:
        file = self.out / f"in{len(list(self.out.iterdir()))}.safetensors"
        save_file({"x": value.contiguous()}, file)
        return graph.add(f"Test{kind}", file=str(file), key="x")


@pytest.fixture(scope="module")
def written(server) -> Path:
    return random_model.write(server.models / FOLDER / "random")


@pytest.fixture
def small(server, written, tmp_path) -> Small:
    return Small(server, written.parent, os.path.join("random", written.name), tmp_path)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """(2,64,96,3)"""
    return generate([40, 41], (64, 96)).rgb.movedim(1, -1)


def test_the_list_shows_transformers_only(small):
    info = small.server.get_json("/object_info/ModalityForcingLoadSmall")["ModalityForcingLoadSmall"]
    kind, *options = info["input"]["required"]["model_name"]
    choices = options[0]["options"] if kind == "COMBO" else kind
    assert small.name in choices and "image_codec.safetensors" not in [os.path.basename(name) for name in choices]


def test_joint_equals_the_plain_modules(small):
    graph, seed, prompt = Graph(), 3, "a red ball on a table"
    loaded = small.add(graph)
    schedule = graph.add("ModalityForcingSchedule", model=loaded, steps=4, shift=1.1, log2_alpha=5.0)
    texts = [graph.add("CLIPTextEncode", clip=loaded[1], text=text) for text in (prompt, "")]
    sampled = graph.add(
        "SamplerCustom",
        model=schedule,
        add_noise=True,
        noise_seed=seed,
        cfg=4.0,
        positive=texts[0],
        negative=texts[1],
        sampler=graph.add("KSamplerSelect", sampler_name="euler"),
        sigmas=schedule[1],
        latent_image=graph.add("ModalityForcingEmptyLatent", width=64, height=48, batch_size=2),
    )
    got = small.run(graph, "Latent", latent=sampled)

    words = TextEncoder.load(small.folder / "words.json")
    noise = torch.randn((2, 384, 3, 4), generator=torch.manual_seed(seed))
    want = sample(
        load_transformer(small.folder / random_model.NAME),
        *noise.split([128, 256], dim=1),
        words.encode([prompt]).expand(2, -1, -1),
        words.encode([""]).expand(2, -1, -1),
        steps=4,
        mode="joint",
        cfg=4.0,
        log2_alpha=5.0,
    )
    assert relative_error(got, torch.cat(want, dim=1)) < TOLERANCE


def test_words_reach_the_conditioning_and_unknown_ones_are_named_once(small):
    def encoded(text: str) -> torch.Tensor:
        graph = Graph()
        loaded = small.add(graph)
        schedule = graph.add("ModalityForcingSchedule", model=loaded, steps=1, shift=1.1, log2_alpha=0.0)
        positive, negative = (graph.add("CLIPTextEncode", clip=loaded[1], text=t) for t in (text, ""))
        sampled = graph.add(
            "KSampler",
            model=schedule,
            seed=0,
            steps=1,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            positive=positive,
            negative=negative,
            latent_image=graph.add("ModalityForcingEmptyLatent", width=16, height=16, batch_size=1),
            denoise=1.0,
        )
        return small.run(graph, "Latent", latent=sampled)

    plain = encoded("a red ball")
    assert torch.equal(encoded("a red zeppelin ball"), plain)
    encoded("the red zeppelin, a ball!")
    assert not torch.equal(encoded("a blue ball"), plain)
    assert small.server.log_tail(200).count("does not know the words zeppelin and leaves them out") == 1


@pytest.mark.parametrize("tiled", [False, True])
def test_vae_equals_the_codec(small, pictures, tiled):
    codec = ImageCodec.load(small.folder / "image_codec.safetensors")
    latent = codec.encode(pictures.movedim(-1, 1))
    suffix, tile, times = ("Tiled", {"tile_size": 64, "overlap": 32}, {"temporal_size": 64, "temporal_overlap": 8})
    if not tiled:
        suffix, tile, times = "", {}, {}
    graph = Graph()
    image = small.tensor(graph, "Image", pictures)
    got = small.run(
        graph, "Latent", latent=graph.add(f"VAEEncode{suffix}", pixels=image, vae=small.add(graph)[2], **tile, **times)
    )
    assert relative_error(got, latent) < TOLERANCE  # tiles too: the random model's codec is linear in each patch
    graph = Graph()
    samples = small.tensor(graph, "Latent", latent)
    decoded = graph.add(f"VAEDecode{suffix}", samples=samples, vae=small.add(graph)[2], **tile, **times)
    got = small.run(graph, "Image", image=decoded)
    assert got.shape == pictures.shape
    want = codec.decode(latent).clamp(0, 1).movedim(1, -1)
    assert (got - want).abs().max() < TOLERANCE
    assert (got - pictures).abs().mean() < 0.1


def test_vae_crops_around_the_centre_and_takes_alpha(small, pictures):
    big = torch.zeros(1, 64 + 7, 96 + 12, 4)
    big[:, 3:67, 6:102, :3] = pictures[:1]
    graph = Graph()
    encoded = graph.add("VAEEncode", pixels=small.tensor(graph, "Image", big), vae=small.add(graph)[2])
    got = small.run(graph, "Latent", latent=encoded)
    codec = ImageCodec.load(small.folder / "image_codec.safetensors")
    assert relative_error(got, codec.encode(pictures[:1].movedim(-1, 1))) < 1e-5


def test_inpaint_encoding_of_core_accepts_the_vae(small, pictures):
    graph = Graph()
    mask = small.tensor(graph, "Mask", torch.zeros(1, 64, 96))
    image, vae = small.tensor(graph, "Image", pictures[:1]), small.add(graph)[2]
    got = small.run(
        graph, "Latent", latent=graph.add("VAEEncodeForInpaint", pixels=image, vae=vae, mask=mask, grow_mask_by=6)
    )
    assert got.shape == (1, 128, 4, 6)


@pytest.mark.parametrize(
    ("channels", "hint"), [(384, "Split RGB-D Latent"), (256, "Decode Depth"), (16, "another model")]
)
@pytest.mark.parametrize("node", ["VAEDecode", "VAEDecodeTiled"])
def test_a_latent_of_another_kind_is_refused(small, channels, hint, node):
    graph = Graph()
    samples = small.tensor(graph, "Latent", torch.zeros(1, channels, 4, 4))
    tile = {} if node == "VAEDecode" else dict(tile_size=64, overlap=0, temporal_size=8, temporal_overlap=4)
    decoded = graph.add(node, samples=samples, vae=small.add(graph)[2], **tile)
    with pytest.raises(GraphError, match=rf"\(1, {channels}, 4, 4\).*{hint}"):
        small.run(graph, "Image", image=decoded)


@pytest.mark.parametrize("missing", ["image_codec.safetensors", "words.json"])
def test_an_incomplete_folder_is_named(small, missing):
    folder = small.folder.parent / f"without {missing}"
    copytree(small.folder, folder)
    (folder / missing).unlink()
    small.name = small.name.replace("random", folder.name, 1)
    graph = Graph()
    latent = graph.add("ModalityForcingEmptyLatent", width=16, height=16, batch_size=1)
    with pytest.raises(GraphError, match=f"does not hold {missing}"):
        small.run(graph, "Image", image=graph.add("VAEDecode", samples=latent, vae=small.add(graph)[2]))


def test_words_of_another_training_are_refused(small):
    folder = small.folder.parent / "other words"
    copytree(small.folder, folder)
    TextEncoder(("one", "two")).save(folder / "words.json")
    small.name = small.name.replace("random", folder.name, 1)
    graph = Graph()
    latent = graph.add("ModalityForcingEmptyLatent", width=16, height=16, batch_size=1)
    with pytest.raises(GraphError, match=r"takes text \d+ wide.*gives 16: these files are not of one training"):
        small.run(graph, "Image", image=graph.add("VAEDecode", samples=latent, vae=small.add(graph)[2]))


def test_lora_and_clip_skip_of_core_accept_the_clip(small):
    """LoraLoader and CLIPSetLastLayer clone and patch a CLIP."""
    (small.server.models / "loras").mkdir(exist_ok=True)
    save_file({"x": torch.zeros(1)}, small.server.models / "loras" / "empty.safetensors")
    graph = Graph()
    loaded = small.add(graph)
    lora = graph.add(
        "LoraLoader",
        model=loaded,
        clip=loaded[1],
        lora_name="empty.safetensors",
        strength_model=1.0,
        strength_clip=1.0,
    )
    clip = graph.add("CLIPSetLastLayer", clip=lora[1], stop_at_clip_layer=-2)
    text = graph.add("CLIPTextEncode", clip=clip, text="a red ball")
    sampled = graph.add(
        "KSampler",
        model=lora,
        seed=0,
        steps=1,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        positive=text,
        negative=text,
        latent_image=graph.add("ModalityForcingEmptyLatent", width=16, height=16, batch_size=1),
        denoise=1.0,
    )
    assert small.run(graph, "Latent", latent=sampled).isfinite().all()
