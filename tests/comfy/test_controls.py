"""The controls on a random small model in a real ComfyUI: their plainest settings equal the plain graph."""

import os
from pathlib import Path

import pytest
import random_model
import torch
from geometry_graphs import CLOUD, VIEW
from graphs import Graph, Node, relative_error
from modality_forcing.model.depth.matching import matched
from modality_forcing.model.scenes import generate
from modality_forcing.tasks import SMALL_MODEL
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

    def __init__(self, small: Small, pictures: torch.Tensor, sampler="euler", log2_alpha=5.0, steps=STEPS) -> None:
        self.small, self.graph = small, Graph()
        self.loaded = small.add(self.graph)
        self.schedule = self.graph.add(
            "ModalityForcingSchedule", model=self.loaded, steps=steps, shift=1.1, log2_alpha=log2_alpha
        )
        self.text = self.graph.add("CLIPTextEncode", clip=self.loaded[1], text="")
        self.image = small.tensor(self.graph, "Image", pictures)
        self.inputs = {
            "noise": self.graph.add("RandomNoise", noise_seed=SEED),
            "sampler": self.graph.add("KSamplerSelect", sampler_name=sampler),
            "sigmas": self.schedule[1],
        }

    def control(self, name: str, **settings) -> torch.Tensor:
        return self.depth(self.add_control(name, **settings))

    def add_control(self, name: str, **settings) -> Node:
        guider = self.graph.add("BasicGuider", model=self.schedule, conditioning=self.text)
        return self.graph.add(
            f"ModalityForcing{name}", image=self.image, vae=self.loaded[2], guider=guider, **self.inputs, **settings
        )

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


@pytest.mark.parametrize("name, more", [("EnsembleDepth", {"members": 3}), ("TiledDepth", {}), ("VideoDepth", {})])
def test_an_uneven_batch_in_several_runs_equals_one_run(small, pictures, name, more):
    """Three pictures, two at once."""
    settings = {**CONTROLS[name], **more}
    together = Run(small, pictures).control(name, **settings)
    apart = Run(small, pictures).control(name, **{**settings, "at_once": 2})
    assert torch.allclose(apart, together, rtol=1e-3, atol=1e-5) and apart.isfinite().any()


def test_tiles_and_clips_of_a_random_network_are_whole(small, pictures):
    tiled = Run(small, pictures).control("TiledDepth", **{**TILES, "tile": 64, "overlap": 32})
    assert tiled.shape == (3, 64, 96)
    clip = Run(small, pictures).control("VideoDepth", **{**VIDEO, "denoise": 0.5})
    assert clip.shape == (3, 64, 96) and clip.isfinite().any()


@pytest.mark.parametrize("name", list(CONTROLS))
def test_a_picture_off_the_grid_is_refused(small, name):
    with pytest.raises(GraphError, match="100 x 64 pixels; expected multiples of 16"):
        Run(small, torch.rand(1, 64, 100, 3)).control(name, **CONTROLS[name])


def test_joint_latents_are_upscaled_as_pixels(small):
    depth = torch.linspace(0.6, 1.0, 64)[None, :, None].expand(1, 64, 64).contiguous()
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


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 64, 96, 3), "96 x 64 pixels for depth of 64 x 64"), ((2, 64, 64, 3), "got 2 images for 1 depth maps")],
)
def test_a_latent_is_not_enlarged_by_the_picture_of_another_view(small, shape, message):
    """Its colours would move the edges of depth, and nothing would say so."""
    graph = Graph()
    latent = small.tensor(graph, "Latent", torch.rand(1, 384, 4, 4))
    image = small.tensor(graph, "Image", torch.rand(shape))
    larger = graph.add("ModalityForcingUpscaleLatent", latent=latent, scale_by=2.0, upscale_method="area", image=image)
    with pytest.raises(GraphError, match=message):
        small.run(graph, "Latent", latent=larger)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_picture_with_nan_is_no_depth_of_nothing_but_holes(small, pictures, name):
    spoiled = pictures.clone()
    spoiled[1, 5, 5] = torch.nan
    with pytest.raises(GraphError, match="holds NaN or infinity"):
        Run(small, spoiled).control(name, **CONTROLS[name])


def geometry_of(small: Small, graph: Graph, depth: torch.Tensor, mask: torch.Tensor | None = None) -> Node:
    """Depth (1,H,W) as geometry, by a metric depth picture."""
    picture = small.tensor(graph, "Image", depth[..., None].expand(*depth.shape, 3) / 10)
    extra = {} if mask is None else {"mask": small.tensor(graph, "Mask", mask.float())}
    return graph.add(
        "ModalityForcingGeometryFromPicture",
        picture=picture,
        meaning="metric",
        near=1.0,
        far=10.0,
        scale=10.0,
        black_is_hole=False,
        fov_x_deg=55.0,
        **extra,
    )


@pytest.fixture(scope="module")
def points() -> tuple[torch.Tensor, torch.Tensor]:
    """Depth (1,64,96) of a slope in metres, and where it was measured."""
    depth = torch.linspace(2, 5, 64)[None, :, None].expand(1, 64, 96).contiguous()
    return depth, torch.rand(1, 64, 96, generator=torch.manual_seed(0)) < 0.05


def test_depth_is_fitted_to_points_of_another_size(small, points):
    depth, known = points
    graph = Graph()
    bent = geometry_of(small, graph, depth * torch.linspace(1, 1.2, 96) / 3)
    larger = [torch.nn.functional.interpolate(x[:, None].float(), scale_factor=2)[:, 0] for x in points]
    sparse = geometry_of(small, graph, larger[0], larger[1] > 0)
    fitted = graph.add("ModalityForcingFitToPoints", geometry=bent, sparse=sparse, finest=2)
    got = small.run(graph, "Depth", geometry=fitted)
    assert ((got - depth).abs() / depth).mean() < 0.02

    exact = geometry_of(small, graph, depth, known)
    kept = graph.add("ModalityForcingFitToPoints", geometry=bent, sparse=exact, finest=2, keep_points=True)
    got, given = (small.run(graph, "Depth", geometry=geometry) for geometry in (kept, exact))
    assert torch.equal(got[known], given[known]) and got.isfinite().all()


def test_points_in_one_place_set_the_scale_alone(small, points):
    depth, place = points[0], torch.zeros_like(points[1])
    place[:, 30:32, 40:42] = True
    graph, bent = Graph(), depth * torch.linspace(1, 1.2, 96) / 3
    given = geometry_of(small, graph, bent), geometry_of(small, graph, depth, place)
    fitted = graph.add("ModalityForcingFitToPoints", geometry=given[0], sparse=given[1], finest=2)
    got = small.run(graph, "Depth", geometry=fitted)
    assert relative_error(got, bent * (depth / bent)[place].median()) < 0.01


@pytest.mark.parametrize(
    "shape, known, message",
    [
        ((1, 64, 96), False, "no point at all"),
        ((2, 64, 96), True, "got 2 measured maps for 1 depth maps"),
        ((1, 64, 64), True, "64 x 64.* 96 x 64"),
    ],
)
def test_no_points_uneven_batches_and_other_views_are_named(small, shape, known, message):
    graph = Graph()
    mask = torch.full(shape, float(known))
    sparse = geometry_of(small, graph, torch.full(shape, 2.0), mask)
    geometry = geometry_of(small, graph, torch.full((1, 64, 96), 3.0))
    with pytest.raises(GraphError, match=message):
        fitted = graph.add("ModalityForcingFitToPoints", geometry=geometry, sparse=sparse, finest=2)
        small.run(graph, "Depth", geometry=fitted)


def pulled(run: Run, depth: torch.Tensor, known: torch.Tensor, strength: float | None, width=96) -> torch.Tensor:
    """Depth of a joint run, guided to points."""
    model, graph = run.schedule, run.graph
    if strength is not None:
        sparse = geometry_of(run.small, graph, depth, known)
        values = {"strength": strength, "start_percent": 0.0, "end_percent": 1.0, "finest": 2}
        size = {"width": width, "height": 64}
        model = graph.add("ModalityForcingPointGuidance", model=model, sparse=sparse, **size, **values)
    guider = graph.add("BasicGuider", model=model, conditioning=run.text)
    empty = graph.add("ModalityForcingEmptyLatent", width=96, height=64, batch_size=1)
    sampled = graph.add("SamplerCustomAdvanced", guider=guider, latent_image=empty, **run.inputs)
    return run.depth(graph.add("ModalityForcingDecodeDepth", latent=sampled, fov_x_deg=55.0))


def test_guidance_by_points_in_one_place_runs_and_points_that_do_not_fit_are_named(small, pictures, points):
    depth, none = points[0], torch.zeros_like(points[1])
    place = none.clone()
    place[:, 30, 40] = True
    run = Run(small, pictures[:1])
    assert pulled(run, depth, place, 1.0).isfinite().any()
    for depths, known, width, message in (
        (depth, none, 96, "no point at all"),
        (depth[..., :64], points[1][..., :64], 64, "1 maps of 64 x 64 pixels for a latent of 1 x 96 x 64"),
        (depth.repeat(2, 1, 1), points[1].repeat(2, 1, 1), 96, "points of 2 maps of 96 x 64 pixels for a latent of 1"),
    ):
        with pytest.raises(GraphError, match=message):
            pulled(Run(small, pictures[:1]), depths, known, 1.0, width)


@pytest.mark.parametrize("sampler, log2_alpha", [("euler", 5.0), ("dpmpp_2m", 0.0), ("euler_ancestral", -2.0)])
def test_points_pull_the_predicted_depth_and_strength_0_does_nothing(small, pictures, points, sampler, log2_alpha):
    """With fresh noise at each step by the bundled model: a random network's guess may run against the points then."""
    depth, known = points
    if sampler == "euler_ancestral":
        small = Small(small.server, SMALL_MODEL.parent, SMALL_MODEL.name, small.out)

    def joint(strength: float | None) -> torch.Tensor:
        return pulled(Run(small, pictures[:1], sampler, log2_alpha), depth, known, strength)

    plain, guided = joint(None), joint(1.0)
    assert torch.equal(joint(0.0), plain)
    off = [(matched(x, depth) / depth - 1).abs().nanmedian() for x in (plain.where(plain < 1e9, torch.nan), guided)]
    assert off[1] < 0.6 * off[0], f"{off[1]:.3f} beside {off[0]:.3f}"


def test_a_view_is_encoded_painted_and_added(small, pictures):
    graph = Graph()
    loaded = small.add(graph)
    depth = torch.full((1, 64, 96), 3.0)
    depth[:, 16:48, 32:64] = 1.5
    geometry = geometry_of(small, graph, depth)
    cloud = graph.add("ModalityForcingPointCloud", geometry=geometry, **CLOUD)
    view = graph.add("ModalityForcingRenderView", geometry=geometry, point_cloud=cloud, **{**VIEW, "right": 0.4})
    encoded = graph.add("ModalityForcingEncodeView", view=view[1], vae=loaded[2], margin=0)
    painted = small.run(graph, "Image", image=graph.add("MaskToImage", mask=encoded[2]))[..., 0]
    holes = small.run(graph, "Image", image=graph.add("MaskToImage", mask=view[2]))[..., 0]
    assert holes.mean() > 0.05 and (painted[holes > 0]).mean() > 0.9
    assert torch.equal(painted, painted[:, ::16, ::16].repeat_interleave(16, 1).repeat_interleave(16, 2))

    whole = geometry_of(small, graph, torch.full((1, 64, 96), 0.7))
    added = graph.add("ModalityForcingAddView", scene=cloud, painted=whole, view=view[1], edge_threshold=0.1)
    got = small.run(graph, "Depth", geometry=added[1])
    known = holes == 0
    before = small.run(graph, "Depth", geometry=view[1])
    assert torch.equal(got[known], before[known]) and got.isfinite().all()
    with pytest.raises(GraphError, match="without one pose"):
        other = graph.add("ModalityForcingAddView", scene=cloud, painted=whole, view=whole, edge_threshold=0.1)
        small.run(graph, "Depth", geometry=other[1])


def test_a_scene_of_one_point_views_of_nothing_and_of_other_sizes(small):
    """One point sets the scale of what is painted; where nothing is known it stays as it is; the rest is named."""
    graph = Graph()
    loaded = small.add(graph)
    mask = torch.zeros(1, 64, 96)
    mask[:, 32, 48] = 1  # one pixel of depth 3
    one = geometry_of(small, graph, torch.full((1, 64, 96), 3.0), mask)
    scene = graph.add("ModalityForcingPointCloud", geometry=one, **CLOUD)
    whole = geometry_of(small, graph, torch.full((1, 64, 96), 0.7))
    for turn, want in ((0.0, 3.0), (180.0, 0.7)):
        turned = {**VIEW, "yaw_deg": turn}
        view = graph.add("ModalityForcingRenderView", geometry=whole, point_cloud=scene, **turned)
        added = graph.add("ModalityForcingAddView", scene=scene, painted=whole, view=view[1], edge_threshold=0.1)
        got = small.run(graph, "Depth", geometry=added[1])
        assert torch.allclose(got, torch.tensor(want), rtol=1e-4)
    with pytest.raises(GraphError, match="the view shows nothing of the scene"):
        small.run(graph, "Latent", latent=graph.add("ModalityForcingEncodeView", view=view[1], vae=loaded[2], margin=0))
    graph = Graph()
    painted = geometry_of(small, graph, torch.full((1, 32, 32), 0.7))
    whole = geometry_of(small, graph, torch.full((1, 64, 96), 0.7))
    scene = graph.add("ModalityForcingPointCloud", geometry=whole, **CLOUD)
    view = graph.add("ModalityForcingRenderView", geometry=whole, point_cloud=scene, **VIEW)
    added = graph.add("ModalityForcingAddView", scene=scene, painted=painted, view=view[1], edge_threshold=0.1)
    with pytest.raises(GraphError, match=r"painted view \(1, 32, 32\) for a rendered one \(1, 64, 96\)"):
        small.run(graph, "Depth", geometry=added[1])
    graph = Graph()
    none = geometry_of(small, graph, torch.full((1, 64, 96), 3.0))
    cut = graph.add("ModalityForcingPointCloud", geometry=none, **{**CLOUD, "far": 2.0})
    with pytest.raises(GraphError, match="no point is left"):
        view = graph.add("ModalityForcingRenderView", geometry=none, point_cloud=cut, **VIEW)
        small.run(graph, "Depth", geometry=view[1])
