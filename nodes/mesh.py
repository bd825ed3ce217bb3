"""Meshes from geometry, as core's MESH and as GLB files.

A MESH is in glTF axes, padded to one size over the batch: vertices (B,N,3), faces (B,M,3), uvs (B,N,2) with (0,0) the
top left corner of texture (B,H,W,3), vertex_colors (B,N,3) in 0..1, normals (B,N,3), vertex_counts and face_counts (B,)
the sizes without padding. Older ComfyUIs know vertices and faces only; we set the other attributes there too, so that
our own save node finds them.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from comfy_api.latest import Types, io
from torch import Tensor

from ..model.depth.usable import describe
from ..model.geometry.camera import swap_gltf_axes
from ..model.geometry.files import save_glb
from ..model.geometry.mesh import Mesh, check_faces, grid_meshes, poisson_mesh
from ..model.geometry.packets import read_geometry
from ..model.geometry.pointcloud import PointCloud, to_bytes
from .native.metadata import workflow_of
from .output_files import output_names, prefix_input, save_files
from .sockets import GEOMETRY, GEOMETRY_CATEGORY, POINT_CLOUD, surface_inputs

_PER_VERTEX = ("uvs", "vertex_colors", "normals")


class MeshFromGeometry(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingMesh",
            display_name="Mesh from Geometry",
            category=GEOMETRY_CATEGORY,
            description="Joins neighbouring pixels to a mesh that is cut at depth edges and textured with the image.",
            inputs=[
                GEOMETRY.Input("geometry"),
                *surface_inputs(),
                io.Boolean.Input("normals", default=False, tooltip="Adds normals, for smooth shading where it is lit."),
            ],
            outputs=[io.Mesh.Output(id="mesh", display_name="mesh")],
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], **settings: Any) -> io.NodeOutput:
        return io.NodeOutput(core_mesh(grid_meshes(geometry, **settings), read_geometry(geometry).image))


class PoissonMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingPoissonMesh",
            display_name="Poisson Mesh from Point Cloud",
            category=GEOMETRY_CATEGORY,
            description="Lays one closed, smooth surface through a point cloud that has normals. Needs Open3D.",
            inputs=[
                POINT_CLOUD.Input("point_cloud", tooltip="Made with 'normals' switched on."),
                io.Int.Input(
                    "depth",
                    default=9,
                    min=4,
                    max=12,
                    tooltip="Detail: 2 to this power cells along the longest side. A step more takes 4 times as long.",
                ),
                io.Float.Input(
                    "trim_percent",
                    default=5.0,
                    min=0.0,
                    max=99.0,
                    step=0.5,
                    tooltip="Share of the surface, in percent, that is cut away where the fewest points support it.",
                ),
            ],
            outputs=[io.Mesh.Output(id="mesh", display_name="mesh")],
        )

    @classmethod
    def execute(cls, point_cloud: list[PointCloud], depth: int, trim_percent: float) -> io.NodeOutput:
        meshes = [poisson_mesh(cloud, depth=depth, trim_percent=trim_percent) for cloud in point_cloud]
        return io.NodeOutput(core_mesh(meshes))


class SaveMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingSaveMesh",
            display_name="Save Mesh (GLB)",
            category=GEOMETRY_CATEGORY,
            description="Saves one GLB for each mesh, with its texture or colours on every ComfyUI. Unlit, since a "
            "photo has its light in it.",
            inputs=[io.Mesh.Input("mesh"), prefix_input("3d/mesh")],
            outputs=[
                io.String.Output(
                    id="files",
                    display_name="files",
                    is_output_list=True,
                    tooltip="Names below the output folder, as Preview 3D takes them.",
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, mesh: Any, filename_prefix: str) -> io.NodeOutput:
        write = partial(save_glb, notes=workflow_of(cls))
        saved = save_files(filename_prefix, ".glb", meshes_from_core(mesh), write)
        return io.NodeOutput(output_names(saved), ui={"3d": saved})


def core_mesh(meshes: list[Mesh], images: Tensor | None = None) -> Any:
    """Core's MESH of our meshes, with images (B,H,W,3) as the textures of those that have UVs."""
    empty = [str(index) for index, mesh in enumerate(meshes) if len(mesh.faces) == 0]
    if empty:
        raise ValueError(
            f"the mesh of image {', '.join(empty)} of {len(meshes)} has no triangles; raise the edge threshold or the "
            "far limit, or check the mask"
        )
    core = Types.MESH(_padded([swap_gltf_axes(m.vertices) for m in meshes]), _padded([m.faces for m in meshes]).long())
    core.vertex_counts = torch.tensor([len(m.vertices) for m in meshes])
    core.face_counts = torch.tensor([len(m.faces) for m in meshes])
    first = meshes[0]
    core.uvs = None if first.uvs is None else _padded([m.uvs for m in meshes])
    core.texture = None if first.uvs is None else images
    core.vertex_colors = None if first.colors is None else _padded([m.colors for m in meshes]).float() / 255.0
    core.normals = None if first.normals is None else _padded([_unit_normals(m.normals) for m in meshes])
    return core


def _padded(rows: list[np.ndarray]) -> Tensor:
    """(B,N,C): the last row is repeated, so that a reader that knows no counts sees doubles instead of stray points."""
    longest = max(map(len, rows))
    return torch.from_numpy(np.stack([np.pad(r, ((0, longest - len(r)), (0, 0)), mode="edge") for r in rows]))


def _unit_normals(normals: np.ndarray) -> np.ndarray:
    """In glTF axes; undefined ones (0) face the camera, since glTF wants unit length."""
    return swap_gltf_axes(np.where(normals.any(axis=1, keepdims=True), normals, np.float32([0.0, 0.0, -1.0])))


def meshes_from_core(core: Any) -> list[Mesh]:
    """Any node's MESH as ours. ValueError where its parts do not fit together."""
    _check_core(core)
    per_vertex = {name: getattr(core, name, None) for name in _PER_VERTEX}
    counts = getattr(core, "vertex_counts", None), getattr(core, "face_counts", None)
    texture = getattr(core, "texture", None)
    meshes = []
    for index in range(len(core.vertices)):
        vertex_count, face_count = (None if c is None else int(c[index]) for c in counts)

        def rows(values: Tensor | None, index: int = index, count: int | None = vertex_count) -> np.ndarray | None:
            return None if values is None else values[index, :count].detach().cpu().float().numpy()

        uvs, colors, normals = (rows(per_vertex[name]) for name in _PER_VERTEX)
        meshes.append(
            Mesh(
                swap_gltf_axes(rows(core.vertices)),
                core.faces[index, :face_count].cpu().numpy().astype(np.int64),
                uvs,
                None if texture is None else to_bytes(texture[index % len(texture), ..., :3].cpu().float().numpy()),
                None if colors is None else to_bytes(colors[:, :3]),
                None if normals is None else swap_gltf_axes(normals),
            )
        )
        check_faces(meshes[-1])
    return meshes


def _check_core(core: Any) -> None:
    """ValueError unless the batch and its counts fit together; the rest of each mesh is checked when it is saved."""
    vertices, faces = getattr(core, "vertices", None), getattr(core, "faces", None)
    for name, values in (("vertices", vertices), ("faces", faces)):
        if not isinstance(values, Tensor) or values.ndim != 3 or values.shape[-1] != 3 or len(values) == 0:
            raise ValueError(f"got a mesh whose {name} are {describe(values)}, expected a tensor (batch, count, 3)")
    if len(faces) != len(vertices) or faces.is_floating_point():
        raise ValueError(
            f"got a mesh with faces {describe(faces)} ({faces.dtype}) for {len(vertices)} sets of vertices"
        )
    rows = {name: getattr(core, name, None) for name in _PER_VERTEX}
    for name, values in rows.items():
        if values is not None and (not isinstance(values, Tensor) or values.shape[:2] != vertices.shape[:2]):
            raise ValueError(f"got a mesh whose {name} are {describe(values)}, for vertices {describe(vertices)}")
    for name, most in (("vertex_counts", vertices.shape[1]), ("face_counts", faces.shape[1])):
        counts = getattr(core, name, None)
        if counts is not None and (len(counts) != len(vertices) or not all(0 <= int(c) <= most for c in counts)):
            raise ValueError(f"got a mesh with {name} {counts}, expected {len(vertices)} of 0 to {most}")
    texture = getattr(core, "texture", None)
    if texture is not None and (
        not isinstance(texture, Tensor) or texture.ndim != 4 or len(texture) == 0 or texture.shape[-1] < 3
    ):
        raise ValueError(f"got a mesh with a texture {describe(texture)}, expected (batch, height, width, 3)")


NODES = [MeshFromGeometry, PoissonMesh, SaveMesh]
