"""Depth data sets in the layouts of their own files, and the protocol on them: the estimator knows the answer."""

import numpy as np
import pytest
import torch
from modality_forcing.model.depth.codec import encode
from modality_forcing.model.training import benchmark
from modality_forcing.model.training.__main__ import main
from modality_forcing.model.training.benchmark import Settings, depth_to_image, image_to_depth, table
from modality_forcing.model.training.benchmark_data import SETS, crop, samples
from modality_forcing.model.training.data import DataError
from PIL import Image

SIZE = (48, 64)


def scene(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(H,W) depth in metres, 1 to 4."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return (2.5 + np.sin(3 * x + number) * np.cos(2 * y)).astype(np.float32)


def picture(number: int, height: int = 48, width: int = 64) -> Image.Image:
    """Shows the depth in all channels, as depth / 5."""
    values = np.round(scene(number, height, width) / 5 * 255).astype(np.uint8)
    return Image.fromarray(np.repeat(values[..., None], 3, axis=2))


def write_nyu(root):
    h5py, scipy_io = pytest.importorskip("h5py"), pytest.importorskip("scipy.io")
    pictures = np.stack([np.asarray(picture(n)).transpose(2, 1, 0) for n in range(4)])  # (n,3,W,H), as MATLAB writes
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["depths"] = pictures, np.stack([scene(n).T for n in range(4)])
    scipy_io.savemat(root / "splits.mat", {"testNdxs": np.array([[2], [4]]), "trainNdxs": np.array([[1], [3]])})


def save(path, image=None, depth=None, unit_m=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    if image is not None:
        image.save(path, quality=100, subsampling=0) if path.suffix.lower() == ".jpg" else image.save(path)
    if depth is not None:
        Image.fromarray(np.round(depth / unit_m).astype(np.uint16)).save(path)


def write_kitti(root):
    folder = root / "depth_selection" / "val_selection_cropped"
    for n in (1, 3):
        name = f"2011_09_26_drive_0002_sync_{{}}_000000000{n}_image_02.png"
        save(folder / "image" / name.format("image"), picture(n))
        save(folder / "groundtruth_depth" / name.format("groundtruth_depth"), depth=scene(n), unit_m=1 / 256)


def write_eth3d(root):
    for n in (1, 3):
        save(root / "pipes" / "images" / "dslr_images" / f"DSC_{n}.JPG", picture(n))
        depth = root / "pipes" / "ground_truth_depth" / "dslr_images" / f"DSC_{n}.JPG"
        depth.parent.mkdir(parents=True, exist_ok=True)
        depth.write_bytes(scene(n).tobytes())


def write_scannet(root):
    for n in (1, 3):
        save(root / "scene0707_00" / "color" / f"{n}.jpg", picture(n, 96, 128))  # twice the depth's size
        save(root / "scene0707_00" / "depth" / f"{n}.png", depth=scene(n), unit_m=0.001)


def write_diode(root):
    for n in (1, 3):
        file = root / "val" / "indoors" / "scene_00019" / "scan_00183" / f"0001{n}_indoors.png"
        save(file, picture(n))
        np.save(file.with_name(f"{file.stem}_depth.npy"), scene(n)[..., None])
        np.save(file.with_name(f"{file.stem}_depth_mask.npy"), np.ones(SIZE, np.float32))


WRITE = {"nyu": write_nyu, "kitti": write_kitti, "eth3d": write_eth3d, "scannet": write_scannet, "diode": write_diode}


class Knows:
    """A pipeline that reads depth off the pictures and loses its scale."""

    def depth_estimator(self, steps, solver, seed):
        class Estimator:
            def noise(self, count, height, width):
                return torch.zeros(count, 256, height // 16, width // 16)

            def __call__(self, pictures, noise, start=None, denoise=1.0):
                return encode(5 * pictures[..., 0])

        return Estimator()


@pytest.mark.parametrize("kind", SETS)
def test_each_set_is_read_as_its_files_lie(tmp_path, kind):
    WRITE[kind](tmp_path)
    found = list(samples(kind, tmp_path))
    assert len(found) == 2 and len({sample.name for sample in found}) == 2
    for n, sample in zip((1, 3), found, strict=True):
        assert sample.image.shape == (*SIZE, 3) and sample.depth.shape == SIZE
        np.testing.assert_allclose(sample.depth, scene(n), atol=0.003)
        np.testing.assert_allclose(5 * sample.image.mean(-1), scene(n), atol=0.06)
    result = image_to_depth(Knows(), kind, found, Settings(runs=2))
    assert result.abs_rel < 0.015 and result.delta1 == 1 and (result.pictures, result.left_out) == (2, 0)
    assert len(list(samples(kind, tmp_path, count=1))) == 1
    lines = table(kind, result, Settings(runs=2), "x").splitlines()
    assert lines[-2].startswith("| Modality Forcing | ") and lines[-3].startswith("| this model | ")


def test_unknown_depth_is_left_out_and_crops_are_compared(tmp_path):
    write_diode(tmp_path)
    [first, second] = sorted(tmp_path.rglob("*_mask.npy"))
    mask = np.zeros(SIZE, np.float32)
    np.save(first, mask)
    mask[:20] = 1
    np.save(second, mask)
    found = list(samples("diode", tmp_path))
    assert found[0].depth.isnan().all() and found[1].depth.isfinite().sum() == 20 * 64
    result = image_to_depth(Knows(), "diode", found, Settings(runs=1))
    assert (result.pictures, result.left_out) == (1, 1)
    with pytest.raises(ValueError, match="got no picture with depth to compare"):
        image_to_depth(Knows(), "diode", found[:1], Settings(runs=1))
    assert crop("nyu", 480, 640) == (slice(45, 471), slice(41, 601))  # Eigen's
    assert crop("kitti", 375, 1242) == (slice(153, 371), slice(44, 1197))  # Garg's
    # An error outside of the crop does not count inside of it.
    write_kitti(tmp_path)
    [sample, _] = samples("kitti", tmp_path)
    sample.depth[:19] = 70.0
    whole, cropped = (
        image_to_depth(Knows(), "kitti", [sample], Settings(runs=1, usual_crop=usual)) for usual in (False, True)
    )
    assert cropped.abs_rel < 0.015 < whole.abs_rel


def test_large_pictures_in_tiles(tmp_path):
    write_kitti(tmp_path)
    result = image_to_depth(Knows(), "kitti", samples("kitti", tmp_path), Settings(tile_px=32, overlap_px=16))
    assert result.abs_rel < 0.03


def test_a_list_of_pairs_and_what_is_wrong(tmp_path):
    write_scannet(tmp_path)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("scene0707_00/color/3.jpg scene0707_00/depth/3.png 577.9\nscene0707_00/color/1.jpg None\n\n")
    assert [sample.name for sample in samples("scannet", tmp_path, pairs)] == ["scene0707_00/color/3.jpg"]
    pairs.write_text("scene0707_00/color/3.jpg\n")
    with pytest.raises(DataError, match="line 1: got 'scene0707_00/color/3.jpg', expected a picture and its depth"):
        list(samples("scannet", tmp_path, pairs))
    with pytest.raises(DataError, match="no pictures with depth"):
        list(samples("diode", tmp_path))
    with pytest.raises(DataError, match="has no nyu_depth_v2_labeled.mat"):
        list(samples("nyu", tmp_path))
    (tmp_path / "scene0707_00" / "depth" / "1.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"1\.png"):
        list(samples("scannet", tmp_path))
    write_eth3d(tmp_path)
    file = tmp_path / "pipes" / "ground_truth_depth" / "dslr_images" / "DSC_1.JPG"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="holds 3071 numbers; expected 48 x 64"):
        list(samples("eth3d", tmp_path))


class Paints(Knows):
    """Makes pictures that are darker than the true ones."""

    def depth_to_image(self, depth, captions, **options):
        return (0.9 * depth / 5)[..., None].expand(*depth.shape, 3)

    def image_to_depth(self, pictures, **options):
        return 5 * pictures[..., 0], torch.ones(pictures.shape[:3], dtype=torch.bool)


class MeanAndSpread(torch.nn.Module):
    """Two features of a picture, in place of Inception's 2048."""

    def forward(self, pictures):
        values = pictures.float().flatten(1)
        return torch.stack([values.mean(1), values.std(1)], 1)


def test_pictures_from_depth_by_hand():
    pytest.importorskip("torchmetrics")
    depth = torch.stack([torch.from_numpy(scene(n) * (1 + 0.1 * n)) for n in range(6)]) / 2
    true = (depth / 5)[..., None].expand(*depth.shape, 3)
    batches = [(true[:3], depth[:3], ["a"] * 3), (true[3:], depth[3:], ["a"] * 3)]
    fid, abs_rel, count = depth_to_image(Paints(), batches, MeanAndSpread())
    assert count == 6 and abs_rel < 1e-4  # darker everywhere is only another scale
    features = [MeanAndSpread()((x.movedim(-1, 1) * 255).round()).double() for x in (true, 0.9 * true)]
    means, covariances = [f.mean(0) for f in features], [torch.cov(f.T) for f in features]
    roots = torch.linalg.eigvals(covariances[0] @ covariances[1]).sqrt().real.sum()
    wanted = (means[0] - means[1]).square().sum() + sum(c.trace() for c in covariances) - 2 * roots
    assert fid == pytest.approx(wanted.item(), rel=1e-3)
    assert "| Modality Forcing | 11.41 | 9.26 |" in benchmark.image_table(fid, abs_rel, count, "x")


def test_command_line(tmp_path, capsys):
    from modality_forcing.model.demo.image_codec import ImageCodec
    from modality_forcing.model.demo.text import TextEncoder
    from modality_forcing.model.network.checkpoint import save_transformer
    from modality_forcing.model.network.config import TransformerConfig
    from modality_forcing.model.network.transformer import ModalityForcingTransformer

    words = TextEncoder(tuple("abcdefg"), 6)
    words.save(tmp_path / "words.json")
    ImageCodec(8).save(tmp_path / "image_codec.safetensors")
    torch.manual_seed(0)
    module = ModalityForcingTransformer(TransformerConfig(32, 2, 1, 1, 1, 96, words.width))
    torch.nn.init.constant_(module.depth_final_layer.linear.weight, 0.01)
    save_transformer(module, tmp_path / "model.safetensors")
    write_diode(tmp_path)
    arguments = ["benchmark", "--model", str(tmp_path / "model.safetensors"), "--data", "diode", str(tmp_path)]
    assert main([*arguments, "--runs", "2", "--steps", "1", "--max-side", "64"]) == 0
    told = capsys.readouterr().out
    assert main([*arguments, "--runs", "2", "--steps", "2", "--max-side", "64", "--solver", "heun"]) == 0
    assert "2 samples merged, 2 Heun steps" in capsys.readouterr().out
    assert "model.safetensors on 2 pictures of diode" in told and "| JointDiT | 10.22 | 93.9 |" in told
    assert main([*arguments[:4], "kittens", str(tmp_path)]) == 2
    assert "expected one of nyu, kitti, eth3d, scannet, diode, or folder" in capsys.readouterr().err
    assert main([*arguments[:4], "folder", str(tmp_path)]) == 2
    assert "expected --fid-weights" in capsys.readouterr().err
