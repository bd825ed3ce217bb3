"""What artists use around a model: LoRA, partial loading, compile, caching, inpainting, interrupting."""

import time

import pytest
import torch
from graphs import Graph, relative_error
from modality_forcing.tasks.host.server import GraphError
from safetensors.torch import save_file

TOLERANCE = 1e-4


def joint(case, graph, model, steps=4, cfg=4.0, log2_alpha=5.0, **sampler):
    schedule = graph.add("ModalityForcingSchedule", model=model, steps=steps, shift=1.1, log2_alpha=log2_alpha)
    return case.custom_sampler(graph, schedule, schedule[1], case.texts(graph), cfg, **sampler)


@pytest.fixture
def case(make_case):
    return make_case("v2")


# name in the file -> (parameter, rows that it fills)
LORA_NAMES = {
    "diffusion_model.double_blocks.0.img_attn.qkv": ("double_blocks.0.img_attn.qkv.weight", slice(None)),
    "lora_unet_single_blocks_1_linear2": ("single_blocks.1.linear2.weight", slice(None)),
    "diffusion_model.double_blocks.1.depth_mlp.0": ("double_blocks.1.depth_mlp.0.weight", slice(None)),
    "transformer.transformer_blocks.1.attn.to_k": ("double_blocks.1.img_attn.qkv.weight", slice(64, 128)),
}


def test_flux2_lora_applies(case):
    """By ComfyUI's, kohya's and diffusers' names; the same as merging it into the plain module."""
    generator, state, tensors = torch.manual_seed(0), case.module.state_dict(), {}
    for name, (parameter, rows) in LORA_NAMES.items():
        weight = state[parameter][rows]
        down, up = (0.2 * torch.randn(size, generator=generator) for size in ((2, weight.shape[1]), (len(weight), 2)))
        ends = ("lora_down", "lora_up") if name.startswith("lora_unet") else ("lora_A", "lora_B")
        tensors.update({f"{name}.{ends[0]}.weight": down, f"{name}.{ends[1]}.weight": up})
        weight += 0.5 * up @ down
    folder = case.server.models / "loras"
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "flux2.safetensors")

    graph = Graph()
    model = graph.add("LoraLoaderModelOnly", model=case.model(graph), lora_name="flux2.safetensors", strength_model=0.5)
    want = case.reference("joint", 5.0, 4.0, 4)
    for got, expected in zip(case.run(graph, joint(case, graph, model)), want, strict=True):
        assert relative_error(got, expected) < TOLERANCE
    assert "lora key not loaded" not in case.server.log_tail(60)


def test_partial_loading_gives_the_same(case):
    graph = Graph()
    node = graph.add("TestPartialLoad", model=case.model(graph), text=case.texts(graph)[0])
    whole, partial = torch.cat(case.run(graph, node), 1).chunk(2)
    assert torch.equal(whole, partial)


def test_easy_cache(case):
    graph = Graph()
    settings = {"start_percent": 0.0, "end_percent": 1.0, "verbose": True}
    model = graph.add("EasyCache", model=case.model(graph), reuse_threshold=0.0001, **settings)
    exact = case.run(graph, joint(case, graph, model, steps=8))
    for got, want in zip(exact, case.reference("joint", 5.0, 4.0, 8), strict=True):
        assert relative_error(got, want) < 1e-2
    graph = Graph()
    model = graph.add("EasyCache", model=case.model(graph), reuse_threshold=3.0, **settings)
    for got in case.run(graph, joint(case, graph, model, steps=8)):
        assert got.isfinite().all()


def test_torch_compile(case):
    graph = Graph()
    model = graph.add("TorchCompileModel", model=case.model(graph), backend="inductor")
    for got, want in zip(case.run(graph, joint(case, graph, model)), case.reference("joint", 5.0, 4.0, 4), strict=True):
        assert relative_error(got, want) < TOLERANCE


def test_latent_noise_mask_inpaints_both_modalities(case):
    case.tensors["mask"] = torch.zeros(1, 64, 64)
    case.tensors["mask"][:, :, 32:] = 1
    case.tensors["start"] = case.tensors["noise"].flip(-1).abs().clamp(0.1, 1.5)
    case.write()
    graph = Graph()
    mask = case.load(graph, "Mask", "mask")
    latent = graph.add("SetLatentNoiseMask", samples=case.load(graph, "Latent", "start"), mask=mask)
    got = torch.cat(case.run(graph, joint(case, graph, case.model(graph), latent=latent)), 1)
    difference = (got - case.tensors["start"]).abs()
    assert difference[..., :2].max() < 1e-5
    for part in difference[..., 2:].split([128, 256], dim=1):
        assert part.mean() > 0.01


def test_denoise_below_one_starts_from_the_latent(case):
    """Little noise leaves both modalities close to where they were, on a tilted trajectory too."""
    case.tensors["start"] = case.tensors["noise"].flip(-1).abs().clamp(0.1, 1.5)
    case.write()
    distances = []
    for denoise in (0.1, 0.9):
        graph = Graph()
        schedule = graph.add("ModalityForcingSchedule", model=case.model(graph), steps=4, shift=1.1, log2_alpha=-3.0)
        positive, negative = case.texts(graph)
        settings = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
        node = graph.add(
            "KSampler",
            model=schedule,
            positive=positive,
            negative=negative,
            latent_image=case.load(graph, "Latent", "start"),
            denoise=denoise,
            **settings,
        )
        got = case.run(graph, node)
        start = case.tensors["start"].split([128, 256], dim=1)
        distances.append([float((a - b).abs().mean()) for a, b in zip(got, start, strict=True)])
    assert all(near < 0.6 * far for near, far in zip(*distances, strict=True))


def from_core(case, graph):
    """The model by core's own loader."""
    state = {f"model.diffusion_model.{k}": v for k, v in case.module.state_dict().items()}
    save_file(state, case.server.models / "diffusion_models" / "core_layout.safetensors")
    return graph.add("UNETLoader", unet_name="core_layout.safetensors", weight_dtype="default")


def test_core_loader_finds_an_unprefixed_file(case):
    graph = Graph()
    model = from_core(case, graph)
    for got, want in zip(case.run(graph, joint(case, graph, model)), case.reference("joint", 5.0, 4.0, 4), strict=True):
        assert relative_error(got, want) < TOLERANCE


@pytest.mark.parametrize("scheduler", ["simple", "karras"])
def test_core_loader_without_a_schedule_samples_as_with_one(case, scheduler):
    """Also with sigmas that the release does not have, where depth ends exactly; and the run says what it cannot do."""
    results, before = [], len(case.server.log_tail(10**6))
    for surrounded in (True, False):
        graph = Graph()
        settings = {"steps": 4, "shift": 1.1, "log2_alpha": 0.0}
        model = from_core(case, graph)
        model = graph.add("ModalityForcingSchedule", model=model, **settings) if surrounded else model
        sigmas = graph.add("BasicScheduler", model=model, scheduler=scheduler, steps=20, denoise=1.0)
        results.append(case.run(graph, case.custom_sampler(graph, model, sigmas, case.texts(graph), 4.0)))
    for got, want in zip(*results, strict=True):
        assert torch.equal(got, want)
    said = case.server.log_tail(10**6)[before:]
    assert said.count("comes from core's own loader") == 1
    assert said.count("step through depth's noise level") == (2 if scheduler == "karras" else 0)


@pytest.mark.parametrize("cfg", [4.0, 1.0])
def test_core_loader_without_a_schedule_knows_one_sided_conditions(case, cfg):
    graph = Graph()
    model, texts = from_core(case, graph), case.texts(graph)
    positive, _ = case.condition(graph, "i2d", texts)
    sigmas = graph.add("BasicScheduler", model=model, scheduler="simple", steps=2, denoise=1.0)
    latent = case.custom_sampler(graph, model, sigmas, (positive, texts[1]), cfg)
    if cfg == 1.0:  # the other side is not used
        assert all(part.isfinite().all() for part in case.run(graph, latent))
    else:
        with pytest.raises(GraphError, match="the rgb condition is on positive but not on negative"):
            case.run(graph, latent)


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8_e4m3fn", "fp8_e5m2"])
def test_small_weight_types_stay_close(case, weight_dtype):
    graph = Graph()
    model = graph.add("ModalityForcingLoadModel", model_name=case.checkpoint.name, weight_dtype=weight_dtype)
    for got, want in zip(case.run(graph, joint(case, graph, model)), case.reference("joint", 5.0, 4.0, 4), strict=True):
        assert got.isfinite().all()
        assert relative_error(got, want) < {"bf16": 0.01, "fp8_e4m3fn": 0.06, "fp8_e5m2": 0.3}[weight_dtype]


def test_server_runs_on_after_an_interrupt(case):
    graph = Graph()
    latent = joint(case, graph, case.model(graph), steps=9000)
    graph.add("TestSaveLatent", latent=latent, file=str(case.folder / "never.safetensors"))
    prompt_id = case.server.queue(graph.prompt)
    time.sleep(1.0)
    case.server.interrupt()
    with pytest.raises(GraphError, match="interrupted"):
        case.server.wait(prompt_id, timeout_s=60)
    assert not (case.folder / "never.safetensors").exists()
    graph = Graph()
    rgb, _ = case.run(graph, joint(case, graph, case.model(graph)))
    assert relative_error(rgb, case.reference("joint", 5.0, 4.0, 4)[0]) < TOLERANCE
