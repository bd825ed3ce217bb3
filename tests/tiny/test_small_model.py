"""A trained small model as the folder that Load Small Model takes; and the one that comes with the pack."""

import json

import pytest
import torch
from modality_forcing.model.demo.image_codec import ImageCodec
from modality_forcing.model.demo.text import TextEncoder
from modality_forcing.model.network.checkpoint import load_transformer, save_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from modality_forcing.tasks import SMALL_MODEL
from modality_forcing.tasks.small_model import bundle, report
from safetensors.torch import save_file

WORDS = TextEncoder(tuple(f"{a}{b}" for a in "abcd" for b in "abcdefgh"), 6)  # 32 words: 48 wide


@pytest.fixture
def trained(tmp_path):
    """A random transformer, a codec, and data whose texts use three of the words."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_heads": 2, "mlp_size": 64, "text_width": WORDS.width}
    blocks = {"double_blocks": 1, "single_blocks": 1, "decoder_blocks": 1}
    module = ModalityForcingTransformer(TransformerConfig(**sizes, **blocks)).requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(std=0.2)
    save_transformer(module, tmp_path / "model.safetensors")
    ImageCodec(8, used=6).save(tmp_path / "codec.safetensors")
    store = tmp_path / "store"
    store.mkdir()
    texts = WORDS.tokens(["ab dh", "ca", ""]).to(torch.int16)
    save_file(
        {"rgb": torch.zeros(3, 128, 1, 1), "depth": torch.zeros(3, 256, 1, 1), "text": texts},
        store / "part-000000.safetensors",
    )
    WORDS.save(store / "words.json")
    (store / "store.json").write_text(json.dumps({"text": "tokens", "far_code": 2.0, "mirror": False}))
    return tmp_path


def test_unused_words_go_and_the_others_mean_the_same(trained, capsys):
    out = trained / "small" / "small.safetensors"
    arguments = [trained / "model.safetensors", "--codec", trained / "codec.safetensors", "--data", trained / "store"]
    assert bundle.main([*map(str, arguments), "--out", str(out)]) == 0
    words = TextEncoder.load(out.parent / "words.json")
    assert words.words == ("ab", "ca", "dh") and words.width == 16 and words.length == WORDS.length
    assert "small.safetensors" in capsys.readouterr().out
    before, after = load_transformer(trained / "model.safetensors"), load_transformer(out)
    inputs = torch.randn(2, 128, 2, 2), torch.randn(2, 256, 2, 2)
    levels = torch.tensor([0.3, 0.8]), torch.tensor([0.9, 0.1])
    prompts = ["dh ab", ""]
    with torch.no_grad():
        expected = before(*inputs, WORDS.encode(prompts), *levels)
        for got, wanted in zip(after(*inputs, words.encode(prompts), *levels), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert ImageCodec.load(out.parent / "image_codec.safetensors").used == 6


def test_the_bundled_model_is_small_and_whole():
    files = sorted(SMALL_MODEL.parent.iterdir())
    assert sum(path.stat().st_size for path in files) < 30e6
    assert {path.name for path in files} >= {SMALL_MODEL.name, "image_codec.safetensors", "words.json", "README.md"}
    module = load_transformer(SMALL_MODEL)
    words = TextEncoder.load(SMALL_MODEL.parent / "words.json")
    codec = ImageCodec.load(SMALL_MODEL.parent / "image_codec.safetensors")
    assert module.config.text_width == words.width and words.unknown_words("a red ball on the left") == []
    assert not module.img_in.weight[:, codec.used :].any() and not module.final_layer.linear.weight[codec.used :].any()


def test_a_report_names_every_part_unless_told_and_goes_into_the_card(monkeypatch, capsys):
    put = []
    monkeypatch.setattr(report, "report", lambda part: f"figures of {part}")
    monkeypatch.setattr(report, "put_into_card", put.append)
    assert report.main([]) == report.main(["family"]) == 0
    assert capsys.readouterr().out.splitlines() == ["figures of family", "figures of shipped", "figures of family"]
    assert put == ["figures of shipped"]


def test_figures_replace_those_between_the_marks_of_the_card(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(report.CARD.read_text(encoding="utf-8"), encoding="utf-8")
    for figures in ("7 %", "6.8 %"):
        report.put_into_card(figures, card)
    text = card.read_text(encoding="utf-8")
    assert f"{report.BEGIN}\n\n6.8 %\n\n{report.END}\n" in text
    before, after = report.CARD.read_text(encoding="utf-8").split(report.BEGIN)
    assert text.startswith(before) and text.endswith(after.split(report.END)[1])
    card.write_text("no marks")
    with pytest.raises(ValueError, match="0 marks"):
        report.put_into_card("6.8 %", card)
