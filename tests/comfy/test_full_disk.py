"""A disk that runs full while a node saves: a clear error, no partial file, and the server goes on."""

import pytest
import torch
from graphs import Graph
from modality_forcing.tasks.host.server import GraphError

resource = pytest.importorskip("resource", reason="file size limits stand in for a full disk on Unix only")
LIMIT_BYTES = 300_000  # beyond what the server logs, far below the files to save
SIZE = 512


def geometry(case, graph):
    """A slanted plane of SIZE x SIZE pixels."""
    ramp = torch.linspace(1, 2, SIZE)[None, :, None, None].expand(1, SIZE, SIZE, 3)
    case.tensors["picture"] = ramp + 0.01 * torch.rand(1, SIZE, SIZE, 1, generator=torch.manual_seed(0))
    case.write()
    settings = {"near": 1.0, "far": 10.0, "scale": 1.0, "black_is_hole": False, "fov_x_deg": 60.0}
    picture = case.load(graph, "Image", "picture")
    return graph.add("ModalityForcingGeometryFromPicture", picture=picture, meaning="metric", **settings)


def save_depth(case, graph, prefix):
    settings = {"format": "npy (32 bit)", "unit": "relative", "step": 0.0}
    graph.add("ModalityForcingSaveDepth", geometry=geometry(case, graph), filename_prefix=prefix, **settings)


def save_cloud(case, graph, prefix):
    settings = {"edge_threshold": 0.0, "far": 0.0, "stride": 1, "outlier_neighbours": 0, "outlier_deviations": 2.0}
    cloud = graph.add("ModalityForcingPointCloud", geometry=geometry(case, graph), voxel=0.0, normals=False, **settings)
    graph.add("ModalityForcingSavePointCloud", point_cloud=cloud, filename_prefix=prefix, format="ply")


def save_mesh(case, graph, prefix):
    surface = {"edge_threshold": 0.0, "far": 0.0, "stride": 1, "normals": False}
    mesh = graph.add("ModalityForcingMesh", geometry=geometry(case, graph), **surface)
    graph.add("ModalityForcingSaveMesh", mesh=mesh, filename_prefix=prefix)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limits can be set on Linux only")
@pytest.mark.parametrize("save", [save_depth, save_cloud, save_mesh])
def test_a_full_disk(make_case, save):
    case, graph, prefix = make_case("v2"), Graph(), f"full_disk_{save.__name__}/file"
    save(case, graph, prefix)
    folder = case.server.base / "output" / f"full_disk_{save.__name__}"
    before = resource.prlimit(case.server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(case.server.pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
    try:
        with pytest.raises(GraphError, match="File too large|No space left|could not write"):
            case.server.run(graph.prompt)
    finally:
        resource.prlimit(case.server.pid, resource.RLIMIT_FSIZE, before)
    assert list(folder.iterdir()) == []
    case.server.run(graph.prompt)
    (saved,) = folder.iterdir()
    assert saved.stat().st_size > LIMIT_BYTES
