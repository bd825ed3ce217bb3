"""Depth files of strangers: right values or an error that names the file, little memory, no text of theirs shown."""

import io
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from modality_forcing.model.depth.files import load_depth, save_depth
from modality_forcing.model.image_files import MOST_PIXELS, open_image
from PIL import Image, PngImagePlugin

RAMP = np.arange(12, dtype=np.float32).reshape(3, 4) + 1


def exr_file(path, parts, **header):
    """parts: {name: {channel: values}}; one without a name is a file without parts."""
    exr = pytest.importorskip("OpenEXR")
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage, **header}
    made = [exr.Part(dict(header), channels, name=name) for name, channels in parts.items()]
    exr.File(made).write(str(path))
    return path


@pytest.mark.parametrize(
    ("parts", "channel", "read"),
    [
        ({"": {"R": RAMP * 0, "G": RAMP * 0, "B": RAMP * 0, "Z": RAMP}}, "", "channel Z"),
        ({"": {"R": RAMP * 0, "Z": RAMP * 0, "x.Z": RAMP}}, "x.Z", "channel x.Z"),
        ({"": {"R": RAMP * 0, "Z": RAMP * 0, "x.Z": RAMP, "x.A": RAMP * 0}}, "x", "channel x.Z"),
        ({"": {"R": RAMP * 0, "left.depth": RAMP}}, "", "channel left.depth"),
        ({"rgb": {"RGB": np.zeros((3, 4, 3), np.float32)}, "far": {"Z": RAMP}}, "", "channel Z of part far"),
        ({"a": {"Z": RAMP * 0}, "b": {"Z": RAMP}}, "b", "channel Z of part b"),
        ({"a": {"Z": RAMP * 0}, "b": {"Z": RAMP}}, "b:Z", "channel Z of part b"),
        ({"": {"odd": RAMP}}, "", "channel odd"),
        ({"rgb": {"RGB": np.zeros((3, 4, 3), np.float32)}, "Depth": {"Y": RAMP}}, "", "channel Y of part Depth"),
        ({"rgb": {"RGB": np.zeros((3, 4, 3), np.float32)}, "x": {"Y": RAMP}}, "", "channel Y of part x"),
    ],
)
def test_exr_depth_comes_first_or_is_named(tmp_path, parts, channel, read):
    loaded = load_depth(exr_file(tmp_path / "a.exr", parts), channel=channel)
    assert torch.equal(loaded.depth[0], torch.from_numpy(RAMP)) and loaded.read == read


def test_exr_says_what_there_is_to_choose(tmp_path):
    path = exr_file(tmp_path / "a.exr", {"a": {"Z": RAMP}, "b": {"Z": RAMP, "N": RAMP}})
    assert load_depth(path).read == "channel Z of part a"
    assert "b:Z" in load_depth(path).warnings[0]
    with pytest.raises(ValueError, match="a.exr has no channel.*'q'.*a:Z, b:N, b:Z"):
        load_depth(path, channel="q")
    script = exr_file(tmp_path / "b.exr", {"<b>": {"<i>.Z": RAMP}, "c": {"<u>.Z": RAMP}})
    assert "<" not in load_depth(script).read + "".join(load_depth(script).warnings)
    with pytest.raises(ValueError, match="only EXR files have named channels"):
        load_depth(save_depth(tmp_path / "a.npy", torch.ones(2, 2)), channel="Z")


def test_exr_windows(tmp_path):
    """What a cropped render does not store is a hole; the rest lies where the picture shows it."""
    window = {"dataWindow": ((1, 2), (4, 4)), "displayWindow": ((0, 0), (7, 5))}
    loaded = load_depth(exr_file(tmp_path / "a.exr", {"": {"Z": RAMP}}, **window))
    expected = torch.full((6, 8), torch.nan)
    expected[2:5, 1:5] = torch.from_numpy(RAMP)
    torch.testing.assert_close(loaded.depth[0], expected, equal_nan=True)
    assert "window" in loaded.warnings[0]


def test_a_part_that_cannot_be_read_is_not_left_out(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.random((64, 64)).astype(np.float32) for _ in range(2)]
    path = exr_file(tmp_path / "a.exr", {"a": {"Y": noise[0]}, "b": {"Z": noise[1]}})
    content = bytearray(path.read_bytes())
    content[-9000:-8000] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.exr is damaged"):
        load_depth(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "i4", "u4", "f4"])
def test_tiffs_of_both_byte_orders(tmp_path, order, compression, kind):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RAMP.astype(order + kind), byteorder=order, compression=compression)
    if (order, kind) == (">", "u4"):  # Pillow has none of these
        with pytest.raises(ValueError, match="a.tif"):
            load_depth(path, scale=1.0)
        return
    assert load_depth(path, scale=1.0).depth[0].tolist() == RAMP.tolist()


def test_white_is_zero_means_the_same_in_8_and_16_bits(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for kind in ("u1", "u2"):
        path = tmp_path / f"{kind}.tif"
        white = np.iinfo(kind).max
        tifffile.imwrite(path, (RAMP / 12 * white).astype(kind), photometric="miniswhite")
        loaded = load_depth(path, "depth far-white", near=1.0, far=2.0)
        torch.testing.assert_close(loaded.depth[0], torch.from_numpy(2 - RAMP / 12), atol=0.005, rtol=0)
        assert "turned over" in " ".join(loaded.warnings)
    tifffile.imwrite(tmp_path / "f.tif", RAMP, photometric="miniswhite")
    with pytest.raises(ValueError, match=r"f\.tif"):
        load_depth(tmp_path / "f.tif")


def test_picture_values_outside_the_range(tmp_path):
    np.save(tmp_path / "a.npy", np.float32([[-0.02, 0.5, 1.01]]))
    assert "2 values lie outside" in load_depth(tmp_path / "a.npy", "depth far-white").warnings[0]
    np.save(tmp_path / "b.npy", RAMP)
    with pytest.raises(ValueError, match=r"b\.npy: got values from 1 to 12.*metric"):
        load_depth(tmp_path / "b.npy", "depth far-white")


SCRIPT = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize("unit", [SCRIPT, "m<b>", "a" * 40, "metre metre"])
def test_units_are_short_words(tmp_path, unit):
    info = PngImagePlugin.PngInfo()
    info.add_text("depth_unit", unit)
    Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / "a.png", pnginfo=info)
    Image.fromarray(RAMP).save(tmp_path / "a.tif", description=json.dumps({"depth_unit": unit, "depth_step": SCRIPT}))
    exr_file(tmp_path / "a.exr", {"": {"Z": RAMP}}, depth_unit=unit)
    for suffix in ("png", "exr"):
        loaded = load_depth(tmp_path / f"a.{suffix}")
        assert loaded.unit == "" and any("unit" in warning for warning in loaded.warnings)
        assert unit not in "".join(loaded.warnings)
    with pytest.raises(ValueError, match=r"a\.tif notes a depth_step") as error:
        load_depth(tmp_path / "a.tif")
    assert SCRIPT not in str(error.value)
    with pytest.raises(ValueError, match="short word"):
        save_depth(tmp_path / "b.npy", torch.ones(2, 2), unit=unit)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bombs(side):
    """Small files that say they hold side x side pixels."""
    rows = zlib.compress(bytes(side // 8 * 64))
    head = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    npy = io.BytesIO()
    np.lib.format.write_array_header_1_0(npy, {"descr": "<f4", "fortran_order": False, "shape": (side, side)})
    tiff = io.BytesIO()
    Image.fromarray(RAMP).save(tiff, format="TIFF")
    content = bytearray(tiff.getvalue())
    entries = struct.unpack("<I", content[4:8])[0]
    for entry in range(struct.unpack("<H", content[entries : entries + 2])[0]):
        start = entries + 2 + 12 * entry
        if struct.unpack("<H", content[start : start + 2])[0] in (256, 257):
            content[start : start + 12] = content[start : start + 2] + struct.pack("<HII", 4, 1, side)
    return {".png": png, ".npy": npy.getvalue(), ".tif": bytes(content)}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif", ".exr"])
def test_bombs_are_refused_by_their_header(tmp_path, suffix):
    side = int(MOST_PIXELS**0.5) + 8
    path = tmp_path / f"a{suffix}"
    if suffix == ".exr":
        exr_file(path, {"": {"Z": RAMP}})
        last = struct.pack("<iiii", 0, 0, 3, 2)
        content = path.read_bytes()
        assert content.count(last) == 2  # data and display window
        path.write_bytes(content.replace(last, struct.pack("<iiii", 0, 0, side - 1, side - 1)))
    else:
        path.write_bytes(bombs(side)[suffix])
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"a\{suffix} .*pixels"):
        load_depth(path)
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()


def test_memory_for_honest_files(tmp_path):
    """Pillow's own copy aside, which tracemalloc does not see: a few bytes a pixel."""
    depth = torch.rand(500, 1500) + 1
    for suffix, most in ((".png", 11), (".npy", 12), (".tif", 15)):
        path = save_depth(tmp_path / f"a{suffix}", depth)
        tracemalloc.start()
        load_depth(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most * depth.numel(), (suffix, peak / depth.numel())


def test_memory_of_an_exr_with_many_channels(tmp_path):
    """Only depth is read, where it is in the first part; in a later one, what is read at once has a limit."""
    pytest.importorskip("OpenEXR")
    depth = np.random.default_rng(0).random((300, 1000)).astype(np.float32) + 1
    others = {f"light{i}.{colour}": depth for i in range(8) for colour in "RGB"}
    path = exr_file(tmp_path / "a.exr", {"": {**others, "Z": depth}})
    tracemalloc.start()
    loaded = load_depth(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(loaded.depth[0].numpy(), depth) and peak < 15 * depth.size


def test_the_parts_of_an_exr_have_a_limit_together(tmp_path, monkeypatch):
    path = exr_file(tmp_path / "a.exr", {"a": {"R": RAMP, "Z": RAMP}, "b": {"Z": RAMP}})
    monkeypatch.setattr("modality_forcing.model.depth.exr._MOST_VALUES", 30)
    assert load_depth(path, channel="a:Z").read == "channel Z of part a"
    with pytest.raises(ValueError, match=r"a\.exr holds 0 million values in 2 parts.*as the first part"):
        load_depth(path, channel="b:Z")


def test_half_floats_and_integers_of_an_exr_keep_their_type(tmp_path):
    path = exr_file(tmp_path / "a.exr", {"": {"Z": RAMP.astype(np.float16), "id": RAMP.astype(np.uint32)}})
    assert "half" in "".join(load_depth(path).warnings)
    assert torch.equal(load_depth(path, channel="id").depth[0], torch.from_numpy(RAMP))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.filterwarnings("ignore:Truncated")
def test_tiffs_cut_short(tmp_path):
    """Pillow reads what is left of the list of entries, and pixels without a place as 0."""
    whole = io.BytesIO()
    Image.fromarray(RAMP).save(whole, format="TIFF", compression="tiff_adobe_deflate")
    for length in range(8, len(whole.getvalue()) - 4, 3):  # the last four are the place of another picture
        (tmp_path / "a.tif").write_bytes(whole.getvalue()[:length])
        with pytest.raises(ValueError, match=r"a\.tif"):
            load_depth(tmp_path / "a.tif")


def test_other_formats_are_not_tried(tmp_path):
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, format="EPS")
    for content in (buffer.getvalue(), b"P5 2 2 255\n1234"):
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.png is damaged, not a PNG"):
            load_depth(tmp_path / "x.png")
    Image.new("L", (8, 8), 7).save(tmp_path / "jpeg.png", format="JPEG")
    assert load_depth(tmp_path / "jpeg.png", scale=1.0).read == "8 bit grey JPEG"


def test_png_checksums(tmp_path):
    path = save_depth(tmp_path / "a.png", torch.rand(64, 64) + 1)
    content = bytearray(path.read_bytes())
    start = content.index(b"IDAT") + 20
    for position in range(start, start + 40):
        damaged = bytearray(content)
        damaged[position] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.png is damaged"):
            load_depth(path)
    with pytest.raises(ValueError, match=r"a\.png is damaged"), open_image(path):
        raise AssertionError("opened")


@pytest.mark.parametrize(
    "problem",
    [Image.DecompressionBombError(), MemoryError(), TypeError("x"), RecursionError("x"), AttributeError("x")],
)
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, problem):
    path = save_depth(tmp_path / "a.tif", torch.ones(2, 2))

    def fail(*_, **__):
        raise problem

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match=r"a\.tif is damaged or not"):
        load_depth(path)


def test_npy_maps_of_one_row_or_column(tmp_path):
    for shape in ((1, 12), (12, 1), (1, 1)):
        depth = torch.from_numpy(RAMP.reshape(-1)[: shape[0] * shape[1]].reshape(shape).copy())
        assert torch.equal(load_depth(save_depth(tmp_path / f"{shape}.npy", depth)).depth[0], depth)
    np.save(tmp_path / "f.npy", np.asfortranarray(RAMP))
    np.save(tmp_path / "b.npy", RAMP.astype(">f8")[None, ..., None])
    for name in "fb":
        assert torch.equal(load_depth(tmp_path / f"{name}.npy").depth[0], torch.from_numpy(RAMP))


def test_npy_headers(tmp_path):
    for head in (b"(" * 900, b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, " + b"9" * 60 + b")}"):
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
        with pytest.raises(ValueError, match=r"a\.npy"):
            load_depth(tmp_path / "a.npy")
