"""FLUX.2's codecs against diffusers' own pipeline, with tiny random models; skipped where transformers is missing."""

import pytest
import torch
from modality_forcing.model.training.codecs import QWEN_TOKENS, Flux2Codecs
from modality_forcing.model.training.config import CodecSection


def test_image_latents_are_the_pipelines(tmp_path):
    pytest.importorskip("transformers")  # the pipeline's module imports it
    diffusers = pytest.importorskip("diffusers")
    from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline

    sizes = {"block_out_channels": (8,) * 4, "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 32}
    vae = diffusers.AutoencoderKLFlux2(**sizes)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    vae.to(torch.bfloat16).save_pretrained(tmp_path)
    codecs = Flux2Codecs(CodecSection(kind="flux2", image=str(tmp_path)), "cpu")
    pictures = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    found = codecs.encode_images(pictures)
    cells = vae.eval().encode(pictures.bfloat16() / 127.5 - 1).latent_dist.mode()
    deviation = (vae.bn.running_var.float() + vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    wanted = Flux2KleinPipeline._patchify_latents(cells).float() - vae.bn.running_mean.float().view(1, -1, 1, 1)
    torch.testing.assert_close(found, wanted / deviation, rtol=1e-5, atol=1e-5)
    assert codecs.decode_images(found).shape == (2, 3, 32, 48)


def test_text_is_the_pipelines(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = transformers.Qwen3Config(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=30, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "text_encoder")
    words = ["<pad>", "<unk>", "a", "red", "ball", "user", "assistant"]
    splitter = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    splitter.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=splitter, pad_token="<pad>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{m['role']}} {{m['content']}} {% endfor %}assistant"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    codecs = Flux2Codecs(CodecSection(kind="flux2", text=str(tmp_path / "text_encoder")), "cpu")
    found = codecs.encode_text(["a red ball", ""])
    whole = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "text_encoder", dtype=torch.bfloat16)
    wanted = Flux2KleinPipeline._get_qwen3_prompt_embeds(whole, tokenizer, ["a red ball", ""])
    assert found.shape == (2, QWEN_TOKENS, 3 * 16)
    assert torch.equal(found, wanted)
