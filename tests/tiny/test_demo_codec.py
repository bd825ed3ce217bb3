"""The small image codec: its linear start, scaling, overlap, files, and the command that trains it."""

import pytest
import torch
from modality_forcing.model.demo.image_codec import CHANNELS, PATCH, ImageCodec, psnr_db
from modality_forcing.model.demo.text import TextEncoder
from modality_forcing.model.training.__main__ import main
from modality_forcing.model.training.codec_training import seam_ratio
from safetensors.torch import save_file


def smooth_pictures(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    torch.manual_seed(0)
    codec = ImageCodec(8)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return codec.eval().requires_grad_(False)


def test_shapes_and_errors(codec):
    latent = codec.encode(torch.rand(2, 3, 32, 48))
    assert latent.shape == (2, CHANNELS, 2, 3)
    assert codec.decode(latent).shape == (2, 3, 32, 48)
    with pytest.raises(ValueError, match="multiples of 16"):
        codec.encode(torch.rand(1, 3, 40, 32))
    with pytest.raises(ValueError, match="expected \\(batch, 128, h, w\\)"):
        codec.decode(torch.rand(1, 64, 2, 2))


def test_unused_channels_are_zero_and_not_read(tmp_path):
    pictures = smooth_pictures(20)
    codec = ImageCodec(8, used=5)
    codec.start_linear(pictures)
    codec.save(tmp_path / "codec.safetensors")
    codec = ImageCodec.load(tmp_path / "codec.safetensors")
    latent = codec.encode(pictures)
    assert latent.shape[1] == CHANNELS and latent[:, :5].any() and not latent[:, 5:].any()
    noisy = latent.clone()
    noisy[:, 5:] = 3.0
    torch.testing.assert_close(codec.decode(noisy), codec.decode(latent), rtol=0, atol=0)


def test_starts_as_the_best_linear_codec():
    pictures = (smooth_pictures(60) + torch.rand(60, 3, 64, 64, generator=torch.Generator().manual_seed(3))) / 2
    codec = ImageCodec(8)
    codec.start_linear(pictures)
    decoded = codec.decode(codec.encode(pictures))
    patches = pictures.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).reshape(-1, 768)
    offset = patches.reshape(-1, 3, 256).mean((0, 2)).repeat_interleave(256)
    values = torch.linalg.svdvals((patches - offset).double())
    least = values[CHANNELS:].square().sum()  # what no linear map through 128 numbers can keep (Eckart-Young)
    assert (decoded - pictures).double().square().sum().item() == pytest.approx(least.item(), rel=1e-4)


def test_calibration_by_hand():
    codec = ImageCodec(8)
    raw = torch.randn(500, CHANNELS, 2, 2, generator=torch.Generator().manual_seed(1))
    scale = torch.linspace(0.1, 4.0, CHANNELS).view(1, -1, 1, 1)
    codec.calibrate(3.0 + raw * scale)
    latent = (3.0 + raw * scale - codec.centre) / codec.spread
    assert latent.mean().item() == pytest.approx(0, abs=1e-5)
    variance = latent.var((0, 2, 3))
    assert variance.mean().item() == pytest.approx(1, rel=1e-3)
    # A channel's variance is its deviation over the mean deviation (2.05): the square root took half of the spread.
    torch.testing.assert_close(variance, scale.flatten() / 2.05, rtol=0.08, atol=0)


def test_latent_cells_overlap_in_the_picture(codec):
    latent = torch.randn(1, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(2))
    changed = latent.clone()
    changed[0, :, 1, 1] += 1
    touched = (codec.decode(changed) - codec.decode(latent)).abs().amax((0, 1)) > 1e-6
    assert touched[16:32, 16:32].all()
    assert touched[8:40, 8:40].all()  # at least half a patch beyond its own on each side


def test_one_picture_or_many(codec):
    pictures = smooth_pictures(3)
    together = codec.decode(codec.encode(pictures))
    for i in range(3):
        torch.testing.assert_close(codec.decode(codec.encode(pictures[i : i + 1]))[0], together[i])


def test_files(codec, tmp_path):
    codec.save(tmp_path / "codec.safetensors")
    again = ImageCodec.load(tmp_path / "codec.safetensors")
    for name, tensor in codec.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"kind": "something"})
    with pytest.raises(ValueError, match="not a codec of this model"):
        ImageCodec.load(tmp_path / "other.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a safetensors file"):
        ImageCodec.load(tmp_path / "bad.safetensors")


def test_psnr_by_hand():
    white, gray = torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.9)
    gray[1] = 1.5  # clamped
    assert psnr_db(white, gray).tolist() == pytest.approx([20.0, 100.0], abs=1e-4)


def test_seam_ratio_sees_seams(codec, monkeypatch):
    pictures = torch.zeros(1, 3, 32, 32)
    error = torch.zeros(1, 3, 32, 32)
    error[..., 16:] = 1.0  # a jump at the border of two patches and a tenth of it at every other column
    error[..., ::2] += 0.1
    monkeypatch.setattr(codec, "decode", lambda latent: error)
    # At column 15 -> 16 the jump is 1 + 0.1, elsewhere 0.1.
    assert seam_ratio(codec, pictures, 0.0) == pytest.approx(1.1**2 / 0.1**2, rel=1e-4)


def test_the_command(tmp_path, capsys):
    config = tmp_path / "codec.toml"
    config.write_text(
        f'output = "{(tmp_path / "out").as_posix()}"\nscenes = 40\nsize = 32\nwidth = 8\nsteps = 3\nbatch = 4\n'
    )
    assert main(["codec", str(config)]) == 0
    assert "held-out PSNR: linear" in capsys.readouterr().out
    assert ImageCodec.load(tmp_path / "out" / "codec.safetensors").width == 8
    assert "red" in TextEncoder.load(tmp_path / "out" / "words.json").words
    assert (tmp_path / "out" / "codec.png").stat().st_size > 1000
