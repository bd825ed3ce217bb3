"""The controls on a random small model in a real ComfyUI: their plainest settings equal the plain graph."""

import os
from pathlib import Path

import pytest
import random_model
import torch
from graphs import Graph, Node, relative_error
from modality_forcing.model.scenes import generate
from modality_forcing.tasks.host.server import GraphError
from test_demo_nodes import FOLDER, Small

SEED, STEPS = 7, 3
RUN = {"at_once": 0, "fov_x_deg": 55.0}
ENSEMBLE = {"members": 1, "shift": True, "mirror": True, **RUN}
TILES = {"tile": 96, "overlap": 0, "denoise": 0.5, **RUN}
VIDEO = {"same_scale": True, "denoise": 1.0, **RUN}
CONTROLS = {"EnsembleDepth": ENSEMBLE, "TiledDepth": TILES, "VideoDepth": VIDEO}


@pytest.fixture(scope="module")
def written(server) -> Path:
    return random_model.write(server.models / FOLDER / "random")


@pytest.fixture
def small(server, written, tmp_path) -> Small:
    return Small(server, written.parent, os.path.join("random", written.name), tmp_path)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """(3,64,96,3)"""
    return generate([40, 41, 42], (64, 96)).rgb.movedim(1, -1)


class Run:
    """What the controls and the plain graph start from."""

    def __init__(self, small: Small, pictures: torch.Tensor, sampler: str = "euler", log2_alpha: float = 5.0) -> None:
        self.small, self.graph = small, Graph()
        self.loaded = small.add(self.graph)
        self.schedule = self.graph.add(
            "ModalityForcingSchedule", model=self.loaded, steps=STEPS, shift=1.1, log2_alpha=log2_alpha
        )
        self.text = self.graph.add("CLIPTextEncode", clip=self.loaded[1], text="")
        self.image = small.tensor(self.graph, "Image", pictures)
        self.inputs = {
            "noise": self.graph.add("RandomNoise", noise_seed=SEED),
            "sampler": self.graph.add("KSamplerSelect", sampler_name=sampler),
            "sigmas": self.schedule[1],
        }

    def control(self, name: str, **settings) -> torch.Tensor:
        guider = self.graph.add("BasicGuider", model=self.schedule, conditioning=self.text)
        node = self.graph.add(
            f"ModalityForcing{name}", image=self.image, vae=self.loaded[2], guider=guider, **self.inputs, **settings
        )
        return self.depth(node)

    def plain(self) -> torch.Tensor:
        encoded = self.graph.add("VAEEncode", pixels=self.image, vae=self.loaded[2])
        given = self.graph.add(
            "ModalityForcingImageCondition",
            positive=self.text,
            negative=self.text,
            rgb=encoded,
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        )
        guider = self.graph.add("BasicGuider", model=self.schedule, conditioning=given)
        sampled = self.graph.add("SamplerCustomAdvanced", guider=guider, latent_image=given[2], **self.inputs)
        return self.depth(self.graph.add("ModalityForcingDecodeDepth", latent=sampled, fov_x_deg=55.0))

    def depth(self, geometry: Node) -> torch.Tensor:
        """(B,H,W) of a geometry."""
        return self.small.run(self.graph, "Depth", geometry=geometry)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("name", list(CONTROLS))
def test_the_plainest_settings_equal_the_plain_graph(small, pictures, name, sampler):
    batch = pictures[:1] if name == "VideoDepth" else pictures  # frames of a clip share their noise
    want = Run(small, batch, sampler).plain()
    assert torch.equal(Run(small, batch, sampler).control(name, **CONTROLS[name]), want)


def test_pictures_in_several_runs_equal_one_run(small, pictures):
    settings = {**ENSEMBLE, "members": 3}
    together = Run(small, pictures).control("EnsembleDepth", **settings)
    apart = Run(small, pictures).control("EnsembleDepth", **{**settings, "at_once": 2})
    assert torch.allclose(apart, together, rtol=1e-3, atol=1e-5) and apart.isfinite().any()


def test_tiles_and_clips_of_a_random_network_are_whole(small, pictures):
    tiled = Run(small, pictures[:1]).control("TiledDepth", **{**TILES, "tile": 64, "overlap": 32})
    assert tiled.shape == (1, 64, 96)
    clip = Run(small, pictures).control("VideoDepth", **{**VIDEO, "denoise": 0.5})
    assert clip.shape == (3, 64, 96) and clip.isfinite().any()


@pytest.mark.parametrize("name", list(CONTROLS))
def test_a_picture_off_the_grid_is_refused(small, name):
    with pytest.raises(GraphError, match="100 x 64 pixels; expected multiples of 16"):
        Run(small, torch.rand(1, 64, 100, 3)).control(name, **CONTROLS[name])


def test_joint_latents_are_upscaled_as_pixels(small):
    depth = torch.linspace(0.2, 1.8, 64)[None, :, None].expand(1, 64, 64).contiguous()
    codes = depth.reshape(1, 4, 16, 4, 16).permute(0, 2, 4, 1, 3).reshape(1, 256, 4, 4)
    joint = torch.cat([torch.randn(1, 128, 4, 4, generator=torch.manual_seed(0)), codes], dim=1)
    graph = Graph()
    latent = small.tensor(graph, "Latent", joint)
    ours = graph.add("ModalityForcingUpscaleLatent", latent=latent, upscale_method="bicubic", scale_by=1.5)
    got = small.run(graph, "Latent", latent=ours)
    graph = Graph()
    latent = small.tensor(graph, "Latent", joint[:, :128])
    cores = graph.add("LatentUpscaleBy", samples=latent, upscale_method="bicubic", scale_by=1.5)
    assert torch.equal(got[:, :128], small.run(graph, "Latent", latent=cores))
    pixels = got[:, 128:].reshape(1, 16, 16, 6, 6).permute(0, 3, 1, 4, 2).reshape(1, 96, 96)
    want = torch.nn.functional.interpolate(depth[:, None], (96, 96), mode="bilinear")[:, 0]
    assert relative_error(pixels, want) < 1e-5
