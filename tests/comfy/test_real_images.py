"""Real photographs through the real graph: fitted, encoded by a FLUX.2 autoencoder, sampled, decoded at their size."""

import shutil

import numpy as np
import pytest
import torch
from graphs import Graph
from modality_forcing.tasks import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file

SHARED = ROOT.parent / "shared"
PICTURES = ["lingbot_0/rgb.png", "redwood_0/rgb.jpg", "tum_fr2_1/rgb.png", "opencalib_2/rgb_undistorted_960x600.jpg"]


@pytest.fixture(scope="module")
def assets(server):
    """The folder of assets, with the tiny FLUX.2 autoencoder lying where ComfyUI looks for it."""
    if not (SHARED / "assets").is_dir():
        pytest.skip(f"real RGB-D and the tiny autoencoder are not at {SHARED / 'assets'}")
    if "taef2" not in (server.host / "nodes.py").read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI does not know the tiny FLUX.2 autoencoder (taef2)")
    folder = server.models / "vae_approx"
    folder.mkdir(exist_ok=True)
    for name in ("taef2_encoder.pth", "taef2_decoder.pth"):
        shutil.copy(SHARED / "assets" / "taef2" / name, folder)
    return SHARED / "assets" / "rgbd"


@pytest.mark.parametrize("name", PICTURES)
def test_photo_to_depth(make_case, assets, name):
    """The photo comes back through the untouched RGB latent, depth at the photo's own size and proportions."""
    case, graph = make_case("v2"), Graph()
    image = graph.add("LoadImage", image=case.server.upload_image(assets / name))
    fitted = graph.add("ModalityForcingFitImage", image=image, max_side=256, method="resize")
    vae = graph.add("VAELoader", vae_name="taef2")
    latent = graph.add("VAEEncode", pixels=fitted, vae=vae)
    positive, negative = case.texts(graph)
    condition = graph.add(
        "ModalityForcingImageCondition",
        positive=positive,
        negative=negative,
        rgb=latent,
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    schedule = graph.add("ModalityForcingSchedule", model=case.model(graph), steps=2, shift=1.1, log2_alpha=5.0)
    sampled = graph.add(
        "KSampler",
        model=schedule,
        seed=0,
        steps=2,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        positive=condition[0],
        negative=condition[1],
        latent_image=condition[2],
        denoise=1.0,
    )
    parts = graph.add("ModalityForcingSplitLatents", latent=sampled)
    back = graph.add("VAEDecode", samples=parts[0], vae=vae)
    decoded = graph.add("ModalityForcingDecodeDepth", latent=sampled, fov_x_deg=60.0, image=image)
    files = {what: case.folder / f"{what}.safetensors" for what in ("fitted", "back", "geometry")}
    graph.add("TestSaveImage", image=fitted, file=str(files["fitted"]))
    graph.add("TestSaveImage", image=back, file=str(files["back"]))
    graph.add("TestSaveGeometry", geometry=decoded, file=str(files["geometry"]))
    case.server.run(graph.prompt)

    picture = torch.from_numpy(np.asarray(Image.open(assets / name).convert("RGB"))) / 255
    fitted, back = (load_file(files[what])["image"] for what in ("fitted", "back"))
    psnr_db = -10 * float((fitted - back).square().mean().log10())
    assert psnr_db > 22, "the RGB latent went through sampling unchanged"
    geometry = load_file(files["geometry"])
    assert geometry["depth"].shape == (1, *picture.shape[:2])
    assert (geometry["image"][0] - picture).abs().mean() < 0.01, "the photo itself; JPEG decoders differ a little"
    assert geometry["depth"][geometry["mask"]].isfinite().all()


def test_joint_on_real_latents_of_any_aspect(make_case, assets):
    """Depth of a real scene as condition: holes, an aspect of 4:3, the given depth back unchanged."""
    from modality_forcing.model.depth.codec import encode
    from modality_forcing.model.resize import resize_depth

    case, graph = make_case("v2"), Graph()
    depth = torch.from_numpy(np.asarray(Image.open(assets / "tum_fr2_1" / "depth_x5000.png")).astype(np.float32)) / 5000
    small, valid = resize_depth(depth[None], depth[None] > 0, 320, 240)
    want = encode(small, valid)
    assert 0.05 < float(want.isnan().float().mean()) < 0.6, "a third of this map is missing"
    case.tensors["depth"] = want
    case.tensors["noise"] = torch.randn((1, 384, 15, 20), generator=torch.manual_seed(0))
    save_file({k: v.contiguous() for k, v in case.tensors.items()}, case.file)
    schedule = graph.add("ModalityForcingSchedule", model=case.model(graph), steps=2, shift=1.1, log2_alpha=0.0)
    conditions = case.condition(graph, "d2i", case.texts(graph))
    rgb, got = case.run(graph, case.custom_sampler(graph, schedule, schedule[1], conditions, 4.0))
    assert rgb.shape == (1, 128, 15, 20) and rgb.isfinite().all()
    known = ~want.isnan()
    assert (got[known] - want[known]).abs().max() < 1e-5
    assert got.isfinite().all()
