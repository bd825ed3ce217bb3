"""Point clouds from geometry, for our own nodes, for files and for core's 3D nodes."""

from functools import partial
from io import BytesIO
from typing import Any

from comfy_api.latest import Types, io

from ..model.geometry.files import ply_bytes, save_glb, save_ply
from ..model.geometry.pointcloud import PointCloud, point_clouds
from .native.metadata import workflow_of
from .output_files import files_output, output_names, prefix_input, save_files
from .sockets import GEOMETRY, GEOMETRY_CATEGORY, POINT_CLOUD, surface_inputs

FILE_3D_PLY = getattr(io, "File3DPLY", None) or io.Custom("FILE_3D_PLY")
SAVERS = {"ply": save_ply, "glb": save_glb}


class PointCloudFromGeometry(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingPointCloud",
            display_name="Point Cloud from Geometry",
            category=GEOMETRY_CATEGORY,
            description="Makes a coloured point cloud of each image of the batch, without the points that fly between "
            "surfaces.",
            inputs=[
                GEOMETRY.Input("geometry"),
                *surface_inputs(),
                io.Int.Input(
                    "outlier_neighbours",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Statistical outlier removal: compares each point with so many neighbours (20 is usual). "
                    "0 is off.",
                ),
                io.Float.Input(
                    "outlier_deviations",
                    default=2.0,
                    min=0.01,
                    max=100.0,
                    step=0.1,
                    tooltip="Removes points farther from their neighbours than the mean by so many standard "
                    "deviations.",
                ),
                io.Float.Input(
                    "voxel",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.001,
                    tooltip="Thins to one point in each cube with edges of this length, in the unit of the depth. "
                    "0 keeps all.",
                ),
                io.Boolean.Input(
                    "normals", default=False, tooltip="Adds normals: Poisson needs them, and files then carry them."
                ),
            ],
            outputs=[
                POINT_CLOUD.Output(id="point_cloud", display_name="point cloud"),
                io.Int.Output(
                    id="points", display_name="points", is_output_list=True, tooltip="Number of points of each cloud."
                ),
            ],
        )

    @classmethod
    def execute(cls, geometry: dict[str, Any], **filters: Any) -> io.NodeOutput:
        clouds = point_clouds(geometry, **filters)
        if not any(map(len, clouds)):
            raise ValueError(
                "no point is left: the geometry has no valid pixel, or the edge threshold and the far limit take all"
            )
        return io.NodeOutput(clouds, [len(cloud) for cloud in clouds])


class PointCloudToFile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingPointCloudFile",
            display_name="Point Cloud to 3D File",
            category=GEOMETRY_CATEGORY,
            description="Point cloud as PLY in memory, for core's Preview and Save Point Cloud (ComfyUI 0.28 and "
            "newer). A batch gives one file for each image.",
            inputs=[POINT_CLOUD.Input("point_cloud")],
            outputs=[FILE_3D_PLY.Output(id="model_3d", display_name="model_3d", is_output_list=True)],
        )

    @classmethod
    def execute(cls, point_cloud: list[PointCloud]) -> io.NodeOutput:
        if not hasattr(Types, "File3D"):
            raise ValueError("this ComfyUI has no 3D file sockets; use 'Save Point Cloud (PLY, GLB)' or update it")
        _check(point_cloud)
        return io.NodeOutput([Types.File3D(BytesIO(ply_bytes(cloud)), file_format="ply") for cloud in point_cloud])


class SavePointCloud(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ModalityForcingSavePointCloud",
            display_name="Save Point Cloud (PLY, GLB)",
            category=GEOMETRY_CATEGORY,
            description="Saves one file for each cloud, binary, in glTF axes (y up, camera looks down -z) and in the "
            "unit of the depth.",
            inputs=[
                POINT_CLOUD.Input("point_cloud"),
                prefix_input("3d/cloud"),
                io.Combo.Input(
                    "format",
                    options=list(SAVERS),
                    default="ply",
                    tooltip="ply: CloudCompare, MeshLab, Blender. glb: viewers that know glTF points.",
                ),
            ],
            outputs=[files_output()],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, point_cloud: list[PointCloud], filename_prefix: str, format: str) -> io.NodeOutput:
        _check(point_cloud)
        write = partial(SAVERS[format], notes=workflow_of(cls))
        saved = save_files(filename_prefix, f".{format}", point_cloud, write)
        return io.NodeOutput(output_names(saved), ui={"3d": saved})


def _check(clouds: list[PointCloud]) -> None:
    empty = [str(index) for index, cloud in enumerate(clouds) if len(cloud) == 0]
    if empty:
        raise ValueError(
            f"the point cloud of image {', '.join(empty)} of {len(clouds)} is empty; raise the edge threshold or the "
            "far limit, or leave that image out"
        )


NODES = [PointCloudFromGeometry, PointCloudToFile, SavePointCloud]
