"""What takes long shows how far it is, and ends soon after it is stopped."""

import asyncio
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import pytest
import random_model
import torch
from graphs import Graph
from modality_forcing.model.scenes import generate
from test_controls import ENSEMBLE, TILES, VIDEO, Run, geometry_of
from test_demo_nodes import FOLDER, Small

STEPS = 4000  # of a network that is done with one in some milliseconds
SOON_S = 15.0


@pytest.fixture(scope="module")
def written(server) -> Path:
    return random_model.write(server.models / FOLDER / "random")


@pytest.fixture
def small(server, written, tmp_path) -> Small:
    return Small(server, written.parent, os.path.join("random", written.name), tmp_path)


async def stopped(server, prompt) -> tuple[float, float]:
    """Interrupts a prompt when it has shown progress twice: (progress at that time 0..1, seconds until it ended)."""
    address = f"{server.address.replace('http', 'ws')}/ws?clientId={server.client_id}"
    shown: list[float] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        await asyncio.to_thread(server.queue, prompt)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                continue
            event = json.loads(message.data)
            if event["type"] == "progress" and event["data"]["value"] > 0:
                shown.append(event["data"]["value"] / event["data"]["max"])
                if len(shown) == 2:
                    start = time.monotonic()
                    await asyncio.to_thread(server.interrupt)
            if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                assert event["type"] == "execution_interrupted", event
                return shown[1], time.monotonic() - start
    raise AssertionError("the server closed the connection")


def control(small: Small, name: str, **settings) -> Graph:
    pictures = generate([40, 41, 42], (64, 96)).rgb.movedim(1, -1)
    run = Run(small, pictures, steps=STEPS)
    return saved(small, run.graph, geometry=run.add_control(name, **settings))


def in_tiles(small: Small) -> Graph:
    run = Run(small, torch.rand(1, 64, 96, 3), steps=STEPS)
    tiled = run.graph.add("ModalityForcingTileModel", model=run.schedule, tile=64, overlap=32)
    empty = run.graph.add("ModalityForcingEmptyLatent", width=96, height=64, batch_size=1)
    guider = run.graph.add("BasicGuider", model=tiled, conditioning=run.text)
    latent = run.graph.add("SamplerCustomAdvanced", guider=guider, latent_image=empty, **run.inputs)
    return saved(small, run.graph, geometry=run.graph.add("ModalityForcingDecodeDepth", latent=latent, fov_x_deg=55.0))


def views(small: Small) -> Graph:
    graph = Graph()
    geometry = geometry_of(small, graph, torch.full((1, 256, 384), 3.0))
    motion = {name: 0.0 for name in ("up", "forward", "yaw_deg", "pitch_deg", "roll_deg", "pivot", "fov_x_deg")}
    sizes = {"frames": 200, "width": 0, "height": 0, "cracks": 2, "edge_threshold": 0.1}
    view = graph.add("ModalityForcingRenderView", geometry=geometry, right=0.4, **motion, **sizes)
    return saved(small, graph, geometry=view[1])


def saved(small: Small, graph: Graph, **value) -> Graph:
    graph.add("TestSaveDepth", file=str(small.out / "never.safetensors"), **value)
    return graph


LONG = {
    "an ensemble": lambda small: control(small, "EnsembleDepth", **{**ENSEMBLE, "members": 8, "at_once": 2}),
    "tiles": lambda small: control(small, "TiledDepth", **{**TILES, "tile": 64, "overlap": 32}),
    "a video": lambda small: control(small, "VideoDepth", **{**VIDEO, "denoise": 0.5}),
    "a model in tiles": in_tiles,
    "views": views,
}


@pytest.mark.parametrize("what", list(LONG))
def test_it_shows_progress_and_can_be_stopped(small, what):
    graph = LONG[what](small)
    with ThreadPoolExecutor(1) as thread:  # the browser tests leave an event loop running in this one
        progress, seconds = thread.submit(asyncio.run, stopped(small.server, graph.prompt)).result()
    assert 0 < progress < 0.5 and seconds < SOON_S
    assert not (small.out / "never.safetensors").exists()
