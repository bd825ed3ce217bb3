"""The numbers that web/maths is held to are Python's, and what is copied into web/ is what it was copied from."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden_web"
_spec = importlib.util.spec_from_file_location("make_golden_web", GOLDEN / "make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


@pytest.mark.parametrize("name", make.FILES)
def test_golden_file_is_what_python_gives(name):
    """Else: python tests/golden_web/make.py, and look at the difference."""
    stored = flat(json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")))
    computed = flat(json.loads(json.dumps(make.rounded(make.FILES[name]()))))
    assert stored.keys() == computed.keys()
    for key, value in computed.items():
        assert stored[key] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), key


def test_golden_numbers_by_hand():
    schedule = make.schedule()
    assert schedule["log2_alpha"][:2] == pytest.approx([0.0, 5.0])  # 32/33 : 1/33 = 32 = 2^5
    assert make.codec()["code"][:5] == pytest.approx([0.0, 0.25, 1.0, 2 - 1 / 1.5, 1.75])
    assert make.depth()["kept"][0] == 9 * 12 - 1  # one hole


def test_colour_tables_are_copies():
    web, model = ROOT / "web" / "colour_maps.json", ROOT / "model" / "depth" / "colour_maps.json"
    assert web.read_bytes() == model.read_bytes()


def flat(value: object, path: str = "") -> dict[str, object]:
    """Every leaf under its path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in flat(item, f"{path}/{key}").items()}
    return {path: value}
