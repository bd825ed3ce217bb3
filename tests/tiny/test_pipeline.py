"""FLUX.2's codecs against diffusers' own pipeline, and our pipeline on them, with tiny models of the real classes."""

import pytest
import torch
from modality_forcing.model.depth.codec import encode
from modality_forcing.model.depth.ensemble import ensemble, members
from modality_forcing.model.depth.tiles import tiled
from modality_forcing.model.diffusion.sampling import sample
from modality_forcing.model.flux2_codecs import QWEN_TOKENS, Flux2Codecs
from modality_forcing.model.network.checkpoint import save_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.model.pipeline import Pipeline
from modality_forcing.model.training.codecs import open_codecs
from modality_forcing.model.training.config import CodecSection

WIDTH = 3 * 16  # three layers of a Qwen3 of 16


def write_vae(folder, dtype=torch.bfloat16):
    pytest.importorskip("transformers")  # the pipeline's module imports it
    diffusers = pytest.importorskip("diffusers")
    sizes = {"block_out_channels": (8,) * 4, "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 32}
    vae = diffusers.AutoencoderKLFlux2(**sizes)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    vae.to(dtype).save_pretrained(folder)
    return vae.eval()


def test_image_latents_are_the_pipelines(tmp_path):
    vae = write_vae(tmp_path)
    from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline

    codecs = open_codecs(CodecSection(kind="flux2", image=str(tmp_path)), "cpu")
    pictures = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    found = codecs.encode_images(pictures)
    cells = vae.encode((pictures.float() / 127.5 - 1).bfloat16()).latent_dist.mode()
    deviation = (vae.bn.running_var.float() + vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    wanted = Flux2KleinPipeline._patchify_latents(cells).float() - vae.bn.running_mean.float().view(1, -1, 1, 1)
    torch.testing.assert_close(found, wanted / deviation, rtol=1e-5, atol=1e-5)
    assert codecs.decode_images(found).shape == (2, 3, 32, 48)


def write_text(folder, dtype=torch.bfloat16):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = transformers.Qwen3Config(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=30, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).to(dtype).save_pretrained(folder / "text_encoder")
    words = ["<pad>", "<unk>", "a", "red", "ball", "user", "assistant"]
    splitter = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    splitter.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=splitter, pad_token="<pad>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{m['role']}} {{m['content']}} {% endfor %}assistant"
    tokenizer.save_pretrained(folder / "tokenizer")
    return tokenizer


def test_text_is_the_pipelines(tmp_path):
    pytest.importorskip("diffusers")
    tokenizer = write_text(tmp_path)
    import transformers
    from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline

    codecs = open_codecs(CodecSection(kind="flux2", text=str(tmp_path / "text_encoder")), "cpu")
    found = codecs.encode_text(["a red ball", ""])
    whole = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "text_encoder", dtype=torch.bfloat16)
    wanted = Flux2KleinPipeline._get_qwen3_prompt_embeds(whole, tokenizer, ["a red ball", ""])
    assert found.shape == (2, QWEN_TOKENS, WIDTH)
    assert torch.equal(found, wanted)
    given = Flux2Codecs("", (whole, tokenizer))
    assert torch.equal(given.encode_text(["a red ball", ""]), wanted) and len(whole.model.layers) == 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """FLUX.2's parts in float32 and a joint transformer, tiny."""
    folder = tmp_path_factory.mktemp("flux2")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        write_vae(folder / "vae", torch.float32)
        write_text(folder, torch.float32)
        module = ModalityForcingTransformer(TransformerConfig(32, 2, 1, 1, 1, 48, WIDTH))
        for parameter in module.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5) if parameter.ndim > 1 else parameter.fill_(1.0)
    save_transformer(module, folder / "model.safetensors")
    return folder


@pytest.fixture
def pipeline(folder):
    return Pipeline.flux2(folder / "model.safetensors", folder, dtype=torch.float32)


PICTURES = torch.rand(3, 32, 48, 3, generator=torch.Generator().manual_seed(4))


def test_joint_is_the_plain_sampler_between_the_codecs(pipeline):
    found = pipeline.joint(["a red ball", "a ball"], 32, 48, steps=3, guidance=2.0, log2_alpha=1.0, seed=7)
    noises = [torch.randn(384, 2, 3, generator=torch.Generator().manual_seed(seed)) for seed in (7, 8)]
    noise = torch.stack(noises).split([128, 256], 1)
    texts, null = pipeline.codecs.encode_text(["a red ball", "a ball"]), pipeline.codecs.encode_text([""])
    rgb, depth = sample(pipeline.transformer, *noise, texts, null, steps=3, mode="joint", cfg=2.0, log2_alpha=1.0)
    torch.testing.assert_close(found.image, pipeline.codecs.decode_images(rgb).permute(0, 2, 3, 1))
    torch.testing.assert_close(encode(found.depth).isnan(), encode(found.depth, found.valid).isnan())
    assert found.depth.shape == (2, 32, 48) and found.valid.any()


def codes(pipeline, pictures, seed=0, progress=None):
    estimate = pipeline.depth_estimator(steps=2, seed=seed, progress=progress)
    return estimate(pictures, estimate.noise(*pictures.shape[:3]))


def test_samples_do_not_depend_on_their_neighbours_or_on_where_parts_lie(folder, pipeline):
    told = []
    found = codes(pipeline, PICTURES, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]
    offloaded = Pipeline.flux2(folder / "model.safetensors", folder, dtype=torch.float32, offload=True, at_once=2)
    told.clear()
    again = codes(offloaded, PICTURES, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    torch.testing.assert_close(again, found, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(codes(pipeline, PICTURES[1:2], seed=1)[0], found[1], rtol=1e-4, atol=1e-4)
    assert (codes(pipeline, PICTURES[1:2], seed=2)[0] - found[1]).abs().max() > 0.01


def test_depth_to_image_keeps_to_what_is_known(pipeline):
    depth = torch.linspace(1, 3, 48).expand(2, 32, 48).clone()
    depth[:, :16] = torch.nan
    first, again = (pipeline.depth_to_image(depth, "a ball", steps=2, strength=s, seed=3) for s in (1.0, 1.0))
    assert torch.equal(first, again) and first.shape == (2, 32, 48, 3)
    loose, same = (pipeline.depth_to_image(depth, "a ball", steps=2, strength=0.5, seed=3) for _ in range(2))
    assert torch.equal(loose, same) and not torch.equal(loose, first)
    scaled = pipeline.depth_to_image(7 * depth, "a ball", steps=2, seed=3)
    torch.testing.assert_close(scaled, first, rtol=1e-4, atol=1e-4)  # only relative depth counts


def test_ensembles_and_tiles_take_its_estimator(pipeline):
    estimate = pipeline.depth_estimator(steps=2)
    plain = ensemble(estimate, PICTURES, members(1, False, False))
    torch.testing.assert_close(plain.depth.nan_to_num(), pipeline.image_to_depth(PICTURES, steps=2)[0])
    assert ensemble(estimate, PICTURES, members(3, True, True)).uncertainty.nan_to_num().max() > 0
    depth, _ = tiled(estimate, PICTURES[:1], 32, 16, 0.5)
    assert depth.shape == (1, 32, 48)


def test_what_cannot_be_sampled_is_said(pipeline):
    with pytest.raises(ValueError, match="got 50 x 32 pixels; expected multiples of 16"):
        pipeline.joint("a ball", 32, 50)
    with pytest.raises(ValueError, match="got 2 prompts for 3 samples"):
        pipeline.image_to_depth(PICTURES, ["a", "ball"])
