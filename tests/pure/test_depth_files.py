"""Depth files: read back by us and by others to the stated precision; never overwritten, never half written."""

import os

import numpy as np
import pytest
import torch
from modality_forcing.model.depth.files import load_depth, save_depth
from PIL import Image, PngImagePlugin

INF, NAN = float("inf"), float("nan")
EXACT = (".exr", ".npy", ".tif")


@pytest.fixture
def depth():
    values = torch.rand(24, 32, generator=torch.Generator().manual_seed(0)) * 9 + 0.37
    values[0, :4] = torch.tensor([NAN, INF, 0.0, -1.0])
    return values


def usable(depth):
    return torch.isfinite(depth) & (depth > 0)


def needs(suffix):
    if suffix == ".exr":
        pytest.importorskip("OpenEXR")


@pytest.mark.parametrize("suffix", EXACT)
def test_float_files_are_exact(tmp_path, depth, suffix):
    needs(suffix)
    loaded = load_depth(save_depth(tmp_path / f"a{suffix}", depth, unit="metre"))
    assert loaded.depth.shape == (1, 24, 32) and loaded.warnings == ()
    assert torch.equal(loaded.valid[0], usable(depth))
    assert torch.equal(loaded.depth[0][usable(depth)], depth[usable(depth)])
    assert loaded.unit == ("" if suffix == ".npy" else "metre")


def test_a_png_has_a_step_or_a_far_end(tmp_path):
    with pytest.raises(ValueError, match="expected one of them"):
        save_depth(tmp_path / "a.png", torch.ones(2, 2), step=0.1, far=5.0)
    assert not list(tmp_path.iterdir())


def test_png_is_exact_to_half_a_step(tmp_path, depth):
    loaded = load_depth(save_depth(tmp_path / "a.png", depth))
    step = float(depth[usable(depth)].max()) / 65535
    assert torch.equal(loaded.valid[0], usable(depth)) and loaded.warnings == () and loaded.unit == "relative"
    error = (loaded.depth[0] - depth)[usable(depth)].abs().max()
    assert 0.2 * step < error <= 0.51 * step


def test_png_levels_and_metadata_by_hand(tmp_path):
    path = save_depth(tmp_path / "a.png", torch.tensor([[1.0, 2.0006, 65.535, 0.0001, INF]]), unit="metre", step=0.001)
    with Image.open(path) as image:
        assert np.asarray(image).tolist() == [[1000, 2001, 65535, 1, 0]]
        assert image.text == {"depth_meaning": "linear depth, 0 = none", "depth_unit": "metre", "depth_step": "0.001"}
    assert load_depth(path).depth[0, 0, 1].item() == pytest.approx(2.001)
    assert load_depth(path, scale=0.002).depth[0, 0, 0].item() == pytest.approx(2.0)


@pytest.mark.parametrize("suffix", (".png", *EXACT))
def test_a_transposed_map_is_not_written_by_columns(tmp_path, suffix):
    needs(suffix)
    depth = torch.arange(1.0, 13.0).reshape(3, 4).T
    torch.testing.assert_close(
        load_depth(save_depth(tmp_path / f"a{suffix}", depth)).depth[0], depth, atol=1e-3, rtol=0
    )


def test_png_never_clips(tmp_path):
    with pytest.raises(ValueError, match="larger step"):
        save_depth(tmp_path / "a.png", torch.tensor([[70.0]]), step=0.001)
    assert list(tmp_path.iterdir()) == []


def test_a_mask_and_a_map_without_depth(tmp_path, depth):
    valid = torch.zeros(24, 32, dtype=torch.bool)
    assert not load_depth(save_depth(tmp_path / "a.png", depth, valid)).valid.any()
    valid[5, 5] = True
    assert load_depth(save_depth(tmp_path / "a.npy", depth[None], valid[None])).valid.sum() == 1


def test_independent_readers_see_the_same(tmp_path, depth, monkeypatch):
    monkeypatch.setenv("OPENCV_IO_ENABLE_OPENEXR", "1")
    cv2 = pytest.importorskip("cv2")
    needs(".exr")
    expected = torch.where(usable(depth), depth, 0.0).numpy()
    for suffix in (".exr", ".tif"):
        got = cv2.imread(str(save_depth(tmp_path / f"a{suffix}", depth)), cv2.IMREAD_UNCHANGED)
        if got is None and suffix == ".exr":
            pytest.skip("this OpenCV is built without OpenEXR; version 4 has it")
        np.testing.assert_array_equal(got.reshape(24, 32), expected)
    png = cv2.imread(str(save_depth(tmp_path / "a.png", depth, step=0.001)), cv2.IMREAD_UNCHANGED)
    assert png.dtype == np.uint16 and png.shape == (24, 32)
    np.testing.assert_allclose(png * 0.001, expected, rtol=0, atol=0.0005001)


def test_tifffile_and_imageio_see_the_same(tmp_path, depth):
    tifffile, imageio = pytest.importorskip("tifffile"), pytest.importorskip("imageio.v3")
    expected = torch.where(usable(depth), depth, 0.0).numpy()
    np.testing.assert_array_equal(tifffile.imread(save_depth(tmp_path / "a.tif", depth)), expected)
    png = imageio.imread(save_depth(tmp_path / "a.png", depth, step=0.001))
    assert png.dtype == np.uint16
    np.testing.assert_allclose(png * 0.001, expected, rtol=0, atol=0.0005001)


def test_sixteen_bits_from_elsewhere_are_not_truncated(tmp_path):
    levels = np.array([[1, 256, 257, 65535]], np.uint16)
    for suffix in (".png", ".tif"):
        Image.fromarray(levels).save(tmp_path / f"a{suffix}")
        loaded = load_depth(tmp_path / f"a{suffix}", scale=0.5)
        assert loaded.depth[0].tolist() == [[0.5, 128.0, 128.5, 32767.5]]
        picture = load_depth(tmp_path / f"a{suffix}", "depth far-white", near=1.0, far=2.0)
        torch.testing.assert_close(picture.depth[0], torch.from_numpy(1 + levels / 65535).float())
    assert "no scale" in load_depth(tmp_path / "a.png").warnings[0]


def test_sixteen_bit_colour_is_not_truncated(tmp_path):
    cv2 = pytest.importorskip("cv2")
    levels = np.array([[[257, 257, 257], [4660, 4660, 4660]]], np.uint16)
    for suffix in (".png", ".tif"):
        cv2.imwrite(str(tmp_path / f"a{suffix}"), levels)
        loaded = load_depth(tmp_path / f"a{suffix}", scale=1.0)
        assert loaded.depth[0].tolist() == [[257.0, 4660.0]] and loaded.warnings == ()


def test_weak_files_are_warned_of(tmp_path):
    eight = np.arange(1, 65, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(eight).save(tmp_path / "grey.png")
    Image.fromarray(np.stack((eight, eight[::-1], eight * 0), -1)).save(tmp_path / "colour.png")
    palette = Image.fromarray(eight).convert("P")
    palette.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    palette.save(tmp_path / "palette.png")
    grey = load_depth(tmp_path / "grey.png", "disparity near-white").warnings
    assert len(grey) == 1 and "8 bits" in grey[0]
    for name in ("colour", "palette"):
        warnings = load_depth(tmp_path / f"{name}.png", "depth far-white").warnings
        assert len(warnings) == 2 and "coloured" in warnings[1]


def test_exr_channels(tmp_path):
    exr = pytest.importorskip("OpenEXR")
    values = np.array([[1.0, 2.0, 1e10]], np.float32)
    for name, channels in (
        ("z", {"Z": values, "A": values * 0}),
        ("rgb", {"R": values, "G": values, "B": values}),
        ("half", {"V": values.clip(max=4).astype(np.float16)}),
        ("odd", {"one": values, "two": values}),
    ):
        with exr.File({"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}, channels) as file:
            file.write(str(tmp_path / f"{name}.exr"))
    for name in ("z", "rgb"):
        loaded = load_depth(tmp_path / f"{name}.exr")
        # Blender's background, 1e10, is no depth.
        assert loaded.valid.tolist() == [[[True, True, False]]] and loaded.depth[0, 0, :2].tolist() == [1.0, 2.0]
        assert loaded.warnings == ()
    assert "half" in load_depth(tmp_path / "half.exr").warnings[0]
    with pytest.raises(ValueError, match="channels"):
        load_depth(tmp_path / "odd.exr")


def test_damaged_and_foreign_files_say_so(tmp_path):
    for suffix in (".png", ".tif", ".npy", ".exr"):
        needs(suffix)
        (tmp_path / f"a{suffix}").write_bytes(b"not a picture at all")
        with pytest.raises(ValueError, match=r"damaged|pickled|Cannot"):
            load_depth(tmp_path / f"a{suffix}")
    cut = save_depth(tmp_path / "b.png", torch.rand(64, 64) + 1).read_bytes()[:-2000]
    (tmp_path / "b.png").write_bytes(cut)
    with pytest.raises(ValueError, match="damaged"):
        load_depth(tmp_path / "b.png")
    np.save(tmp_path / "c.npy", np.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="one depth map"):
        load_depth(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="d.npy .*numbers"):
        load_depth(tmp_path / "d.npy")
    info = PngImagePlugin.PngInfo()
    info.add_text("depth_step", "-3")
    Image.fromarray(np.ones((2, 2), np.uint16)).save(tmp_path / "e.png", pnginfo=info)
    with pytest.raises(ValueError, match="depth_step"):
        load_depth(tmp_path / "e.png")
    with pytest.raises(FileNotFoundError, match="no depth file"):
        load_depth(tmp_path / "f.png")


def test_bad_calls_say_so(tmp_path):
    for call in (
        lambda: save_depth(tmp_path / "a.jpg", torch.ones(2, 2)),
        lambda: save_depth(tmp_path / "a.png", torch.ones(2, 2, 2)),
        lambda: save_depth(tmp_path / "a.png", torch.ones(2, 0)),
        lambda: save_depth(tmp_path / "a.png", torch.ones(2, 2), torch.ones(3, 2)),
        lambda: save_depth(tmp_path / "a.png", torch.ones(2, 2), step=0.0),
        lambda: load_depth(tmp_path / "a.png", "guess"),
        lambda: load_depth(tmp_path / "a.png", scale=NAN),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    with pytest.raises(ValueError, match="leave it out"):
        save_depth(tmp_path / "a.npy", torch.ones(2, 2), step=0.1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", (".png", *EXACT))
def test_nothing_is_overwritten(tmp_path, suffix):
    needs(suffix)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not overwritten"):
        save_depth(path, torch.ones(2, 2))
    assert path.read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match="could not write"):
        save_depth(tmp_path / "no such folder" / f"a{suffix}", torch.ones(2, 2))


@pytest.mark.skipif(os.name == "nt", reason="file size limits are a Unix thing")
@pytest.mark.parametrize("suffix", (".png", *EXACT))
def test_a_full_disk_leaves_nothing(tmp_path, suffix):
    needs(suffix)
    import resource

    depth = torch.rand(200, 200) + 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="could not write"):
            save_depth(tmp_path / f"a{suffix}", depth)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
