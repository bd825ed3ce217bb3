"""The pipeline without ComfyUI beside the nodes: the same seed and settings give the same pictures and depth."""

import os

import pytest
import random_model
from graphs import Graph, relative_error
from modality_forcing.model.depth.codec import decode, encode
from modality_forcing.model.pipeline import Pipeline
from modality_forcing.model.scenes import generate
from safetensors.torch import load_file, save_file

TOLERANCE = 1e-4
SEED, STEPS = 5, 4


@pytest.mark.parametrize(("mode", "guidance"), [("joint", 3.0), ("i2d", 1.0), ("d2i", 3.0)])
def test_pipeline_equals_the_nodes(server, tmp_path, mode, guidance):
    file = random_model.write(server.models / "modality_forcing_small" / "pipeline")
    pipeline, prompt = Pipeline.small(file), "a red ball on a table" if mode != "i2d" else ""
    scenes = generate([40], (48, 64))
    picture, depth = scenes.rgb.movedim(1, -1), scenes.depth
    rgb_given = pipeline.codecs.encode_images(scenes.rgb)
    save_file({"rgb": rgb_given.contiguous(), "depth": encode(depth)}, tmp_path / "given.safetensors")

    graph = Graph()
    loaded = graph.add("ModalityForcingLoadSmall", model_name=os.path.join("pipeline", file.name))
    schedule = graph.add("ModalityForcingSchedule", model=loaded, steps=STEPS, shift=1.1, log2_alpha=2.0)
    conditions = [graph.add("CLIPTextEncode", clip=loaded[1], text=text) for text in (prompt, "")]
    if mode != "joint":
        kind, name = ("Image", "rgb") if mode == "i2d" else ("Depth", "depth")
        given = graph.add("TestLatent", file=str(tmp_path / "given.safetensors"), key=name)
        values = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, name: given}
        node = graph.add(f"ModalityForcing{kind}Condition", positive=conditions[0], negative=conditions[1], **values)
        conditions = [node[0], node[1]]
    sampled = graph.add(
        "SamplerCustom",
        model=schedule,
        add_noise=True,
        noise_seed=SEED,
        cfg=guidance,
        positive=conditions[0],
        negative=conditions[1],
        sampler=graph.add("KSamplerSelect", sampler_name="euler"),
        sigmas=schedule[1],
        latent_image=graph.add("ModalityForcingEmptyLatent", width=64, height=48, batch_size=1),
    )
    graph.add("TestSaveLatent", latent=sampled, file=str(tmp_path / "out.safetensors"))
    server.run(graph.prompt)
    rgb, codes = load_file(tmp_path / "out.safetensors")["samples"].split([128, 256], dim=1)

    if mode == "i2d":
        estimate = pipeline.depth_estimator(prompt, steps=STEPS, seed=SEED)
        assert relative_error(estimate(picture, estimate.noise(1, 48, 64)), codes) < TOLERANCE
        return
    options = {"steps": STEPS, "guidance": guidance, "seed": SEED}
    if mode == "joint":
        found = pipeline.joint(prompt, 48, 64, log2_alpha=2.0, **options)
        again = encode(found.depth, found.valid)
        of_nodes = encode(*decode(codes))
        assert relative_error(again.nan_to_num(), of_nodes.nan_to_num()) < TOLERANCE
        image = found.image
    else:
        image = pipeline.depth_to_image(depth, prompt, **options)
    decoded = pipeline.codecs.decode_images(rgb).permute(0, 2, 3, 1)
    assert relative_error(image, decoded) < TOLERANCE and image.std() > 0.01
