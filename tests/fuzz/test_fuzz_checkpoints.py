"""Seeded damage to checkpoints: each file loads with the weights it should, or ends in a CheckpointError that names it.

``FUZZ_CASES=10000 python run.py test tests/fuzz`` runs that many cases, FUZZ_SEED chooses others.
"""

import json
import os
import random
import struct

import pytest
import torch
from modality_forcing.model.network.checkpoint import CheckpointError, load_transformer
from modality_forcing.model.network.config import TransformerConfig
from modality_forcing.model.network.transformer import ModalityForcingTransformer
from safetensors.torch import save

CASES, SEED = int(os.environ.get("FUZZ_CASES", 400)), os.environ.get("FUZZ_SEED", "0")
TINY = TransformerConfig(32, 2, double_blocks=1, single_blocks=1, decoder_blocks=1, mlp_size=48, text_width=8)
LAYER = "single_blocks.0.linear2"
TYPES = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I8",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "X9",
    "",
    None,
    7,
]
NUMBERS = [0, 1, -1, 2, 3, 2**31, 2**63, 10**30, 1.5, None, "8", [], {}]
NOTES = [
    "{",
    "[]",
    "null",
    '{"format": 3}',
    '{"format": "nvfp4"}',
    '{"format": "float8_e4m3fn"}',
    '{"a": ' * 2000,
    "\u0000",
]


@pytest.fixture(scope="module")
def whole():
    """The bytes of a good file, plain and with one fp8 layer, and its weights."""
    torch.manual_seed(0)
    state = {k: v.contiguous() for k, v in ModalityForcingTransformer(TINY).state_dict().items()}
    fp8 = dict(state)
    fp8[f"{LAYER}.weight"] = state[f"{LAYER}.weight"].to(torch.float8_e4m3fn)
    fp8[f"{LAYER}.weight_scale"] = torch.tensor(0.5)
    fp8[f"{LAYER}.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    return state, [save(state), save(fp8)]


def split(data):
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, body):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + body


def damage_bytes(draw, data):
    """A few bytes changed, cut, doubled or put in."""
    place = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(4000, len(data)))
    kind = draw.randrange(4)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + draw.randbytes(draw.choice([1, 8, 100])) + data[place:]
    if kind == 2:
        return data[:place] + data[place + draw.choice([1, 8, 100]) :]
    return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]


def damage_header(draw, data):
    """An entry's type, shape, place or name changed; entries put in or taken out."""
    header, body = split(data)
    key = draw.choice([key for key in header if key != "__metadata__"])
    kind = draw.randrange(7)
    if kind == 0:
        header[key]["dtype"] = draw.choice(TYPES)
    elif kind == 1:
        header[key]["shape"] = [draw.choice(NUMBERS) for _ in range(draw.randrange(4))]
    elif kind == 2:
        header[key]["shape"] = header[key]["shape"][::-1] + [1] * draw.randrange(2)
    elif kind == 3:
        header[key]["data_offsets"] = [draw.choice(NUMBERS) for _ in range(draw.randrange(4))]
    elif kind == 4:
        del header[key]
    elif kind == 5:
        header[draw.choice(["single_blocks.100000.x", "dit.a", "\u0000", "x" * 10000, f"{LAYER}.scale_input"])] = (
            header.pop(key)
        )
    else:
        header["__metadata__"] = draw.choice([None, 3, {"_quantization_metadata": draw.choice(NOTES)}, {"a": 1}])
    return joined(header, body)


def damage_tensor(draw, data):
    """One tensor's numbers overwritten."""
    header, body = split(data)
    start, stop = header[draw.choice([key for key in header if key != "__metadata__"])]["data_offsets"]
    fill = draw.choice([b"\x00", b"\xff", b"\x7f", draw.randbytes(1)])
    return joined(header, body[:start] + fill * (stop - start) + body[stop:])


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(8))
def test_damaged_checkpoints(whole, tmp_path, part):
    draw, (state, files) = random.Random(f"{SEED} {part}"), whole
    loaded = 0
    for case in range(CASES // 8):
        data = draw.choice(files)
        for _ in range(draw.choice([1, 1, 2])):
            try:
                data = draw.choice([damage_bytes, damage_header, damage_tensor])(draw, data)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error):
                break  # damaged so much already that there is no header to change
        path = tmp_path / f"case_{case}.safetensors"
        path.write_bytes(data)
        try:
            module = load_transformer(path)
        except CheckpointError as error:
            assert path.name in str(error), (SEED, part, case)
        else:
            loaded += 1
            assert all(tensor.isfinite().all() for tensor in module.state_dict().values()), (SEED, part, case)
            assert {k: v.shape for k, v in module.state_dict().items()} == {k: v.shape for k, v in state.items()}
        path.unlink()
    assert loaded < CASES // 8 / 2
