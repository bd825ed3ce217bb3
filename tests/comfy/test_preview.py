"""Live previews come through core's own preview path, RGB and depth side by side, on any sampler."""

import asyncio
import io
import json
import struct
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import numpy as np
import pytest
from graphs import Graph
from PIL import Image

PREVIEW_IMAGE = 1  # ComfyUI's binary event types
PREVIEW_WITH_METADATA = 4


async def previews_of(server, prompt) -> list[Image.Image]:
    """The preview pictures that a browser gets while the prompt runs."""
    pictures = []
    address = f"{server.address.replace('http', 'ws')}/ws?clientId={server.client_id}"
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        prompt_id = await asyncio.to_thread(server.queue, prompt)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                pictures.extend(_picture(message.data))
                continue
            event = json.loads(message.data)
            if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                assert event["data"]["prompt_id"] == prompt_id
                assert event["type"] == "execution_success", event
                return pictures
    raise AssertionError("the server closed the connection")


def _picture(data: bytes) -> list[Image.Image]:
    kind = struct.unpack(">I", data[:4])[0]
    if kind == PREVIEW_IMAGE:
        return [Image.open(io.BytesIO(data[8:]))]
    if kind == PREVIEW_WITH_METADATA:
        length = struct.unpack(">I", data[4:8])[0]
        return [Image.open(io.BytesIO(data[8 + length :]))]
    return []


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_previews_show_both_modalities(server, make_case, sampler):
    case, graph = make_case("v2"), Graph()
    schedule = graph.add("ModalityForcingSchedule", model=case.model(graph), steps=6, shift=1.1, log2_alpha=5.0)
    latent = case.custom_sampler(graph, schedule, schedule[1], case.texts(graph), 1.0, sampler)
    graph.add("TestSaveLatent", latent=latent, file=str(case.folder / "out.safetensors"))
    with ThreadPoolExecutor(1) as thread:  # the browser tests leave an event loop running in this one
        pictures = thread.submit(asyncio.run, previews_of(server, graph.prompt)).result()
    assert len(pictures) >= 5
    for picture in pictures:
        assert picture.width == 2 * picture.height
        values = np.asarray(picture.convert("RGB")).astype(float)
        left, right = np.split(values, 2, axis=1)
        right = right[:, 16:]  # a JPEG's colour runs over the border by a block
        assert np.ptp(left, axis=2).max() > 20, "the left half is the picture: in colour"
        assert np.ptp(right, axis=2).max() < 20, "the right half is depth: grey"
        assert right.max() > 200 and right.min() < 60, "depth takes the whole range"
