"""Procedural scenes: exact depth, determinism, true captions."""

import math

import pytest
import torch
from modality_forcing.model import scenes
from modality_forcing.model.scenes import shapes
from modality_forcing.model.scenes.camera import look, pixel_centres
from modality_forcing.model.scenes.captions import MIN_SHARE
from modality_forcing.model.scenes.draws import Draws
from modality_forcing.model.scenes.layout import Surround
from modality_forcing.model.scenes.objects import OBJECT_NAMES, Solids
from modality_forcing.model.scenes.trace import first_hits

SIZE = (32, 48)
SEEDS = range(24)


@pytest.fixture(scope="module")
def batch() -> scenes.SceneBatch:
    return scenes.generate(SEEDS, SIZE)


def _one(shape: int, centre: tuple, half: tuple) -> Solids:
    """A scene of one solid."""
    flat = torch.zeros(1, 1, dtype=torch.long)
    return Solids(
        shape=flat + shape,
        centre=torch.tensor([[centre]], dtype=torch.float32),
        half=torch.tensor([[half]], dtype=torch.float32),
        turn=torch.eye(3)[None, None],
        owner=flat,
        colour=flat,
        second=flat,
        texture=flat,
        cells=flat.float(),
        shine=flat.float(),
    )


def _open_floor() -> Surround:
    low = torch.tensor([[-math.inf, -math.inf, 0.0]])
    none = torch.zeros(1, 3, dtype=torch.long)
    return Surround(low, torch.full((1, 3), math.inf), none, none, none, none.float())


def _view(pitch: float, height: float):
    """Camera at (0, 0, height) looking along y, 90 degrees wide, 64 x 64 pixels; x and y of the rays at depth 1."""
    degrees = [torch.tensor([value]) for value in (0.0, pitch, 90.0)]
    camera = look(torch.tensor([[0.0, 0.0, height]]), *degrees, (64, 64))
    u, v = pixel_centres((64, 64), torch.device("cpu"))
    return camera, camera.rays(u, v), (2 * u - 1).double(), (2 * v - 1).double()


def test_depth_of_the_floor():
    """A point (x, y, 1) z in camera coordinates lies on the floor where z (y cos p + sin p) = height."""
    camera, rays, _, y = _view(10.0, 1.5)
    hits = first_hits(_one(-1, (0, 0, 0), (1, 1, 1)), _open_floor(), camera, rays)
    fall = y * math.cos(math.radians(10)) + math.sin(math.radians(10))
    expected = 1.5 / fall
    floor = (fall > 0) & (expected < 150)
    assert torch.equal(torch.isfinite(hits.depth[0]), floor)
    torch.testing.assert_close(hits.depth[0][floor].double(), expected[floor], rtol=3e-6, atol=0)


def test_depth_of_a_sphere():
    """Radius 1.2 at 4 m ahead of the camera: |z (x, y, 1) - (0, 0, 4)| = 1.2, nearer root."""
    camera, rays, x, y = _view(0.0, 50.0)
    hits = first_hits(_one(shapes.SPHERE, (0, 4, 50), (1.2, 1.2, 1.2)), _open_floor(), camera, rays)
    a, disc = x * x + y * y + 1, 16 - (x * x + y * y + 1) * (16 - 1.44)
    on = disc > 1e-3
    assert on.sum() > 100
    torch.testing.assert_close(hits.depth[0][on].double(), (4 - disc[on].sqrt()) / a[on], rtol=2e-5, atol=0)
    assert (hits.slot[0][disc < -1e-3] != 0).all()


def test_depth_of_box_cylinder_cone_and_capsule_in_the_centre():
    """A ray straight at the middle; cone and pyramid are half as wide there, a capsule always is."""
    origin, ray = torch.tensor([[0.0, -5.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    reach = {shape: shapes.enter(shape, origin, ray).item() for shape in range(6)}
    expected = {
        shapes.SPHERE: 4.0,
        shapes.BOX: 4.0,
        shapes.CYLINDER: 4.0,
        shapes.CONE: 4.5,
        shapes.PYRAMID: 4.5,
        shapes.CAPSULE: 4.5,
    }
    assert reach == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", range(6))
def test_hits_lie_on_the_shape_and_normals_face_the_ray(shape):
    generator = torch.Generator().manual_seed(shape)
    origin = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=1) * 4
    ray = torch.randn(4000, 3, generator=generator) * 0.5 - origin
    t = shapes.enter(shape, origin, ray)
    hit = torch.isfinite(t)
    assert hit.sum() > 500
    point = (origin + t[:, None] * ray)[hit]
    x, y, z = point.unbind(1)
    radius, taper = (x * x + y * y).sqrt(), (1 - z) / 2
    inside = {  # signed distance-like functions, 0 on the surface
        shapes.SPHERE: point.norm(dim=1) - 1,
        shapes.BOX: point.abs().amax(1) - 1,
        shapes.CYLINDER: torch.maximum(radius, z.abs()) - 1,
        shapes.CONE: torch.maximum(radius - taper, -1 - z),
        shapes.PYRAMID: torch.maximum(torch.maximum(x.abs(), y.abs()) - taper, -1 - z),
        shapes.CAPSULE: (point - torch.stack((0 * x, 0 * y, z.clamp(-0.5, 0.5)), 1)).norm(dim=1) - 0.5,
    }[shape]
    assert inside.abs().max() < 2e-4
    facing = (shapes.normal(shape, point) * ray[hit]).sum(1)
    assert (facing > 1e-3).float().mean() < 0.003  # rounding at rims only


def test_same_seed_same_scene_in_any_batch(batch):
    for start, stop, chunk in ((5, 6, None), (16, 24, 3)):
        again = scenes.generate(range(start, stop), SIZE, chunk=chunk)
        torch.testing.assert_close(again.depth, batch.depth[start:stop], rtol=1e-6, atol=0)
        torch.testing.assert_close(again.rgb, batch.rgb[start:stop], rtol=0, atol=2e-3)
        assert again.captions == batch.captions[start:stop]
        assert again.scenes == batch.scenes[start:stop]
    assert len(set(batch.captions)) > 20


def test_batch_is_complete_and_finite(batch):
    count = len(SEEDS)
    assert batch.rgb.shape == (count, 3, *SIZE) and batch.depth.shape == (count, *SIZE)
    assert batch.rgb.dtype == batch.depth.dtype == torch.float32
    assert torch.isfinite(batch.rgb).all() and batch.rgb.min() >= 0 and batch.rgb.max() <= 1
    assert not torch.isnan(batch.depth).any() and batch.depth.min() > 0.05
    assert torch.equal(torch.isinf(batch.depth), batch.sky) and torch.equal(batch.valid, ~batch.sky)
    assert batch.depth[batch.valid].max() <= 150
    indoor = torch.tensor([scene["kind"] in ("room", "tabletop") for scene in batch.scenes])
    assert 4 < indoor.sum() < 20 and not batch.sky[indoor].any() and batch.sky[~indoor].any()
    k = batch.intrinsics
    torch.testing.assert_close(k[:, 0, 0] * SIZE[1], k[:, 1, 1] * SIZE[0])  # square pixels
    assert (k[:, :2, 2] == 0.5).all() and (k[:, 2] == torch.tensor([0.0, 0.0, 1.0])).all()


def test_floor_depth_fits_the_intrinsics():
    """Unprojected floor pixels of a ground scene lie on one plane."""
    batch = scenes.generate(range(6), SIZE, kinds=("ground",), difficulty="easy")
    v, u = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in SIZE), indexing="ij")
    for b in range(6):
        k = batch.intrinsics[b]
        rays = torch.stack(((u - 0.5) / k[0, 0], (v - 0.5) / k[1, 1], torch.ones_like(u)), -1)
        land = batch.valid[b] & (batch.object_ids[b] < 0) & (batch.depth[b] < 40)  # mountains are farther
        points = (rays * batch.depth[b][..., None])[land]
        off_plane = torch.linalg.svdvals(points - points.mean(0))[-1] / len(points) ** 0.5
        assert len(points) > 100 and off_plane < 1e-4


def test_captions_are_of_the_vocabulary_and_true(batch):
    assert len(scenes.VOCABULARY) < 100
    for b, (caption, scene) in enumerate(zip(batch.captions, batch.scenes, strict=True)):
        words = scenes.tokens(caption)
        assert set(words) <= set(scenes.VOCABULARY), caption
        assert "".join(words) == caption.replace(" ", "")
        assert all(item["pixels"] >= MIN_SHARE * SIZE[0] * SIZE[1] for item in scene["objects"])
        for item in scene["objects"]:
            mask = batch.object_ids[b] == item["id"]
            assert mask.sum() == item["pixels"]
            column = (mask.nonzero()[:, 1].float().mean().item() + 0.5) / SIZE[1]
            assert (
                item["position"] == ("on the left", "in the center", "on the right")[(column > 0.38) + (column > 0.62)]
            )
            assert item["depth_m"] == pytest.approx(batch.depth[b][mask].mean().item(), rel=0.01)
        shapes_named = sorted(word for word in words if word in OBJECT_NAMES)
        visible = sorted(item["shape"] for item in scene["objects"])
        assert all(shapes_named.count(word) <= visible.count(word) for word in shapes_named)


@pytest.mark.parametrize(("style", "start"), [("short", "a"), ("full", "a"), ("attributes", "")])
def test_styles(style, start):
    captions = scenes.generate(range(4), (32, 32), style=style, antialias=False).captions
    assert all(caption.startswith(start) for caption in captions)
    assert all(caption.endswith(".") for caption in captions) == (style == "full")


def test_named_colour_is_the_colour_of_the_pixels():
    """Plain objects in daylight: the hue's strongest and weakest channel are those of the colour word."""
    channel = {"red": (0, None), "green": (1, None), "blue": (2, None), "yellow": (None, 2), "orange": (0, 2)}
    batch = scenes.generate(range(32), (48, 48), kinds=("room", "tabletop"), difficulty="easy", antialias=False)
    checked = 0
    for b, scene in enumerate(batch.scenes):
        for item in scene["objects"]:
            if item["colour"] in channel and scene["time"] == "in daylight":
                mean = batch.rgb[b][:, batch.object_ids[b] == item["id"]].mean(1)
                strongest, weakest = channel[item["colour"]]
                assert strongest is None or mean.argmax() == strongest
                assert weakest is None or mean.argmin() == weakest
                checked += 1
    assert checked >= 6


def test_easy_scenes_are_easy():
    batch = scenes.generate(range(24), (32, 32), difficulty="easy", antialias=False)
    assert all(len(scene["objects"]) <= 3 for scene in batch.scenes)
    assert all(item["texture"] == "" for scene in batch.scenes for item in scene["objects"])


def test_train_and_heldout_seeds_are_apart():
    last = 2**40 - 1
    assert [scenes.train_seed(i) for i in (0, 1, last)] == [0, 1, 2**40 - 1]
    assert [scenes.heldout_seed(i) for i in (0, 1, last)] == [2**40, 2**40 + 1, 2**41 - 1]
    for seed in (scenes.train_seed, scenes.heldout_seed):
        for wrong in (-1, last + 1):
            with pytest.raises(ValueError, match="expected 0 <= index"):
                seed(wrong)
    # High seed bits count: a held-out scene is not the training scene of the same number.
    pair = torch.tensor([scenes.train_seed(7), scenes.heldout_seed(7)])
    first, second = Draws(pair).uniform("any", 64)
    assert (first - second).abs().mean() > 0.2


def test_draws_are_uniform_and_independent():
    table = Draws(torch.arange(4096)).uniform("any", 16)  # 65536 numbers
    assert abs(table.mean().item() - 0.5) < 4 / (12 * 65536) ** 0.5  # four standard errors
    counts = torch.histc(table, 16, 0, 1)
    assert ((counts - 4096).square() / 4096).sum() < 44  # chi-square, 15 degrees of freedom, p = 1e-4
    assert torch.corrcoef(table.T).fill_diagonal_(0).abs().max() < 5 / 64  # five standard errors
    assert torch.corrcoef(torch.stack((table[:-1, 0], table[1:, 0])))[0, 1].abs() < 4 / 64


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"size": (8, 64)}, "16"),
        ({"difficulty": "hard"}, "hard"),
        ({"style": "poem"}, "poem"),
        ({"kinds": ("cave",)}, "cave"),
    ],
)
def test_wrong_input_is_named(change, text):
    with pytest.raises(ValueError, match=text):
        scenes.generate(**{"seeds": [0], "size": (32, 32), **change})
