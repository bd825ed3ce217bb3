"""Core's other nodes on the model: each works on both modalities, or says that and why it does not."""

import re

import pytest
import torch
from graphs import Graph, relative_error
from modality_forcing.model.network.kernels import Kernels
from modality_forcing.tasks.host.server import GraphError
from safetensors.torch import save_file

TOLERANCE = 1e-4
PREFIX = "ModalityForcing"


@pytest.fixture
def case(make_case):
    return make_case("v2")


def schedule(case, graph, steps=4, log2_alpha=5.0, model=None, **more):
    settings = {"steps": steps, "shift": 1.1, "log2_alpha": log2_alpha, **more}
    return graph.add(f"{PREFIX}Schedule", model=model or case.model(graph), **settings)


def gaussian(graph, model, mean=0.5, std=0.0):
    """A network that knows the answer: `mean` everywhere."""
    return graph.add("TestGaussianModel", model=model, mean=mean, std=std)


def sampled(case, graph, model, sigmas, cfg=4.0, conditions=None, **sampler):
    return case.run(graph, case.custom_sampler(graph, model, sigmas, conditions or case.texts(graph), cfg, **sampler))


@pytest.mark.parametrize("scheduler", ["normal", "ddim_uniform", "kl_optimal", "karras", "exponential", "beta"])
@pytest.mark.parametrize("log2_alpha", [5.0, 0.0])
def test_sigmas_with_a_long_tail_leave_no_noise_in_depth(case, scheduler, log2_alpha):
    graph = Graph()
    model = gaussian(graph, schedule(case, graph, log2_alpha=log2_alpha))
    sigmas = graph.add("BasicScheduler", model=model, scheduler=scheduler, steps=20, denoise=1.0)
    rgb, depth = sampled(case, graph, model, sigmas, cfg=1.0)
    assert (rgb - 0.5).abs().max() < TOLERANCE
    assert (depth - 0.5).abs().max() < TOLERANCE


def test_exact_depth_ends_as_the_network_sees_it_and_is_off_as_released(case):
    """Where depth is cleaner than 0.05 before the end, the release's step leaves some of the noise."""
    left = {}
    for exact in (False, True):
        graph, before = Graph(), len(case.server.log_tail(10**6))
        node = schedule(case, graph, steps=20, log2_alpha=-2.0, exact_depth=exact)
        _, depth = sampled(case, graph, gaussian(graph, node), node[1], cfg=1.0)
        left[exact] = float((depth - 0.5).abs().mean())
        assert ("Turn on exact_depth" in case.server.log_tail(10**6)[before:]) != exact
    assert left[True] < 1e-5
    assert 0.005 < left[False] < 0.05


@pytest.mark.parametrize("log2_alpha", [5.0, 0.0])
def test_easy_cache_holds_the_velocity_of_rgb_and_the_clean_depth(case, log2_alpha):
    """With heads of zeros both stay as they are, so that skipped steps cost nothing: RGB stays noise, depth is 0."""
    state = {name: value.clone() for name, value in case.module.state_dict().items()}
    for head in ("final_layer", "depth_final_layer"):
        state[f"{head}.linear.weight"].zero_()
    save_file(state, case.server.models / "diffusion_models" / "zero_heads.safetensors")
    graph = Graph()
    model = graph.add(f"{PREFIX}LoadModel", model_name="zero_heads.safetensors", weight_dtype="default")
    node = schedule(case, graph, steps=12, log2_alpha=log2_alpha, model=model)
    settings = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    rgb, depth = sampled(case, graph, graph.add("EasyCache", model=node, **settings), node[1])
    assert relative_error(rgb, case.tensors["rgb"]) < 1e-5
    assert depth.abs().max() < 1e-5
    skipped = re.findall(r"EasyCache - skipped (\d+)/12 steps", case.server.log_tail(40))
    assert int(skipped[-1]) >= 8


GUIDANCE_NODES = {
    "RescaleCFG": {"multiplier": 0.7},
    "RenormCFG": {"cfg_trunc": 100.0, "renorm_cfg": 1.0},
    "CFGZeroStar": {},
    "CFGNorm": {"strength": 1.0},
    "TCFG": {},
    "APG": {"eta": 0.5, "norm_threshold": 5.0, "momentum": -0.5},
    "Mahiro": {},
}


@pytest.mark.parametrize("name", GUIDANCE_NODES)
def test_guidance_nodes_act_on_each_modality_by_itself(case, name):
    """The first step of a joint run is the same whatever depth's clock, which scales what the samplers carry."""
    case.tensors["noise"] = torch.randn((2, 384, 4, 4), generator=torch.manual_seed(2))
    case.write()
    results = {}
    for log2_alpha in (5.0, 0.0):
        graph = Graph()
        node = schedule(case, graph, steps=1, log2_alpha=log2_alpha)
        model = graph.add(name, model=node, **GUIDANCE_NODES[name])
        results[log2_alpha] = sampled(case, graph, model, node[1])
    graph = Graph()
    node = schedule(case, graph, steps=1)
    plain = sampled(case, graph, node, node[1])
    for got, want, without in zip(results[5.0], results[0.0], plain, strict=True):
        assert relative_error(got, want) < TOLERANCE
        assert relative_error(got, without) > 1e-3


def test_cfg_norm_by_hand(case):
    graph = Graph()
    node = schedule(case, graph, steps=1)
    model = graph.add("CFGNorm", model=node, strength=1.0)
    got = sampled(case, graph, model, node[1])
    noise = case.tensors["noise"].split([128, 256], dim=1)
    one = torch.ones(1)
    with torch.no_grad():
        heads = [case.module(*noise, case.tensors[name], one, one) for name in ("context", "null_context")]
    for part, conditional, unconditional in zip(got, *heads, strict=True):
        if part.shape[1] == 128:
            conditional, unconditional = (noise[0] - head for head in (conditional, unconditional))
        guided = unconditional + 4.0 * (conditional - unconditional)
        norms = [x.norm(dim=1, keepdim=True) for x in (conditional, guided)]
        assert relative_error(part, guided * (norms[0] / norms[1]).clamp(max=1)) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Epsilon Scaling", {"scaling_factor": 1.02}), ("TemporalScoreRescaling", {"tsr_k": 0.9, "tsr_sigma": 1.0})],
)
def test_rescaled_noise_stays_out_of_depth(case, name, settings):
    case.tensors["noise"] = torch.randn((2, 384, 4, 4), generator=torch.manual_seed(2))
    case.write()
    graph = Graph()
    node = schedule(case, graph)
    rgb, depth = sampled(case, graph, graph.add(name, model=gaussian(graph, node), **settings), node[1])
    assert (depth - 0.5).abs().max() < TOLERANCE
    assert 1e-3 < (rgb - 0.5).abs().max() < 0.5


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 2.0}),
        ("LazyCache", {"reuse_threshold": 0.2, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}),
    ],
)
def test_nodes_that_cannot_work_are_refused_by_name(case, name, settings):
    graph = Graph()
    node = schedule(case, graph)
    with pytest.raises(GraphError, match=f"{name} does not work with Modality Forcing"):
        sampled(case, graph, graph.add(name, model=node, **settings), node[1])


def test_nodes_without_effect_are_named(case):
    graph = Graph()
    node = schedule(case, graph)
    model = graph.add("FreeU_V2", model=node, b1=1.3, b2=1.4, s1=0.9, s2=0.2)
    model = graph.add("PerturbedAttentionGuidance", model=model, scale=3.0)
    positive, negative = case.texts(graph)
    positive = graph.add("FluxGuidance", conditioning=positive, guidance=3.5)
    positive = graph.add("ReferenceLatent", conditioning=positive, latent=case.load(graph, "Latent", "rgb"))
    got = sampled(case, graph, model, node[1], conditions=(positive, negative))
    for part, want in zip(got, case.reference("joint", 5.0, 4.0, 4), strict=True):
        assert relative_error(part, want) < TOLERANCE
    said = next(line for line in case.server.log_tail(40).splitlines() if "No effect with a Modality Forcing" in line)
    for name in ("FreeU_V2", "PerturbedAttentionGuidance", "FluxGuidance", "Set Reference Latent"):
        assert name in said


def two_stages(case, second_log2_alpha):
    graph = Graph()
    texts = case.texts(graph)
    common = {"noise_seed": 7, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple"}
    first = graph.add(
        "KSamplerAdvanced",
        model=schedule(case, graph),
        add_noise="enable",
        positive=texts[0],
        negative=texts[1],
        latent_image=case.empty(graph),
        start_at_step=0,
        end_at_step=2,
        return_with_leftover_noise="enable",
        **common,
    )
    second = graph.add(
        "KSamplerAdvanced",
        model=schedule(case, graph, log2_alpha=second_log2_alpha),
        add_noise="disable",
        positive=texts[0],
        negative=texts[1],
        latent_image=first,
        start_at_step=2,
        end_at_step=10000,
        return_with_leftover_noise="disable",
        **common,
    )
    return case.run(graph, second)


def test_two_stages_of_one_tilt_are_one_run(case):
    noise = torch.randn((1, 384, 4, 4), generator=torch.manual_seed(7))
    for got, want in zip(two_stages(case, 5.0), case.reference("joint", 5.0, 4.0, 4, noise), strict=True):
        assert relative_error(got, want) < TOLERANCE


def test_another_tilt_in_the_second_stage_is_refused(case):
    with pytest.raises(GraphError, match="log2_alpha 5 left unfinished, to be finished with log2_alpha 0"):
        two_stages(case, 0.0)


def test_area_in_pixels_is_that_area(case):
    """The left half: core divides its 32 pixels by 8, the model's cells have 16."""
    results = []
    for name, width, height in (("ConditioningSetArea", 32, 64), ("ConditioningSetAreaPercentage", 0.5, 1.0)):
        case.tensors["noise"] = torch.randn((1, 384, 8, 8), generator=torch.manual_seed(2))
        case.write()
        graph = Graph()
        positive, negative = case.texts(graph)
        factor = 2 if width == 32 else 1  # this case has 128 x 128 pixels
        settings = {"width": width * factor, "height": height * factor, "x": 0, "y": 0, "strength": 1.0}
        positive = graph.add(name, conditioning=positive, **settings)
        node = schedule(case, graph)
        results.append(torch.cat(sampled(case, graph, node, node[1], conditions=(positive, negative)), 1))
    assert torch.equal(*results)


def test_area_outside_the_picture_is_refused(case):
    graph = Graph()
    positive, negative = case.texts(graph)
    settings = {"width": 64, "height": 64, "x": 64, "y": 0, "strength": 1.0}
    positive = graph.add("ConditioningSetArea", conditioning=positive, **settings)
    node = schedule(case, graph)
    with pytest.raises(GraphError, match="begins at 64 pixels of the width, the latent has 64"):
        sampled(case, graph, node, node[1], conditions=(positive, negative))


def test_the_side_that_guidance_1_leaves_out_may_lack_the_condition(case):
    graph = Graph()
    texts = case.texts(graph)
    positive, _ = case.condition(graph, "i2d", texts)
    node = schedule(case, graph)
    got = sampled(case, graph, node, node[1], cfg=1.0, conditions=(positive, texts[1]))
    for part, want in zip(got, case.reference("i2d", 5.0, 1.0, 4), strict=True):
        assert relative_error(part, want) < TOLERANCE


def picture_alone(case, graph):
    return graph.add(f"{PREFIX}JoinLatents", rgb=case.load(graph, "Latent", "rgb"))


def test_inpainting_a_picture_without_depth_makes_its_depth(case):
    case.tensors["mask"] = torch.zeros(1, 64, 64)
    case.tensors["mask"][:, :, 32:] = 1
    case.write()
    graph = Graph()
    latent = graph.add("SetLatentNoiseMask", samples=picture_alone(case, graph), mask=case.load(graph, "Mask", "mask"))
    node = schedule(case, graph)
    rgb, depth = sampled(case, graph, node, node[1], latent=latent)
    assert (rgb - case.tensors["rgb"])[..., :2].abs().max() < 1e-5
    assert depth.isfinite().all()
    assert depth[..., :2].abs().mean() > 0.1


def test_half_way_from_a_picture_without_depth_is_refused(case):
    graph = Graph()
    node = schedule(case, graph)
    sigmas = graph.add("SplitSigmasDenoise", sigmas=node[1], denoise=0.5)[1]
    with pytest.raises(GraphError, match="a latent without depth.*Image as Condition"):
        sampled(case, graph, node, sigmas, latent=picture_alone(case, graph))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (None, {}),
        ("LatentFlip", {"flip_method": "x-axis: vertically"}),
        ("LatentRotate", {"rotation": "180 degrees"}),
        ("LatentUpscaleBy", {"upscale_method": "bilinear", "scale_by": 1.5}),
        (f"{PREFIX}UpscaleLatent", {"upscale_method": "bilinear", "scale_by": 1.5}),
    ],
)
def test_torn_depth_is_named_by_the_next_node(case, name, settings):
    """Flips are seen in the depth; what is enlarged, by the size that a latent of this pack remembers."""
    case.tensors["picture"] = torch.linspace(3.0, 1.0, 64)[None, :, None, None].expand(1, 64, 64, 3)
    case.write()
    before = len(case.server.log_tail(10**6))
    graph = Graph()
    picture = {"meaning": "metric", "near": 1.0, "far": 10.0, "scale": 1.0, "black_is_hole": False}
    latent = graph.add(f"{PREFIX}EncodeDepthPicture", picture=case.load(graph, "Image", "picture"), **picture)
    if name:
        latent = graph.add(name, **{"latent" if name.startswith(PREFIX) else "samples": latent}, **settings)
    out = graph.add(f"{PREFIX}DecodeDepth", latent=latent, fov_x_deg=55.0)
    graph.add("TestSaveImage", image=out[1], file=str(case.folder / "picture.safetensors"))
    case.server.run(graph.prompt)
    said = case.server.log_tail(10**6)[before:]
    assert ("depth of this latent looks torn" in said) == (name is not None and not name.startswith(PREFIX)), said


class Patched(Kernels):
    """The plain kernels with what TestAttentionPatches does."""

    def embedded(self, tokens, ids, options):
        return {**tokens, "img": tokens["img"] + 0.5}, ids

    def attention(self, q, k, v, table, options):
        if options["block_type"] == "depth_decoder":
            return super().attention(q, k, v, table, options)
        attended = super().attention(1.5 * q, k, v, table, options)
        start, stop = options["img_slice"]
        attended[:, start:stop] *= 0.5
        return attended


class Scaled(Kernels):
    """Rotary positions twice as far apart in x and shifted in y, for image and depth alike."""

    def embedded(self, tokens, ids, options):
        scale, shift = torch.tensor([1.0, 1.0, 2.0, 1.0]), torch.tensor([0.0, 3.0, 0.0, 0.0])
        return tokens, {name: x if name == "txt" else x * scale + shift for name, x in ids.items()}


@pytest.mark.parametrize(
    ("name", "settings", "kernels"),
    [
        ("TestAttentionPatches", {}, Patched()),
        (
            "ScaleROPE",
            {"scale_x": 2.0, "shift_x": 0.0, "scale_y": 1.0, "shift_y": 3.0, "scale_t": 1.0, "shift_t": 0.0},
            Scaled(),
        ),
    ],
)
def test_patches_of_core_flux_work(case, name, settings, kernels):
    graph = Graph()
    node = schedule(case, graph)
    got = sampled(case, graph, graph.add(name, model=node, **settings), node[1])
    plain = case.reference("joint", 5.0, 4.0, 4)
    case.module.kernels = kernels
    for part, want, without in zip(got, case.reference("joint", 5.0, 4.0, 4), plain, strict=True):
        assert relative_error(part, want) < TOLERANCE
        assert relative_error(part, without) > 1e-3


def test_normalised_attention_guidance_works_where_the_host_has_it(case, object_info):
    if "NAGuidance" not in object_info:
        pytest.skip("this ComfyUI has no NAGuidance")
    results = []
    for scale in (1.0, 5.0):
        graph = Graph()
        node = schedule(case, graph)
        model = graph.add("NAGuidance", model=node, nag_scale=scale, nag_alpha=0.5, nag_tau=1.5)
        results.append(sampled(case, graph, model, node[1], cfg=1.0))
    for a, b in zip(*results, strict=True):
        assert a.isfinite().all() and b.isfinite().all()
        assert relative_error(a, b) > 1e-3
