"""The viewers' nodes in a real ComfyUI: what the browser is sent, and that nothing is written."""

import json
import urllib.error

import numpy as np
import pytest
from graphs import Graph
from modality_forcing.tasks.host.server import GraphError

DEPTH, CLOUD = "ModalityForcingPreviewDepth", "ModalityForcingPreviewPointCloud"


@pytest.fixture
def geometry(server):
    """A graph that loads a small depth map, and its geometry."""
    depth = np.linspace(1.0, 4.0, 48, dtype=np.float32).reshape(6, 8)
    np.save(server.base / "input" / "viewer.npy", depth)
    graph = Graph()
    loaded = graph.add(
        "ModalityForcingLoadDepth", file="viewer.npy", meaning="metric", scale=0.0, near=1.0, far=10.0, fov_x_deg=60.0
    )
    return graph, loaded


def announced(outputs: dict) -> list[dict]:
    (entry,) = (item["modality_forcing"] for item in outputs.values() if "modality_forcing" in item)
    return entry


def image(server, result: str, index: int = 0) -> dict:
    data = server.get(f"/api/modality_forcing/preview?result={result}&index={index}")
    return json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])


def test_images_are_sent_when_asked_for_and_nothing_is_written(server, geometry):
    graph, loaded = geometry
    graph.add(DEPTH, geometry=loaded[0])
    temp = server.base / "temp"
    before = set(temp.glob("*")) if temp.exists() else set()
    (item,) = announced(server.run(graph.prompt))
    header = image(server, item["result"])
    assert (item["role"], item["count"], header["width"], header["height"]) == ("depth", 1, 8, 6)
    assert (set(temp.glob("*")) if temp.exists() else set()) == before
    for query in (f"result={item['result']}&index=1", "result=other&index=0"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            server.get(f"/modality_forcing/preview?{query}")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        server.get(f"/modality_forcing/preview?result={item['result']}&index=-1")


def test_a_view_and_a_connected_camera(server, geometry):
    graph, loaded = geometry
    view = {"pivot": [0, 0, 2], "distance": 2, "yaw": 20, "pitch": 0, "fov_y_deg": 50, "edge": 0, "far": 0}
    first = graph.add(CLOUD, geometry=loaded[0], screenshot="", view=json.dumps(view))
    second = graph.add(CLOUD, geometry=loaded[0], screenshot="", camera=first[2])
    cloud = {"outlier_neighbours": 0, "outlier_deviations": 2.0, "voxel": 0.0, "normals": False}
    cloud |= {"edge_threshold": 0.0, "far": 0.0, "stride": 1}
    scene = graph.add("ModalityForcingPointCloud", geometry=loaded[0], **cloud)
    seen = first[3]  # what the view shows goes back into the scene: it says where its camera stood
    grown = graph.add("ModalityForcingAddView", scene=scene[0], painted=seen, view=seen, edge_threshold=0.0)
    graph.add("PreviewImage", images=second[0])
    graph.add("PreviewAny", source=grown[2])
    outputs = server.run(graph.prompt)
    (added,) = (int(entry["text"][0]) for entry in outputs.values() if "text" in entry)
    assert added == 0  # nothing that the scene did not have
    items = [entry["modality_forcing"][0] for entry in outputs.values() if "modality_forcing" in entry]
    (camera,) = (item["camera"] for item in items if "camera" in item)
    assert camera["yaw_deg"] == pytest.approx(20, abs=1e-3) and camera["fov_y_deg"] == pytest.approx(50)
    assert camera["pivot"] == pytest.approx([0, 0, 2], abs=1e-5)


def test_what_is_not_a_view_is_a_clear_error(server, geometry):
    graph, loaded = geometry
    graph.add(CLOUD, geometry=loaded[0], screenshot="", view="{}")
    with pytest.raises(GraphError, match="ValueError: got a view whose pivot is None"):
        server.run(graph.prompt)


def test_what_is_shown_together_is_one_for_all_or_one_for_each(server, geometry):
    """Else the second cloud was shown from the first picture's camera, and a mask over the wrong map."""
    graph, loaded = geometry
    picture = graph.add("RepeatImageBatch", image=graph.add("MaskToImage", mask=loaded[1]), amount=2)
    graph.add(DEPTH, geometry=loaded[0], uncertainty=graph.add("ImageToMask", image=picture, channel="red"))
    with pytest.raises(GraphError, match="got 2 masks of uncertainty for 1 depth maps"):
        server.run(graph.prompt)
